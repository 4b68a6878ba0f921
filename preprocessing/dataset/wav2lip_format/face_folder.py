"""A face folder in the layout of the original preprocess.py, 0.jpg, 1.jpg, ..., audio.wav, and its import as clips.

Each image is a detection box cropped from the frame, of any size; frames without a face have no image.
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
from preprocessing.media.audio import spool_audio
from preprocessing.media.speech_activity import speech_columns
from preprocessing.media.video_reader import read_image

SHORTEST, LONGEST = 5, 250  # frames of a clip: one training window; ten seconds, the default of preprocessing.build
MAX_SIZE, MAX_UPSCALE = 160, 1.5  # maximum side of a clip's square in pixels; maximum enlargement of a face
VERSIONS = {"python": platform.python_version(), "opencv": cv2.__version__, "numpy": np.__version__}


def safe_name(name: str) -> str:
    """A unique, portable folder name without spaces, which end a line in file lists.

    A name that had to be changed, or that could be mistaken for one, ends with 8 hex digits of its hash.
    """
    slug = re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:60].lstrip(".-").rstrip(".") or "unnamed"
    if slug == name and name.lower() != "filelists" and not re.search(r"-[0-9a-f]{8}$", name):
        return name
    return f"{slug}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


@dataclass(frozen=True)
class FaceFolder:
    """A folder `name`, <speaker>/<id>, below the import root, and the splits whose file lists contain it."""

    root: Path
    name: str
    splits: tuple[str, ...]

    @property
    def speaker(self) -> str:
        """The speaker from the folder name; lists may also name deeper folders."""
        return self.name.rpartition("/")[0] or self.name

    def target(self, suffix: str = "") -> Path:
        """Path of the resulting clip, relative to the clip folder."""
        return Path("clips", safe_name(self.speaker), f"{safe_name(self.name.rpartition('/')[2])}{suffix}.safetensors")

    def file(self, name: str = "") -> Path:
        """Path of a file in this folder, or of the folder itself; UsageError if it is unsafe to read."""
        path = self.root / self.name / name
        if ".." in path.parts or not Path(os.path.realpath(path)).is_relative_to(self.root):
            raise UsageError(f"{display_path(Path(self.name, name))} points outside the imported folder")
        if name and path.exists() and not path.is_file():
            raise UsageError(f"{display_path(Path(self.name, name))} is not a file")
        return path

    def image(self, number: int) -> np.ndarray:
        """Image `number`, (H, W, 3) uint8 BGR; UsageError or MediaError if it cannot be read."""
        path = self.file(f"{number}.jpg")
        try:
            return read_image(path)
        except cv2.error as error:
            raise UsageError(f"{display_path(path)} is a damaged image") from error

    def numbers(self) -> list[int]:
        """The image numbers, sorted; UsageError if there are none."""
        try:
            names = os.listdir(self.file())
        except OSError as error:
            raise UsageError(f"{display_path(self.name)} cannot be read: {error.strerror}") from error
        numbers = sorted(int(name[:-4]) for name in names if re.fullmatch(r"(0|[1-9][0-9]{0,6})\.jpg", name))
        if not numbers:
            raise UsageError(f"{display_path(self.name)} holds no images 0.jpg, 1.jpg, ...")
        return numbers


def import_faces(folder: FaceFolder, numbers: Sequence[int], clips: Path, faults: list[str]) -> Iterator[ClipRow]:
    """Writes a clip for every run of 5 to 250 consecutively numbered images, with the matching audio.

    The crops are of kind "box", without margin; their landmarks are estimated from the box.

    Args:
        folder: the face folder.
        numbers: its image numbers, sorted.
        clips: the clip folder.
        faults: receives one line per unreadable image, which also ends a run.

    Raises:
        UsageError, MediaError: the audio is missing or cannot be read.
    """
    source = folder.file("audio.wav")
    samples = spool_audio(source, Path(tempfile.gettempdir()))
    speech, digest = speech_columns(samples), file_sha256(source)
    with_audio = [number for number in numbers if number < frames_with_audio(numbers[-1] + 1, len(samples))]
    runs = (run for run in _runs(folder, with_audio, faults) if len(run.jpegs) >= SHORTEST)
    for count, run in enumerate(runs):
        yield _write_run(folder, run, count, digest, samples, speech, clips)


def _runs(folder: FaceFolder, numbers: Iterable[int], faults: list[str]) -> Iterator[_FaceRun]:
    run = None
    for number in numbers:
        try:
            image = folder.image(number)
        except (ValueError, MediaError) as error:
            faults.append(str(error))
            continue
        if run is None or not run.continues(number):
            if run is not None:
                yield run
            run = _FaceRun.start(number, image)
        run.add(image)
    if run is not None:
        yield run


@dataclass
class _FaceRun:
    """Consecutively numbered images that form a clip; the first determines the side of its square."""

    first: int
    crop: CropGeometry
    jpegs: list[bytes] = field(default_factory=list)
    boxes: list[tuple[int, int, int, int]] = field(default_factory=list)

    @classmethod
    def start(cls, number: int, image: np.ndarray) -> _FaceRun:
        side = math.sqrt(image.shape[0] * image.shape[1])
        size = min(MAX_SIZE, max(MIN_SIZE, int(MAX_UPSCALE * side) // SIDE_STEP * SIDE_STEP))
        return cls(number, CropGeometry("box", size, pads=(0, 0, 0, 0)))

    def continues(self, number: int) -> bool:
        """Whether this image comes next and still fits into the clip."""
        return number == self.first + len(self.jpegs) and len(self.jpegs) < LONGEST

    def add(self, image: np.ndarray) -> None:
        """Adds a cropped face, (H, W, 3) of any size."""
        height, width = image.shape[:2]
        box = np.array((0, 0, width, height))
        matrix = self.crop.matrix(box, estimate_points(box), (width, height))
        self.boxes.append((0, 0, width, height))
        self.jpegs.append(encode(crop(image, matrix, self.crop.size)))

    def track(self) -> FaceTrack:
        """A track whose boxes are the image bounds, since the position in the video is unknown."""
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
    audio = _span(samples, run.first * FRAME_SAMPLES, header.samples)
    flags = _span(speech, round(header.start * header.audio.columns_per_second), header.columns)
    track = run.track()
    row = clip_row(header, folder.target(f"__a{count:04d}"), folder.splits[0], count)
    row.side, row.speech, row.clipped = measure.side(track.boxes), measure.speech(flags), measure.clipped(audio)
    row.level = measure.level(audio, flags, header.audio.hop_length)
    row.audio_sha256 = hashlib.sha256(audio.tobytes()).hexdigest()
    write_clip(clips / row.clip, header, run.jpegs, audio, track, flags)
    return row


def _span(values: np.ndarray, first: int, count: int) -> np.ndarray:
    """`count` values from `first` on, zero-padded."""
    span = np.array(values[first : first + count])
    return np.pad(span, (0, count - len(span)))


def clip_row(header: ClipHeader, clip: Path, split: str, number: int) -> ClipRow:
    """The manifest row of a clip, without measures. `clip`: path relative to the clip folder."""
    return ClipRow(
        clip.as_posix(), header.source, header.person, number, header.start, header.frames / CLIP_FPS, header.frames,
        header.speaker, split, header.language, header.licence, header.crop.size,
    )  # fmt: skip


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
