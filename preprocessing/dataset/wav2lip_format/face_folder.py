"""A folder of faces as the original's preprocess.py leaves it, 0.jpg, 1.jpg, ..., audio.wav, and the clips in it.

Each picture is a detector's box as it was cut, of any size; the numbers leave out the frames without a face.
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from preprocessing.dataset import quality_filters as measure
from preprocessing.dataset.clip_candidates import MIN_SIZE, SIDE_STEP
from preprocessing.dataset.clips import CLIP_FPS, ClipHeader, encode, write_clip
from preprocessing.dataset.manifest import ClipRow
from preprocessing.dataset.segmentation import FRAME_SAMPLES, frames_with_audio
from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.faces.crops import CropGeometry, crop
from preprocessing.faces.face_track import FaceTrack, estimate_points
from preprocessing.media.audio import speech_columns, spool_audio
from preprocessing.media.video_reader import read_image

SHORTEST, LONGEST = 5, 250  # frames of a clip: a window of the trainers; ten seconds, as the builder's
LARGEST, ENLARGED = 160, 1.5  # pixels of a clip's square; how far a face may be enlarged for it
VERSIONS = {"python": platform.python_version(), "opencv": cv2.__version__, "numpy": np.__version__}


def safe_name(name: str) -> str:
    """The name as a folder may be called on any system and in a list, where a space ends a line; another name never
    gives the same. A name that is changed, or could be a changed one, ends with 8 hex digits of its hash."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:60].lstrip(".-").rstrip(".") or "unnamed"
    if slug == name and name.lower() != "filelists" and not re.search(r"-[0-9a-f]{8}$", name):
        return name
    return f"{slug}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


@dataclass(frozen=True)
class FaceFolder:
    """A folder `name`, <speaker>/<id>, below the root of an import, and the splits of the file lists that name it."""

    root: Path
    name: str
    splits: tuple[str, ...]

    @property
    def speaker(self) -> str:
        """By the folder's name; lists may name deeper folders, too."""
        return self.name.rpartition("/")[0] or self.name

    def target(self, suffix: str = "") -> Path:
        """Where a clip made of it belongs, below the folder of clips."""
        return Path("clips", safe_name(self.speaker), f"{safe_name(self.name.rpartition('/')[2])}{suffix}.safetensors")

    def file(self, name: str = "") -> Path:
        """Where a file of this folder, or the folder itself, is; ValueError when nothing should be read there."""
        path = self.root / self.name / name
        if ".." in path.parts or not Path(os.path.realpath(path)).is_relative_to(self.root):
            raise UsageError(f"{display_path(Path(self.name, name))} leads out of the imported folder")
        if name and path.exists() and not path.is_file():
            raise UsageError(f"{display_path(Path(self.name, name))} is not a file")
        return path

    def picture(self, number: int) -> np.ndarray:
        """Its picture of that number, (H, W, 3) uint8 BGR; ValueError or MediaError when there is none to be read."""
        path = self.file(f"{number}.jpg")
        try:
            return read_image(path)
        except cv2.error as error:
            raise UsageError(f"{display_path(path)} is a damaged photo") from error

    def numbers(self) -> list[int]:
        """The numbers of its pictures, sorted; ValueError if there is none."""
        try:
            names = os.listdir(self.file())
        except OSError as error:
            raise UsageError(f"{display_path(self.name)} cannot be read: {error.strerror}") from error
        numbers = sorted(int(name[:-4]) for name in names if re.fullmatch(r"(0|[1-9][0-9]{0,6})\.jpg", name))
        if not numbers:
            raise UsageError(f"{display_path(self.name)} holds no pictures 0.jpg, 1.jpg, ...")
        return numbers


def import_faces(folder: FaceFolder, numbers: Sequence[int], clips: Path, faults: list[str]) -> Iterator[ClipRow]:
    """Writes a clip for every run of 5 to 250 pictures of consecutive numbers, with the sound of their time.

    The crops are of kind "box", without margin, and as points they carry those that a box usually has.

    Args:
        folder: what another program has made.
        numbers: of its pictures, sorted.
        clips: folder of clips.
        faults: receives a line for every picture that cannot be read; it ends a run.

    Raises:
        ValueError, MediaError: the sound is missing or cannot be read.
    """
    source = folder.file("audio.wav")
    samples = spool_audio(source, Path(tempfile.gettempdir()))
    speech, digest = speech_columns(samples), file_sha256(source)
    heard = [number for number in numbers if number < frames_with_audio(numbers[-1] + 1, len(samples))]
    runs = (run for run in _runs(folder, heard, faults) if len(run.jpegs) >= SHORTEST)
    for count, run in enumerate(runs):
        yield _write_run(folder, run, count, digest, samples, speech, clips)


def _runs(folder: FaceFolder, numbers: Iterable[int], faults: list[str]) -> Iterator[_FaceRun]:
    run = None
    for number in numbers:
        try:
            picture = folder.picture(number)
        except (ValueError, MediaError) as error:
            faults.append(str(error))
            continue
        if run is None or not run.continues(number):
            if run is not None:
                yield run
            run = _FaceRun.start(number, picture)
        run.add(picture)
    if run is not None:
        yield run


@dataclass
class _FaceRun:
    """Pictures of consecutive numbers, as they come into a clip; the first decides the side of its square."""

    first: int
    crop: CropGeometry
    jpegs: list[bytes] = field(default_factory=list)
    boxes: list[tuple[int, int, int, int]] = field(default_factory=list)

    @classmethod
    def start(cls, number: int, picture: np.ndarray) -> _FaceRun:
        side = math.sqrt(picture.shape[0] * picture.shape[1])
        size = min(LARGEST, max(MIN_SIZE, int(ENLARGED * side) // SIDE_STEP * SIDE_STEP))
        return cls(number, CropGeometry("box", size, pads=(0, 0, 0, 0)))

    def continues(self, number: int) -> bool:
        """Whether this number's picture comes next, and there is room for it."""
        return number == self.first + len(self.jpegs) and len(self.jpegs) < LONGEST

    def add(self, picture: np.ndarray) -> None:
        """Takes a face as it was cut out: (H, W, 3) of any size."""
        height, width = picture.shape[:2]
        box = np.array((0, 0, width, height))
        matrix = self.crop.matrix(box, estimate_points(box), (width, height))
        self.boxes.append((0, 0, width, height))
        self.jpegs.append(encode(crop(picture, matrix, self.crop.size)))

    def track(self) -> FaceTrack:
        """The pictures' own edges as boxes, since where they were cut is not known."""
        boxes, count = np.array(self.boxes, np.float32), len(self.boxes)
        points = np.stack([estimate_points(box) for box in boxes])
        return FaceTrack(boxes, points, np.ones(count, bool), np.zeros(count, np.int32))


def _write_run(
    folder: FaceFolder, run: _FaceRun, count: int, digest: str, samples: np.ndarray, speech: np.ndarray, clips: Path
) -> ClipRow:  # fmt: skip
    header = ClipHeader(
        folder.name, digest, run.first / CLIP_FPS, len(run.jpegs), speaker=folder.speaker, crop=run.crop,
        versions=VERSIONS,
    )  # fmt: skip
    sound = _span(samples, run.first * FRAME_SAMPLES, header.samples)
    flags = _span(speech, round(header.start * header.audio.columns_per_second), header.columns)
    track = run.track()
    row = clip_row(header, folder.target(f"__a{count:04d}"), folder.splits[0], count)
    row.side, row.speech, row.clipped = measure.side(track.boxes), measure.speech(flags), measure.clipped(sound)
    row.level = measure.level(sound, flags, header.audio.hop_length)
    row.audio_sha256 = hashlib.sha256(sound.tobytes()).hexdigest()
    write_clip(clips / row.clip, header, run.jpegs, sound, track, flags)
    return row


def _span(values: np.ndarray, first: int, count: int) -> np.ndarray:
    """`count` values from `first` on, zeros behind their end."""
    span = np.array(values[first : first + count])
    return np.pad(span, (0, count - len(span)))


def clip_row(header: ClipHeader, clip: Path, split: str, number: int) -> ClipRow:
    """The manifest's row of the clip, without measures. `clip`: its path below the folder of clips."""
    return ClipRow(
        clip.as_posix(), header.source, header.person, number, header.start, header.frames / CLIP_FPS, header.frames,
        header.speaker, split, header.language, header.licence, header.crop.size,
    )  # fmt: skip


def file_sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
