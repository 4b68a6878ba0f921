"""Interface of the lip-sync engines: an engine starts a job, the job renders frames."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from inference.files.face_source import FaceSource
from inference.options import Options
from inference.prefetch import StageClock
from preprocessing.faces.detectors import load_detector
from preprocessing.faces.face_track import FaceDetector, FaceTrack
from preprocessing.faces.people import Person

AnalysisProgress = Callable[[str, int, int], None]
"""Called before the first frame is rendered, with the unit ("frame"), the number done and the total."""


@dataclass(frozen=True, eq=False)
class Utterance:
    """Speech that a person is to say.

    Attributes:
        audio: the file with the speech.
        first, last: the output frames [first, last) in which it is said, from its beginning; None: to its end.
        active: (n,) by source frame, 0 to 1: where this person says it; None: everywhere.
    """

    audio: Path
    first: int = 0
    last: int | None = None
    active: np.ndarray | None = None


@dataclass(frozen=True)
class Role:
    """A person whose mouth is generated.

    Attributes:
        utterances: what they say; no two at a time.
        person: where they are; None: the face that the options choose.
    """

    utterances: tuple[Utterance, ...]
    person: Person | None = None


@dataclass(frozen=True)
class JobInput:
    """Input of a job.

    Attributes:
        source: the frames of the face video.
        audio: the file with the speech.
        clock: collects the seconds of each stage.
        roles: who says what; if none are given, the face that the options choose says `audio`.
    """

    source: FaceSource
    audio: Path
    options: Options
    clock: StageClock
    roles: tuple[Role, ...] = ()

    def __post_init__(self) -> None:
        if not self.roles:
            object.__setattr__(self, "roles", (Role((Utterance(self.audio),)),))


@dataclass(frozen=True)
class RenderedFrame:
    """A rendered frame.

    Attributes:
        source: (H, W, 3) uint8 BGR, the input frame; or a `PlanarFrame`.
        result: (H, W, 3) uint8 BGR, the output frame; or a `PlanarFrame`.
        changed: whether a mouth was generated.
        mouth: the first generated mouth with some surroundings: top, bottom, left, right in pixels, possibly beyond
            the frame; None if unknown.
    """

    source: np.ndarray
    result: np.ndarray
    changed: bool
    mouth: tuple[int, int, int, int] | None = None


class RenderJob(Protocol):
    """A job started by an engine."""

    @property
    def planar(self) -> bool:
        """Whether `render` takes each frame as a `PlanarFrame` and returns such results."""
        ...

    speech_frames: int
    """Length of the speech in frames, from the beginning of the output."""

    def has_face(self) -> bool: ...

    def render(
        self, frames: Iterable[tuple[int, np.ndarray]], total: int, depth: int
    ) -> Generator[RenderedFrame, None, None]:
        """Renders source frames in output order.

        Args:
            frames: (index within the source, frame) pairs; an index may repeat.
            total: expected number of frames, from the files' headers.
            depth: maximum number of frames queued between two threads.
        """
        ...

    def track(self) -> FaceTrack: ...

    def close(self) -> None: ...


class LipSyncEngine(Protocol):
    """Loaded networks, for any number of jobs, which may run concurrently in threads."""

    def provenance(self, options: Options) -> tuple[list[Path], str] | None:
        """The weight files and the device that the results depend on; None if unknown."""
        ...

    def start(self, job: JobInput, progress: AnalysisProgress | None = None) -> RenderJob:
        """Reads the speech and runs all analysis needed before the first frame can be rendered."""
        ...


def job_detector(options: Options, device: str = "cpu") -> FaceDetector:
    """The face detector chosen by the options."""
    return load_detector(options.detector, device, yunet=options.yunet, sfd=options.s3fd)
