"""What makes a mouth speak, as a job sees it: an engine starts a job, the job renders frames."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from inference.face_source import FaceSource
from inference.options import Options
from inference.prefetch import StageClock
from preprocessing.faces.detectors import load_detector
from preprocessing.faces.face_track import FaceDetector, FaceTrack

AnalysisProgress = Callable[[str, int, int], None]
"""Called, before the first frame is rendered, with the unit ("frame", "step"), how many are done, and their total."""


@dataclass(frozen=True)
class JobInput:
    """What a job works on.

    Attributes:
        source: the face's frames.
        audio: the file with the speech.
        clock: takes the seconds of each stage.
    """

    source: FaceSource
    audio: Path
    options: Options
    clock: StageClock


@dataclass(frozen=True)
class RenderedFrame:
    """A finished frame.

    Attributes:
        source: (H, W, 3) uint8 BGR, as the face's video has it.
        result: (H, W, 3) uint8 BGR, as it is shown.
        changed: whether it got a new mouth.
    """

    source: np.ndarray
    result: np.ndarray
    changed: bool


class RenderJob(Protocol):
    """A job that an engine has started."""

    spoken: int
    """Frames that the speech lasts."""

    def has_face(self) -> bool: ...

    def render(
        self, frames: Iterable[tuple[int, np.ndarray]], total: int, depth: int
    ) -> Generator[RenderedFrame, None, None]:
        """Renders numbered source frames in the order in which they are shown.

        Args:
            frames: numbers within the source, and frames; the same number may come again.
            total: how many there will be, as far as the files' headers tell.
            depth: frames that may wait between two threads.
        """
        ...

    def track(self) -> FaceTrack: ...

    def close(self) -> None: ...


class Engine(Protocol):
    """Loaded networks, for any number of jobs, also concurrent ones in threads."""

    def provenance(self) -> tuple[list[Path], str] | None:
        """The files that its results depend on, and what it runs on; None if that is not known."""
        ...

    def start(self, job: JobInput, progress: AnalysisProgress | None = None) -> RenderJob:
        """Reads the speech and whatever must be known before the first frame can be rendered."""
        ...


def job_detector(options: Options, device: str = "cpu") -> FaceDetector:
    """The face detector that the options name."""
    return load_detector(options.detector, device, yunet=options.yunet, sfd=options.s3fd)
