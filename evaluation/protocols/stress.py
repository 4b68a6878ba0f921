"""Hard inputs, made of two ordinary videos and a sound: what users bring, and what a lip-sync program must survive."""

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
from preprocessing.dataset.clip_header import CLIP_FPS
from preprocessing.errors import UsageError, display_path
from preprocessing.faces.detectors import load_detector
from preprocessing.faces.face_track import FaceDetector
from preprocessing.media.audio import as_int16, load_audio
from preprocessing.media.video_reader import read_frames
from preprocessing.media.video_writer import VideoWriter

SECONDS = 3  # of each input
MAX_SIDE = 640  # pixels
RATE = 16000
TURN = np.deg2rad(60)  # of the simulated profile
SMALL, WIDE = 24, (640, 360)  # pixels: height of the small face, and size of the picture around it
SLOW, ODD = Fraction(15), (321, 241)  # frames a second, and size of the picture
SCENE, GAP = 15, 13  # frames of a scene between cuts, and without a face


@dataclass(frozen=True)
class HardInput:
    """A hard input.

    Attributes:
        kind: what is hard about it, e.g. "dark".
        face: a video or a photo. audio: what it is to say.
    """

    kind: str
    face: Path
    audio: Path


@dataclass(frozen=True)
class StressSubject:
    """Somebody who is seen in each of N pictures.

    Attributes:
        pictures: (N, H, W, 3) uint8 BGR, 25 a second.
        boxes: (N, 4) x1, y1, x2, y2 of the face. mouths: (N, 2).
    """

    pictures: np.ndarray
    boxes: np.ndarray
    mouths: np.ndarray

    @classmethod
    def open(cls, path: Path, detector: FaceDetector) -> StressSubject:
        """The longest run with the face in a video's first seconds.

        Raises:
            MediaError: see `evaluation.metrics.face_crops.open_source`.
        """
        source = open_source(path, detector, SECONDS)
        last = source.start + len(source.track)
        frames = read_frames(path, fps=Fraction(CLIP_FPS), end=(last + 1) / CLIP_FPS, max_side=MAX_SIDE)
        pictures = np.stack([frame for index, frame in enumerate(frames) if source.start <= index < last])
        count, scale = len(pictures), np.array([pictures.shape[2], pictures.shape[1]]) / source.track.size
        mouths = (source.track.points[:count, 3:].mean(1) + 0.5) * scale - 0.5
        return cls(pictures, source.track.boxes[:count] * np.tile(scale, 2), mouths)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the pictures."""
        return self.pictures.shape[2], self.pictures.shape[1]

    @property
    def face(self) -> tuple[float, float]:
        """The face's median width and height in pixels."""
        width, height = np.median(self.boxes[:, 2:] - self.boxes[:, :2], axis=0)
        return float(width), float(height)


def profile(person: StressSubject) -> np.ndarray:
    """A strong turn, simulated: the picture as a plane turned by 60 degrees about the face's upright axis, in
    perspective. It is squeezed and slanted like a profile, but hides nothing of the face as one would."""
    x, y = person.mouths.mean(0)
    far = 1.2 * person.size[0]  # the eye's distance; farther than any point of the picture comes nearer
    centre, back = (np.array([[1, 0, sign * x], [0, 1, sign * y], [0, 0, 1.0]]) for sign in (-1, 1))
    turn = np.array([[far * np.cos(TURN), 0, 0], [0, far, 0], [np.sin(TURN), 0, far]])
    matrix, border = back @ turn @ centre, cv2.BORDER_REPLICATE
    return np.stack([cv2.warpPerspective(each, matrix, person.size, borderMode=border) for each in person.pictures])


def small(person: StressSubject) -> np.ndarray:
    """A face 24 pixels high in a wide picture, whose rest is the same picture, enlarged and out of focus."""
    scale = min(SMALL / person.face[1], 0.9 * WIDE[0] / person.size[0], 0.9 * WIDE[1] / person.size[1])
    size = max(2, round(person.size[0] * scale)), max(2, round(person.size[1] * scale))
    left, top = (WIDE[0] - size[0]) // 3, (WIDE[1] - size[1]) // 3
    made = []
    for picture in person.pictures:
        coarse = cv2.GaussianBlur(_fitted(picture, (WIDE[0] // 16, WIDE[1] // 16)), (0, 0), 1.5)
        wide = cv2.resize(coarse, WIDE)
        wide[top : top + size[1], left : left + size[0]] = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        made.append(wide)
    return np.stack(made)


def dark(person: StressSubject) -> np.ndarray:
    """A quarter of the light, steeper shadows (gamma 2) and a sensor's noise."""
    table = (255 * 0.25 * (np.arange(256) / 255) ** 2).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 2, person.pictures.shape[1:])
    made = [np.roll(noise, 7 * index, (0, 1)) + table[each] for index, each in enumerate(person.pictures)]
    return np.clip(np.rint(made), 0, 255).astype(np.uint8)


def occluded(person: StressSubject) -> np.ndarray:
    """A grey bar, as high as a third of the face, that moves up and down across the mouth once a second."""
    width, height = person.face
    made = person.pictures.copy()
    for index, (picture, (x, y)) in enumerate(zip(made, person.mouths, strict=True)):
        middle = y + 0.4 * height * np.sin(2 * np.pi * index / CLIP_FPS)
        corners = ((x - 0.7 * width, middle - height / 6), (x + 0.7 * width, middle + height / 6))
        start, end = ((round(float(right)), round(float(down))) for right, down in corners)
        cv2.rectangle(picture, start, end, (96, 104, 112), -1)
    return made


def gaps(person: StressSubject) -> np.ndarray:
    """Half a second of plain grey at the beginning and in the middle."""
    made, middle = person.pictures.copy(), len(person.pictures) // 2
    made[:GAP] = made[middle : middle + GAP] = 128
    return made


def cuts(one: StressSubject, other: StressSubject) -> np.ndarray:
    """Hard cuts between two people, every 0.6 s."""
    count = min(len(one.pictures), len(other.pictures))
    scenes = [(one, other)[index // SCENE % 2].pictures[index] for index in range(count)]
    return np.stack([_fitted(scene, one.size) for scene in scenes])


def two_people(one: StressSubject, other: StressSubject) -> np.ndarray:
    """Side by side, as high as the first one's picture."""
    height = one.size[1]
    width = max(2, round(other.size[0] * height / other.size[1]))
    pairs = zip(one.pictures, other.pictures, strict=False)  # as long as both are there
    return np.stack([np.hstack([left, cv2.resize(right, (width, height))]) for left, right in pairs])


def slow(person: StressSubject) -> np.ndarray:
    """15 frames a second of 321x241 pixels."""
    chosen = np.arange(0, len(person.pictures), float(CLIP_FPS / SLOW)).astype(int)
    return np.stack([_fitted(each, ODD) for each in person.pictures[chosen]])


ALONE: dict[str, Callable[[StressSubject], np.ndarray]] = {
    "profile": profile, "small": small, "dark": dark, "occluded": occluded, "gaps": gaps, "slow-odd": slow,
}  # fmt: skip
TOGETHER: dict[str, Callable[[StressSubject, StressSubject], np.ndarray]] = {"cuts": cuts, "two-people": two_people}


def stress(
    face: Path, second: Path, audio: Path, folder: Path, detector: FaceDetector | None = None
) -> list[HardInput]:
    """Makes the hard inputs of two people's videos and a sound, of three seconds each.

    The kinds: those of `ALONE` and `TOGETHER`, a photo, and the video itself with silence and with music.

    Args:
        folder: where they are written; made if it is not there.
        detector: who finds the faces; None: "auto".

    Raises:
        MediaError: a file cannot be read, or shows no face for a second.
    """
    folder.mkdir(parents=True, exist_ok=True)
    detector = detector or load_detector()
    one, other = (StressSubject.open(path, detector) for path in (face, second))
    speech = _write_wav(folder / "speech.wav", load_audio(audio)[: SECONDS * RATE])
    made = {kind: change(one) for kind, change in ALONE.items()}
    made |= {kind: change(one, other) for kind, change in TOGETHER.items()}
    hards = [HardInput(kind, _write(folder / f"{kind}.mp4", some, kind), speech) for kind, some in made.items()]
    photo = folder / "photo.png"
    photo.write_bytes(cv2.imencode(".png", one.pictures[len(one.pictures) // 2])[1].tobytes())
    plain = _write(folder / "plain.mp4", one.pictures)
    sounds = {"silence": np.zeros(SECONDS * RATE, np.float32), "music": music(SECONDS)}
    written = {kind: _write_wav(folder / f"{kind}.wav", sound) for kind, sound in sounds.items()}
    return [
        *hards,
        HardInput("photo", photo, speech),
        *(HardInput(kind, plain, path) for kind, path in written.items()),
    ]


def music(seconds: float) -> np.ndarray:
    """Chords of three notes, two a second, with a drum on each: (n,) float32 at 16 kHz, -1 to 1."""
    time, rng = np.arange(round(seconds * RATE)) / RATE, np.random.default_rng(0)
    roots, within = 220 * 2 ** (np.array([0, 5, 7, 3])[(2 * time).astype(int) % 4] / 12), time % 0.5
    chord = sum(np.sin(2 * np.pi * np.cumsum(roots * 2 ** (step / 12)) / RATE) for step in (0, 4, 7))
    drum = rng.normal(0, 1, len(time)) * np.exp(-within / 0.03) + np.sin(2 * np.pi * 60 * within) * np.exp(
        -within / 0.1
    )
    return (0.12 * chord * np.exp(-within / 0.4) + 0.25 * drum).clip(-1, 1).astype(np.float32)


def read_hards(path: Path) -> list[HardInput]:
    """A user's own list: CSV with the columns kind, face and audio; its paths are relative to its folder.

    Raises:
        UsageError: it cannot be read, lacks a column, has an empty cell or no row.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            if missing := {"kind", "face", "audio"} - set(reader.fieldnames or ()):
                raise UsageError(f"{display_path(path)} lacks the column {' and '.join(sorted(missing))}")
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, csv.Error, UnicodeError) as error:
        raise UsageError(f"{display_path(path)} is not a table that can be read: {error}") from error
    for line, row in rows:
        if empty := [name for name in ("kind", "face", "audio") if not row[name].strip()]:
            raise UsageError(f"{display_path(path)}:{line}: no {empty[0]}")
    if not rows:
        raise UsageError(f"{display_path(path)} names no input")
    return [HardInput(row["kind"], path.parent / row["face"], path.parent / row["audio"]) for _, row in rows]


def _fitted(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Enlarged or reduced until it covers (width, height), and its middle cut out: nothing is stretched."""
    scale = max(size[0] / picture.shape[1], size[1] / picture.shape[0])
    whole = max(size[0], round(picture.shape[1] * scale)), max(size[1], round(picture.shape[0] * scale))
    left, top = (whole[0] - size[0]) // 2, (whole[1] - size[1]) // 2
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(picture, whole, interpolation=interpolation)[top : top + size[1], left : left + size[0]].copy()


def _write(path: Path, pictures: Sequence[np.ndarray] | np.ndarray, kind: str = "") -> Path:
    height, width = pictures[0].shape[:2]
    with VideoWriter(path, width, height, SLOW if kind == "slow-odd" else Fraction(CLIP_FPS)) as writer:
        for picture in pictures:
            writer.write(picture)
    return path


def _write_wav(path: Path, samples: np.ndarray) -> Path:
    """(n,) float, -1 to 1, at 16 kHz."""
    wavfile.write(path, RATE, as_int16(samples))
    return path
