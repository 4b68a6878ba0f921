"""Clips: one utterance of one speaker per file, read by both trainers."""

from __future__ import annotations

import os
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from preprocessing.dataset.clip_header import CLIP_FPS as CLIP_FPS
from preprocessing.dataset.clip_header import ClipHeader
from preprocessing.dataset.manifest import read_manifest
from preprocessing.errors import UsageError, display_path
from preprocessing.faces.face_track import FaceTrack
from preprocessing.media.audio import AudioConfig
from preprocessing.media.mel import mel_spectrogram


@dataclass
class Clip:
    """One utterance, read lazily from its file.

    Each access reads only what it returns. Nothing is cached and no file stays open, so clips can be pickled and shared
    between threads and processes.

    A nonzero `offset` corrects the audio delay: everything except the header then covers only the span for which the
    file holds both video and audio.

    Every access raises a ValueError naming the file if it is damaged or unexpected.

    Attributes:
        path: the .safetensors file.
        config: the required audio front-end.
        kind: the required crop kind, None for any.
        listed: (speaker, stored frames, size) from the manifest, if known.
        offset: AV offset in frames: frame k of the file belongs to the audio of frame k - offset. 0 leaves the clip
            unchanged.
    """

    path: Path
    config: AudioConfig = AudioConfig()
    kind: str | None = None
    listed: tuple[str, int, int] | None = None
    offset: int = 0
    _header: ClipHeader | None = field(default=None, repr=False, compare=False)

    @classmethod
    def open(cls, path: Path, config: AudioConfig = AudioConfig()) -> Clip:
        """Opens a clip, reading and checking only its header and frame offsets.

        Raises:
            UsageError: the file is not a clip, is truncated or damaged, or has another version or audio front-end.
        """
        clip = cls(path, config)
        _ = clip.header
        return clip

    @property
    def header(self) -> ClipHeader:
        """The header as stored, read and checked on first use."""
        if self._header is None:
            with _open_tensors(self.path) as file:
                header = ClipHeader.parse(file.metadata() or {}, self.config, display_path(self.path))
                _check_tensors(file, header, display_path(self.path))
            self._validate(header)
            self._header = header
        return self._header

    def require_kind(self, kind: str) -> None:
        """Requires a crop kind; checked now if the header has been read, otherwise when it is."""
        self.kind = kind
        if self._header is not None:
            self._validate(self._header)

    def _validate(self, header: ClipHeader) -> None:
        if self.kind not in (None, header.crop.kind):
            raise UsageError(
                f"{display_path(self.path)} holds {header.crop.kind!r} crops, other clips in its folder {self.kind!r}; "
                "training needs a single crop kind"
            )
        if self.listed and self.listed[1:] != (header.frames, header.crop.size):
            raise UsageError(f"{display_path(self.path)} does not match its manifest entry; run preprocessing.build")
        if abs(self.offset) >= header.frames:
            raise UsageError(
                f"{display_path(self.path)} has {header.frames} frames; an offset of {self.offset} leaves none"
            )

    @property
    def speaker(self) -> str:
        """The speaker, by which splits are made."""
        return self.listed[0] if self.listed else self.header.speaker

    @property
    def frames(self) -> int:
        """Number of frames at 25 fps."""
        stored = self.listed[1] if self.listed else self.header.frames
        return stored - abs(self.offset)

    @property
    def start(self) -> float:
        """Time of the first frame in the source video, in seconds."""
        return self.header.start + self._skipped_frames / CLIP_FPS

    @property
    def size(self) -> int:
        """Side of the network input square in stored pixels."""
        return self.listed[2] if self.listed else self.header.crop.size

    @property
    def margin(self) -> int:
        """Margin around the network input square in each stored frame, in pixels."""
        return self.header.margin

    @property
    def mel(self) -> np.ndarray:
        """(80, 1 + n // 200) float32, `mel_spectrogram` of the clip's audio."""
        if self.offset:  # a frame is 3.2 columns, so stored columns would not align with the shifted audio
            return mel_spectrogram(self.audio, self.header.audio)
        return self._tensor("mel")

    @property
    def speech(self) -> np.ndarray:
        """(T,) bool, one flag per mel column; see `preprocessing.media.speech_activity.speech_columns`."""
        first = self._samples(self._skipped_audio_frames) // self.config.hop_length
        count = 1 + self._samples(self.frames) // self.config.hop_length
        return self._tensor("speech")[first : first + count].astype(bool)

    @property
    def audio(self) -> np.ndarray:
        """(n,) int16 at 16 kHz, 640 samples per frame."""
        first = self._samples(self._skipped_audio_frames)
        return self._tensor("audio")[first : first + self._samples(self.frames)]

    @property
    def track(self) -> FaceTrack:
        """The face track in source video pixels."""
        own = slice(self._skipped_frames, self._skipped_frames + self.frames)
        boxes, points, found = (self._tensor(name)[own] for name in ("boxes", "points", "found"))
        shot = np.zeros(len(found), np.int32)
        return FaceTrack(boxes, points, found.astype(bool), shot, self.header.picture, str(self.header.fps))

    @property
    def _skipped_frames(self) -> int:
        """Leading stored frames without audio after the offset correction."""
        return max(self.offset, 0)

    @property
    def _skipped_audio_frames(self) -> int:
        """Leading audio, in frames, without video after the offset correction."""
        return max(-self.offset, 0)

    def _samples(self, frames: int) -> int:
        return frames * self.config.sample_rate // CLIP_FPS

    def _tensor(self, name: str) -> np.ndarray:
        _ = self.header
        with _open_tensors(self.path) as file:
            return file.get_tensor(name)

    def jpegs(self, first: int, count: int, step: int = 1) -> list[bytes]:
        """`count` stored JPEGs, every `step`-th frame from `first` on; no other bytes are read.

        Raises:
            UsageError: the range lies outside the clip, or the file is damaged there.
        """
        stop = first + (count - 1) * step + 1
        _ = self.header
        if first < 0 or count < 1 or step < 1 or stop > self.frames:
            raise UsageError(f"{display_path(self.path)} has frames 0 to {self.frames - 1}, not {first}:{stop}")
        start_frame, span = self._skipped_frames + first, stop - first
        with _open_tensors(self.path) as file:
            begins, ends, sums = (
                file.get_slice(name)[start : start + span][::step].tolist()
                for name, start in (("offsets", start_frame), ("offsets", start_frame + 1), ("checksums", start_frame))
            )
            data = file.get_slice("frames")
            jpegs = [data[begin:end].tobytes() for begin, end in zip(begins, ends, strict=True)]
        for index, jpeg in enumerate(jpegs):
            if zlib.crc32(jpeg) != sums[index]:
                raise UsageError(f"{display_path(self.path)} is damaged in frame {first + index * step}")
        return jpegs

    def faces(self, first: int, count: int, step: int = 1) -> np.ndarray:
        """The same frames decoded: (count, S, S, 3) uint8 BGR, S the side of the square plus both margins."""
        side = self.header.side
        faces = np.empty((count, side, side, 3), np.uint8)
        for index, jpeg in enumerate(self.jpegs(first, count, step)):
            face = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
            if face is None or face.shape != (side, side, 3):
                where = f"{display_path(self.path)} is damaged in frame {first + index * step}"
                raise UsageError(f"{where}: not a {side}x{side} image")
            faces[index] = face
        return faces


@contextmanager
def _open_tensors(path: Path) -> Iterator[Any]:
    """The memory-mapped file; read errors become a ValueError that names it."""
    try:
        with safe_open(path, "numpy") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{display_path(path)} is not a prepared clip: {' '.join(str(error).split())}") from error


def _check_tensors(file: Any, header: ClipHeader, name: str) -> None:
    """Rejects tensors that do not match the header; only the offsets are actually read."""
    kinds = {key: (file.get_slice(key).get_dtype(), file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    n = header.frames
    expected = {
        "offsets": ("I64", [n + 1]), "checksums": ("U32", [n]), "audio": ("I16", [header.samples]),
        "mel": ("F32", [header.audio.n_mels, header.columns]), "speech": ("U8", [header.columns]),
        "boxes": ("F32", [n, 4]), "points": ("F32", [n, 5, 2]), "found": ("U8", [n]),
    }  # fmt: skip
    wrong = [key for key, kind in expected.items() if kinds.get(key) != kind]
    dtype, shape = kinds.get("frames", ("", []))
    if wrong or dtype != "U8" or len(shape) != 1:
        raise UsageError(f"{name} is not a prepared clip: its {', '.join(wrong or ['frames'])} do not match its header")
    offsets = file.get_tensor("offsets")
    if offsets[0] != 0 or offsets[-1] != shape[0] or (offsets[1:] <= offsets[:-1]).any():
        raise UsageError(f"{name} is not a prepared clip: its offsets are out of order")


def encode(face: np.ndarray, quality: int = 95) -> bytes:
    """Encodes a uint8 BGR image (H, W, 3) as JPEG with a quality of 1 to 100."""
    if not 1 <= quality <= 100:
        raise UsageError(f"JPEG quality must be 1 to 100, not {quality}")
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(face), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return data.tobytes()


@dataclass
class ClipDraft:
    """The frames of one clip, collected while its video is decoded.

    Attributes:
        jpegs: the encoded frames, in order.
    """

    jpegs: list[bytes] = field(default_factory=list)

    def add(self, jpeg: bytes) -> None:
        """Appends the next frame."""
        self.jpegs.append(jpeg)

    def write(self, path: Path, header: ClipHeader, samples: np.ndarray, track: FaceTrack, speech: np.ndarray) -> None:
        """Writes the clip; see `write_clip`."""
        write_clip(path, header, self.jpegs, samples, track, speech)


def write_clip(
    path: Path, header: ClipHeader, jpegs: Sequence[bytes], samples: np.ndarray, track: FaceTrack, speech: np.ndarray
) -> None:
    """Writes a clip atomically, creating its folder if needed.

    Audio and speech flags are cut or padded with silence to the length of the video.

    Args:
        path: the .safetensors file; an existing clip is replaced.
        header: its `picture` is replaced by the track's size, if known.
        jpegs: one per frame, each `header.side` pixels wide and high.
        samples: (n,) int16, or float from -1 to 1, starting at the first frame.
        track: one face per frame.
        speech: (T,) bool, one flag per mel column.

    Raises:
        OSError: the file cannot be written; nothing is left behind.
    """
    assert len(jpegs) == len(track) == header.frames
    assert all(jpegs)
    header = replace(header, picture=track.size or header.picture)
    audio = _fit_length(_int16(samples), header.samples)
    tensors: dict[str, np.ndarray] = {
        "frames": np.frombuffer(b"".join(jpegs), np.uint8),
        "offsets": np.cumsum([0, *map(len, jpegs)], dtype=np.int64),
        "checksums": np.array([zlib.crc32(jpeg) for jpeg in jpegs], np.uint32),
        "audio": audio,
        "mel": mel_spectrogram(audio, header.audio),
        "speech": _fit_length(speech.astype(np.uint8), header.columns),
        "boxes": track.boxes.astype(np.float32),
        "points": track.points.astype(np.float32),
        "found": track.found.astype(np.uint8),
    }
    # safetensors stores the raw buffer, so a transposed or reversed view would come back scrambled.
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    _write_atomic(path, save(tensors, metadata=header.metadata()))


def _int16(samples: np.ndarray) -> np.ndarray:
    if samples.dtype == np.int16:
        return samples
    return np.clip(np.rint(np.nan_to_num(samples, posinf=1, neginf=-1) * 32768), -32768, 32767).astype(np.int16)


def _fit_length(values: np.ndarray, length: int) -> np.ndarray:
    return np.pad(values[:length], (0, max(0, length - len(values))))


def _write_atomic(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        part = Path(folder) / "clip.part"
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # a crash after the rename must not leave an empty file under the final name
        os.replace(part, path)


def open_clips(folder: Path, shortest: int = 1, split: str | None = None) -> list[Clip]:
    """The training clips of a folder, sorted by path.

    With a manifest.csv these are the rows that pass, with the offsets found by the sync filter corrected; only the
    first clip is opened, the others are checked when first read. Without one, every *.safetensors file below the folder
    is opened and used unchanged.

    Args:
        folder: the output folder of preprocessing.build.
        shortest: minimum number of frames after the offset correction.
        split: use only this split of the manifest, None for all.

    Raises:
        UsageError: the folder has no usable clip, holds files that are not clips, or mixes crop kinds.
    """
    manifest = folder / "manifest.csv"
    if split is not None and not manifest.is_file():
        raise UsageError(f"{display_path(folder)} has no manifest.csv to define the split {split!r}")
    clips = _clips_from_manifest(manifest, split) if manifest.is_file() else _clips_from_folder(folder)
    clips = [clip for clip in clips if clip.frames >= shortest]
    if not clips:
        what = f"no clip of {shortest} frames or more" + ("" if split is None else f" in the split {split!r}")
        raise UsageError(f"{display_path(folder)} holds {what}; make clips with preprocessing.build")
    for clip in clips:
        clip.require_kind(clips[0].header.crop.kind)
    return clips


def _clips_from_manifest(manifest: Path, split: str | None) -> list[Clip]:
    rows = [row for row in read_manifest(manifest) if row.clip and row.passes and split in (None, row.split)]
    rows.sort(key=lambda row: row.clip)
    return [
        Clip(manifest.parent / row.clip, listed=(row.speaker, row.frames, row.size), offset=row.shift) for row in rows
    ]


def _clips_from_folder(folder: Path) -> list[Clip]:
    return [Clip.open(path) for path in sorted(folder.rglob("*.safetensors"))]


def speaker_weights(clips: Sequence[Clip]) -> np.ndarray:
    """Per-clip sampling probabilities that draw a speaker with n clips in proportion to sqrt(n)."""
    counts = Counter(clip.speaker for clip in clips)
    weights = np.array([counts[clip.speaker] ** -0.5 for clip in clips])
    return weights / weights.sum()
