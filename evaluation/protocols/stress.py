"""Hard inputs made from two ordinary videos and audio: the kind of input that users bring."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from scipy.io import wavfile

from evaluation.metrics.face_crops import open_source
from evaluation.protocols.stress_files import file_inputs
from preprocessing.dataset.clip_header import CLIP_FPS
from preprocessing.errors import UsageError, display_path
from preprocessing.faces.detectors import load_detector
from preprocessing.faces.face_track import FaceDetector
from preprocessing.media.audio import as_int16, load_audio
from preprocessing.media.video_reader import read_frames
from preprocessing.media.video_writer import VideoWriter

SECONDS = 3  # length of each input
MAX_SIDE = 640  # pixels
RATE = 16000
TURN = np.deg2rad(60)  # yaw of the simulated profile
ROLL = 35  # degrees
SMALL, WIDE = 24, (640, 360)  # pixels: height of the small face, and size of its frame
SLOW, ODD = Fraction(15), (321, 241)  # frame rate and frame size
SCENE, GAP = 15, 13  # frames between cuts, and frames without a face


@dataclass(frozen=True)
class HardInput:
    """A hard input.

    Attributes:
        kind: what makes it hard, e.g. "dark".
        face: a video or a photo.
        audio: the driving audio.
    """

    kind: str
    face: Path
    audio: Path


@dataclass(frozen=True)
class StressSubject:
    """N frames that all show one person's face.

    Attributes:
        frames: (N, H, W, 3) uint8 BGR at 25 fps.
        boxes: (N, 4) x1, y1, x2, y2 of the face.
        mouths: (N, 2) x, y of the mouth center.
    """

    frames: np.ndarray
    boxes: np.ndarray
    mouths: np.ndarray

    @classmethod
    def open(cls, path: Path, detector: FaceDetector) -> StressSubject:
        """Load the longest run with a face in a video's first seconds.

        Raises:
            MediaError: see `evaluation.metrics.face_crops.open_source`.
        """
        source = open_source(path, detector, SECONDS)
        last = source.start + len(source.track)
        decoded = read_frames(path, fps=Fraction(CLIP_FPS), end=(last + 1) / CLIP_FPS, max_side=MAX_SIDE)
        frames = np.stack([frame for index, frame in enumerate(decoded) if source.start <= index < last])
        count, scale = len(frames), np.array([frames.shape[2], frames.shape[1]]) / source.track.size
        mouths = (source.track.points[:count, 3:].mean(1) + 0.5) * scale - 0.5
        return cls(frames, source.track.boxes[:count] * np.tile(scale, 2), mouths)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frames."""
        return self.frames.shape[2], self.frames.shape[1]

    @property
    def face(self) -> tuple[float, float]:
        """Median width and height of the face in pixels."""
        width, height = np.median(self.boxes[:, 2:] - self.boxes[:, :2], axis=0)
        return float(width), float(height)


def profile(person: StressSubject) -> np.ndarray:
    """A simulated head turn: the frame as a plane, rotated by 60 degrees about a vertical axis through the mouth.

    The face is foreshortened in perspective like a profile, but without self-occlusion.
    """
    x, y = person.mouths.mean(0)
    far = 1.2 * person.size[0]  # camera distance, beyond the nearest point of the rotated frame
    center, back = (np.array([[1, 0, sign * x], [0, 1, sign * y], [0, 0, 1.0]]) for sign in (-1, 1))
    turn = np.array([[far * np.cos(TURN), 0, 0], [0, far, 0], [np.sin(TURN), 0, far]])
    matrix, border = back @ turn @ center, cv2.BORDER_REPLICATE
    return np.stack([cv2.warpPerspective(each, matrix, person.size, borderMode=border) for each in person.frames])


def small(person: StressSubject) -> np.ndarray:
    """A face 24 pixels high in a wide frame whose background is the same frame, enlarged and blurred."""
    scale = min(SMALL / person.face[1], 0.9 * WIDE[0] / person.size[0], 0.9 * WIDE[1] / person.size[1])
    size = max(2, round(person.size[0] * scale)), max(2, round(person.size[1] * scale))
    left, top = (WIDE[0] - size[0]) // 3, (WIDE[1] - size[1]) // 3
    made = []
    for frame in person.frames:
        coarse = cv2.GaussianBlur(_cover(frame, (WIDE[0] // 16, WIDE[1] // 16)), (0, 0), 1.5)
        wide = cv2.resize(coarse, WIDE)
        wide[top : top + size[1], left : left + size[0]] = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        made.append(wide)
    return np.stack(made)


def dark(person: StressSubject) -> np.ndarray:
    """A quarter of the light, gamma 2 and sensor noise."""
    table = (255 * 0.25 * (np.arange(256) / 255) ** 2).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 2, person.frames.shape[1:])
    made = [np.roll(noise, 7 * index, (0, 1)) + table[each] for index, each in enumerate(person.frames)]
    return np.clip(np.rint(made), 0, 255).astype(np.uint8)


def occluded(person: StressSubject) -> np.ndarray:
    """A gray bar, a third of the face high, that moves up and down across the mouth once per second."""
    width, height = person.face
    made = person.frames.copy()
    for index, (frame, (x, y)) in enumerate(zip(made, person.mouths, strict=True)):
        middle = y + 0.4 * height * np.sin(2 * np.pi * index / CLIP_FPS)
        corners = ((x - 0.7 * width, middle - height / 6), (x + 0.7 * width, middle + height / 6))
        start, end = ((round(float(right)), round(float(down))) for right, down in corners)
        cv2.rectangle(frame, start, end, (96, 104, 112), -1)
    return made


def gaps(person: StressSubject) -> np.ndarray:
    """Half a second of plain gray at the start and in the middle."""
    made, middle = person.frames.copy(), len(person.frames) // 2
    made[:GAP] = made[middle : middle + GAP] = 128
    return made


def cuts(one: StressSubject, other: StressSubject) -> np.ndarray:
    """Hard cuts between two people, every 0.6 s."""
    count = min(len(one.frames), len(other.frames))
    scenes = [(one, other)[index // SCENE % 2].frames[index] for index in range(count)]
    return np.stack([_cover(scene, one.size) for scene in scenes])


def two_people(one: StressSubject, other: StressSubject) -> np.ndarray:
    """Two people side by side, at the frame height of the first."""
    height = one.size[1]
    width = max(2, round(other.size[0] * height / other.size[1]))
    pairs = zip(one.frames, other.frames, strict=False)  # until the shorter one ends
    return np.stack([np.hstack([left, cv2.resize(right, (width, height))]) for left, right in pairs])


def slow(person: StressSubject) -> np.ndarray:
    """15 fps at 321x241 pixels."""
    chosen = np.arange(0, len(person.frames), float(CLIP_FPS / SLOW)).astype(int)
    return np.stack([_cover(each, ODD) for each in person.frames[chosen]])


def rolled(person: StressSubject) -> np.ndarray:
    """A head on its side: the frame turned by 35 degrees about the mouth."""
    x, y = person.mouths.mean(0)
    turn = cv2.getRotationMatrix2D((float(x), float(y)), ROLL, 1.0)
    return np.stack(
        [cv2.warpAffine(each, turn, person.size, borderMode=cv2.BORDER_REPLICATE) for each in person.frames]
    )


def cut_off(person: StressSubject) -> np.ndarray:
    """A face of which the border takes the outer third."""
    left = int(np.median(person.boxes[:, 0]) + person.face[0] / 3)
    return np.ascontiguousarray(person.frames[:, :, max(left, 0) :])


SINGLE: dict[str, Callable[[StressSubject], np.ndarray]] = {
    "profile": profile, "small": small, "dark": dark, "occluded": occluded, "gaps": gaps, "slow-odd": slow,
    "rolled": rolled, "cut off": cut_off,
}  # fmt: skip
PAIRED: dict[str, Callable[[StressSubject, StressSubject], np.ndarray]] = {"cuts": cuts, "two-people": two_people}


def make_hard_inputs(
    face: Path, second: Path, audio: Path, folder: Path, detector: FaceDetector | None = None
) -> list[HardInput]:
    """Make hard inputs of three seconds each from two people's videos and audio.

    The kinds are those of `SINGLE` and `PAIRED`, a photo, the unchanged video with silence and with music, and the
    files of `stress_files`.

    Args:
        folder: output folder, created if missing.
        detector: face detector; None for "auto".

    Raises:
        MediaError: a file cannot be read, or has no face for a full second.
    """
    folder.mkdir(parents=True, exist_ok=True)
    detector = detector or load_detector()
    one, other = (StressSubject.open(path, detector) for path in (face, second))
    speech = _write_wav(folder / "speech.wav", load_audio(audio)[: SECONDS * RATE])
    made = {kind: change(one) for kind, change in SINGLE.items()}
    made |= {kind: change(one, other) for kind, change in PAIRED.items()}
    inputs = [HardInput(kind, _write(folder / f"{kind}.mp4", frames, kind), speech) for kind, frames in made.items()]
    photo = folder / "photo.png"
    photo.write_bytes(cv2.imencode(".png", one.frames[len(one.frames) // 2])[1].tobytes())
    plain = _write(folder / "plain.mp4", one.frames)
    sounds = {"silence": np.zeros(SECONDS * RATE, np.float32), "music": music(SECONDS)}
    written = {kind: _write_wav(folder / f"{kind}.wav", sound) for kind, sound in sounds.items()}
    return [
        *inputs,
        HardInput("photo", photo, speech),
        *(HardInput(kind, plain, path) for kind, path in written.items()),
        *(HardInput(*files) for files in file_inputs(plain, photo, speech, folder)),
    ]


def music(seconds: float) -> np.ndarray:
    """Two triads per second with a drum beat on each: (n,) float32 at 16 kHz, -1 to 1."""
    time, rng = np.arange(round(seconds * RATE)) / RATE, np.random.default_rng(0)
    roots, within = 220 * 2 ** (np.array([0, 5, 7, 3])[(2 * time).astype(int) % 4] / 12), time % 0.5
    chord = sum(np.sin(2 * np.pi * np.cumsum(roots * 2 ** (step / 12)) / RATE) for step in (0, 4, 7))
    drum = rng.normal(0, 1, len(time)) * np.exp(-within / 0.03) + np.sin(2 * np.pi * 60 * within) * np.exp(
        -within / 0.1
    )
    return (0.12 * chord * np.exp(-within / 0.4) + 0.25 * drum).clip(-1, 1).astype(np.float32)


def read_hard_inputs(path: Path) -> list[HardInput]:
    """Read a custom list: CSV with the columns kind, face and audio; paths are relative to the list's folder.

    Raises:
        UsageError: unreadable file, missing column, empty cell or no rows.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            if missing := {"kind", "face", "audio"} - set(reader.fieldnames or ()):
                raise UsageError(f"missing column {' and '.join(sorted(missing))} in {display_path(path)}")
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, csv.Error, UnicodeError) as error:
        raise UsageError(f"cannot read {display_path(path)} as CSV: {error}") from error
    for line, row in rows:
        if empty := [name for name in ("kind", "face", "audio") if not row[name].strip()]:
            raise UsageError(f"{display_path(path)}:{line}: {empty[0]} is empty")
    if not rows:
        raise UsageError(f"{display_path(path)} has no inputs")
    return [HardInput(row["kind"], path.parent / row["face"], path.parent / row["audio"]) for _, row in rows]


def _cover(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale to cover (width, height) and center-crop, keeping the aspect ratio."""
    scale = max(size[0] / frame.shape[1], size[1] / frame.shape[0])
    whole = max(size[0], round(frame.shape[1] * scale)), max(size[1], round(frame.shape[0] * scale))
    left, top = (whole[0] - size[0]) // 2, (whole[1] - size[1]) // 2
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(frame, whole, interpolation=interpolation)[top : top + size[1], left : left + size[0]].copy()


def _write(path: Path, frames: Sequence[np.ndarray] | np.ndarray, kind: str = "") -> Path:
    height, width = frames[0].shape[:2]
    with VideoWriter(path, width, height, SLOW if kind == "slow-odd" else Fraction(CLIP_FPS)) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def _write_wav(path: Path, samples: np.ndarray) -> Path:
    """(n,) float, -1 to 1, at 16 kHz."""
    wavfile.write(path, RATE, as_int16(samples))
    return path
