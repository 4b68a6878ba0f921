"""Avatars on disk: one safetensors file with the header of a checkpoint. It holds data, never code.

The frames are embedded as a video (H.264, nearly lossless) or a PNG, or left in the file that they came from, which
must lie beside the avatar, unchanged.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from safetensors.numpy import save

from inference.files.face_source import FaceSource, Framing
from inference.live.avatar import Avatar, Origin
from inference.live.frames import MAX_BYTES, FrameStore
from inference.mesh.landmark_store import LandmarkStore
from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.faces.mesh import MESH_INDICES, Landmarks
from preprocessing.media.containers import MAX_PIXELS, MIN_SIDE
from preprocessing.media.video_writer import VideoWriter
from training.checkpoint_header import FORMAT, VERSION, open_checkpoint
from wav2lip.renderer.inner_mouth import BankConfig, InnerMouth
from wav2lip.renderer.mouth_look import ABOVE, BELOW, HALF_WIDTH, PER_UNIT

KIND = "avatar"
CRF = 8  # H.264 quality of embedded frames
MOUTHS = BankConfig()
LOOKS = round((2 * HALF_WIDTH * PER_UNIT + 1) * ((ABOVE + BELOW) * PER_UNIT + 1))  # samples of a mouth's brightness
MOUTH_SHAPES: dict[str, tuple[int, ...]] = {
    "plane": (2, 3), "ring": (20, 2), "angles": (2,), "dark": (3,), "lips": (3,), "look": (LOOKS,),
    "sharpness": (), "split": (), "number": (),
}  # fmt: skip


def save_avatar(avatar: Avatar, path: Path, *, embed: bool = True) -> None:
    """Writes an avatar, atomically.

    Args:
        embed: put the frames into the file; otherwise the file that they came from must stay beside the avatar.

    Raises:
        UsageError: without `embed`, the frames are not those of a file beside the avatar.
        MediaError: the file cannot be written.
    """
    header: dict[str, Any] = {"frames": len(avatar), "size": list(avatar.size), "fps": str(avatar.fps)}
    arrays = _landmark_arrays(avatar) | _mouth_arrays(avatar)
    if embed:
        arrays["video"] = np.frombuffer(_encoded(avatar), np.uint8)
    else:
        header["source"] = _reference(avatar.origin, path)
    fields = {"kind": KIND, "config": header, "audio": {}, "crop": {}, "step": 0}
    data = save(arrays, metadata={"format": FORMAT, "version": VERSION, "header": json.dumps(fields)})
    _write(path, data)


def open_avatar(path: Path) -> Avatar:
    """Opens a saved avatar; nothing in it is executed, and no other path or address that it names is followed.

    Raises:
        UsageError: it is missing, damaged, or not an avatar.
        MediaError: its frames cannot be decoded, or the file that they came from is missing or has changed.
    """
    with open_checkpoint(path, KIND, "numpy") as (header, file):
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    count, size, fps = _checked_header(path, header["config"])
    landmarks = _landmarks(path, arrays, count)
    try:
        mouths = _mouths(path, arrays)
        frames, origin = _frames(path, header["config"], arrays, count, size)
    except BaseException:
        landmarks.close()
        raise
    return Avatar(frames, fps, landmarks, mouths, origin)


def _landmark_arrays(avatar: Avatar) -> dict[str, np.ndarray]:
    found = [avatar.landmarks.landmarks(number) for number in range(len(avatar))]
    empty = np.zeros((len(MESH_INDICES), 3), np.float32)
    return {
        "points": np.stack([empty if one is None else one.points for one in found]).astype(np.float32),
        "presence": np.array([-1.0 if one is None else one.presence for one in found], np.float32),
    }


def _mouth_arrays(avatar: Avatar) -> dict[str, np.ndarray]:
    arrays = {f"mouth.{number}.pixels": np.ascontiguousarray(one.pixels) for number, one in enumerate(avatar.mouths)}
    for name in MOUTH_SHAPES:
        dtype = np.float32 if name == "look" else np.float64
        values = [np.asarray(getattr(one, name), dtype) for one in avatar.mouths]
        arrays[f"mouths.{name}"] = np.stack(values) if values else np.zeros((0, *MOUTH_SHAPES[name]), dtype)
    return arrays


def _encoded(avatar: Avatar) -> bytes:
    """The frames as a video file, or the only one as a PNG file."""
    if len(avatar) == 1:
        return cv2.imencode(".png", avatar.frames[0])[1].tobytes()
    with tempfile.TemporaryDirectory(prefix="wav2lip-avatar-") as folder:
        video = Path(folder, "frames.mp4")
        with VideoWriter(video, *avatar.size, avatar.fps, crf=CRF) as writer:
            for number in range(len(avatar)):
                writer.write(avatar.frames[number])
        return video.read_bytes()


def _reference(origin: Origin | None, path: Path) -> dict[str, str]:
    if origin is None or not origin.plain:
        raise UsageError("an avatar whose frames were cut, resized or resampled must embed them")
    if origin.path.resolve().parent != path.resolve().parent:
        raise UsageError(
            f"an avatar that does not embed its frames must lie beside {display_path(origin.path)}, not at "
            f"{display_path(path)}"
        )
    return {"name": origin.path.name, "sha256": _digest(origin.path)}


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, data: bytes) -> None:
    try:
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=path.parent) as folder:
            part = Path(folder, "part")
            part.write_bytes(data)
            os.replace(part, path)
    except OSError as error:
        raise MediaError(f"{display_path(path)} cannot be written: {error.strerror}") from error


def _damaged(path: Path, what: str) -> UsageError:
    return UsageError(f"the avatar {display_path(path)} is damaged: {what}")


def _checked_header(path: Path, config: Mapping[str, Any]) -> tuple[int, tuple[int, int], Fraction]:
    """Number of frames, (width, height) and frame rate."""
    try:
        count, (width, height), fps = config["frames"], config["size"], Fraction(config["fps"])
        numbers = all(type(number) is int for number in (count, width, height))
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        raise _damaged(path, "its header lacks frames, size or fps") from None
    if not numbers or min(width, height) < MIN_SIDE or width * height > MAX_PIXELS or not 1 <= fps <= 240:
        raise _damaged(path, f"size {width}x{height} at {fps} fps")
    if not 1 <= count <= max(1, MAX_BYTES // (3 * width * height)):
        raise _damaged(path, f"{count} frames of {width}x{height}")
    return count, (width, height), fps


def _array(path: Path, arrays: Mapping[str, np.ndarray], name: str, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    array = arrays.get(name)
    if array is None or array.dtype != dtype or array.shape != shape:
        raise _damaged(path, f"{name} must be {np.dtype(dtype)} of shape {shape}")
    return array


def _landmarks(path: Path, arrays: Mapping[str, np.ndarray], count: int) -> LandmarkStore:
    points = _array(path, arrays, "points", np.float32, (count, len(MESH_INDICES), 3))
    presence = _array(path, arrays, "presence", np.float32, (count,))
    if not (np.isfinite(points).all() and np.abs(points).max() < 1e5 and (presence >= 0).any()):
        raise _damaged(path, "no usable landmarks")
    store = LandmarkStore()
    for shape, seen in zip(points, presence, strict=True):
        store.append(Landmarks(shape, float(seen)) if seen >= 0 else None)
    if not store.any_face():
        store.close()
        raise _damaged(path, "no usable landmarks")
    return store


def _mouths(path: Path, arrays: Mapping[str, np.ndarray]) -> list[InnerMouth]:
    count = sum(name.endswith(".pixels") for name in arrays)
    if count > MOUTHS.size:
        raise _damaged(path, f"{count} mouths")
    values = {}
    for name, shape in MOUTH_SHAPES.items():
        dtype = np.float32 if name == "look" else np.float64
        values[name] = _array(path, arrays, f"mouths.{name}", dtype, (count, *shape))
        if not (np.isfinite(values[name]) | (name in ("look", "split"))).all():
            raise _damaged(path, f"mouths.{name} is not finite")
    return [_mouth(path, arrays, number, {name: value[number] for name, value in values.items()})
            for number in range(count)]  # fmt: skip


def _mouth(path: Path, arrays: Mapping[str, np.ndarray], number: int, values: dict[str, Any]) -> InnerMouth:
    pixels = arrays.get(f"mouth.{number}.pixels")
    valid = pixels is not None and pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    if pixels is None or not valid or not 1 <= min(pixels.shape[:2]) <= max(pixels.shape[:2]) <= MOUTHS.max_side + 1:
        raise _damaged(path, f"mouth {number}")
    scalars = {"number": int(values["number"]), "sharpness": float(values["sharpness"])}
    return InnerMouth(**values | scalars | {"split": float(values["split"]), "pixels": pixels})


def _frames(
    path: Path, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray], count: int, size: tuple[int, int]
) -> tuple[FrameStore, Origin | None]:
    if "source" in config:
        source = _source(path, config["source"])
        return _decoded(path, source, count, size), Origin(source, True)
    video = arrays.get("video")
    if video is None or video.dtype != np.uint8 or video.ndim != 1:
        raise _damaged(path, "no frames")
    with tempfile.TemporaryDirectory(prefix="wav2lip-avatar-") as folder:
        file = Path(folder, "frames")
        file.write_bytes(video.data)
        return _decoded(path, file, count, size), None


def _source(path: Path, reference: object) -> Path:
    """The file beside the avatar that its frames are in."""
    values = reference if isinstance(reference, dict) else {}
    name, digest = values.get("name"), values.get("sha256")
    if not isinstance(name, str) or name != Path(name).name or name in ("", ".", ".."):
        raise _damaged(path, "the name of its video")
    file = path.parent / name
    if not file.is_file():
        raise MediaError(f"the avatar {display_path(path)} needs {display_path(name)} beside it")
    if _digest(file) != digest:
        raise MediaError(f"{display_path(file)} is not the file that {display_path(path)} was made from")
    return file


def _decoded(path: Path, file: Path, count: int, size: tuple[int, int]) -> FrameStore:
    source = FaceSource(file, Framing())
    if source.size != size:
        raise _damaged(path, f"its frames are {source.size[0]}x{source.size[1]}, not {size[0]}x{size[1]}")
    store = FrameStore(size)
    try:
        for frame in source.frames(0, count):
            store.append(frame)
        if len(store) != count:
            raise _damaged(path, f"{len(store)} frames instead of {count}")
    except BaseException:
        store.close()
        raise
    return store
