"""A prepared person: frames, landmarks and inner mouths, made once and shared by any number of sessions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from inference.engine import AnalysisProgress, JobInput
from inference.files.face_source import FaceSource
from inference.live.frames import FrameStore
from inference.mesh.engine import MeshEngine
from inference.mesh.landmark_store import LandmarkStore
from inference.mesh.person import MeshPerson
from inference.options import Options
from inference.prefetch import StageClock
from preprocessing.errors import MediaError, display_path
from preprocessing.faces.mesh import LIPS_INNER, Landmarks
from preprocessing.faces.occlusion.mask import OcclusionMask
from wav2lip.renderer.inner_mouth import BankConfig, InnerMouth, InnerMouthBank, mouth_plane, to_mouth_plane
from wav2lip.renderer.renderer import PRESENT, MouthRenderer


@dataclass(frozen=True)
class Origin:
    """The file that an avatar's frames came from: its path, and the used part and framing of it.

    Attributes:
        path: the video or photo.
        plain: whether the frames are those of the whole file from its beginning, unchanged and at its own rate.
    """

    path: Path
    plain: bool


@dataclass(frozen=True)
class Avatar:
    """Everything about a person that does not depend on what they say.

    Attributes:
        frames: the person's frames; played forwards and backwards.
        fps: their rate.
        landmarks: the face's landmarks by frame.
        mouths: inner mouths seen in the frames.
        origin: the file they came from; None if that is the avatar's own file.
        looks: what covers the face, by frame, as far as a session has looked; see `MeshPerson`.
    """

    frames: FrameStore
    fps: Fraction
    landmarks: LandmarkStore
    mouths: Sequence[InnerMouth]
    origin: Origin | None = None
    looks: dict[int, OcclusionMask | None] = field(default_factory=dict)

    @classmethod
    def prepare(
        cls, engine: MeshEngine, source: FaceSource, options: Options | None = None,
        progress: AnalysisProgress | None = None,
    ) -> Avatar:  # fmt: skip
        """Tracks the face through a video or photo, as far as `FrameStore` has room.

        Raises:
            MediaError: no frame has a usable face.
        """
        options = options or Options()
        renderer = MouthRenderer()
        recorder = _Recorder((), renderer=renderer, frames=FrameStore(source.size))
        avatar = cls(recorder.frames, source.fps, recorder.store, recorder.renderer.bank.entries, _origin(source))
        try:
            count = min(source.count, recorder.frames.capacity)
            engine.observe(JobInput(source, source.path, options, StageClock()), [recorder], count, progress)
            if not recorder.store.any_face():
                raise MediaError(f"{display_path(source.path)} shows no face in any frame")
        except BaseException:
            avatar.close()
            raise
        return avatar

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frames."""
        return self.frames.size

    def __len__(self) -> int:
        return len(self.landmarks)

    def renderer(self) -> MouthRenderer:
        """A renderer that knows what one knows that has observed all frames; the inner mouths are not copied."""
        bank = InnerMouthBank(BankConfig(size=max(1, len(self.mouths))))
        for number in range(len(self)):
            found = self.landmarks.landmarks(number)
            if found is not None and found.presence >= PRESENT:
                bank.observe_shut(to_mouth_plane(found.points[LIPS_INNER], mouth_plane(found.pose)))
        bank.entries.extend(self.mouths)
        return MouthRenderer(bank)

    def close(self) -> None:
        """Removes the temporary files."""
        self.frames.close()
        self.landmarks.close()


@dataclass
class _Recorder(MeshPerson):
    """Keeps the frames that it observes."""

    frames: FrameStore = field(default_factory=lambda: FrameStore((1, 1)))

    def observe(self, frame: np.ndarray, found: Landmarks | None) -> None:
        """See `MeshPerson.observe`."""
        super().observe(frame, found)
        self.frames.append(frame)


def _origin(source: FaceSource) -> Origin:
    framing = source.framing
    unchanged = framing.resize_factor == 1 and not framing.rotate and framing.crop == (0, -1, 0, -1)
    whole = source.start == 0 and not (source.still and not source.info.is_image)
    return Origin(source.path, unchanged and whole and (source.info.is_image or source.fps == source.info.fps))
