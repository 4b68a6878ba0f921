"""The default: speech → lip shape → the person's own pixels moved, the inner mouth taken from the person's own frames.

A first pass follows the mesh points through the frames that will be shown, and learns the person's face at rest and
inner mouths. The second moves each frame's points to the shape that the speech asks for. Outside the moved region a
frame is untouched.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np

from inference.engine import AnalysisProgress, JobInput, RenderedFrame
from inference.mesh.face_landmarks import follow_face
from inference.mesh.landmark_store import FADE, LandmarkStore
from inference.speech import read_speech
from preprocessing.faces import landmarks
from preprocessing.faces.face_track import FaceTrack
from preprocessing.faces.landmarks.predictor import WEIGHTS, LandmarkNetwork, load_landmarks
from preprocessing.faces.mesh import HeadPose, lower_face
from preprocessing.media.audio import AudioConfig, frame_count
from wav2lip.lip_motion.motion import WEIGHTS as MOTION_WEIGHTS
from wav2lip.lip_motion.motion import LipMotion, LipMotionModel
from wav2lip.renderer.inner_mouth import InnerMouth
from wav2lip.renderer.mouth_choice import MouthTarget
from wav2lip.renderer.renderer import MouthRenderer, mouth_target, target_shape

LANDMARK_WEIGHTS = Path(landmarks.__file__).parent / WEIGHTS
PLANNED = 500  # frames whose inner mouths are chosen together


@dataclass(frozen=True)
class MeshEngine:
    """The landmark network and the lip motion."""

    landmarks: LandmarkNetwork
    motion: LipMotionModel

    @classmethod
    def load(cls) -> MeshEngine:
        """The networks that come with the program.

        Raises:
            UsageError: a file is missing or damaged.
        """
        return cls(load_landmarks(), LipMotionModel.load())

    def provenance(self) -> tuple[list[Path], str] | None:
        """The weights' files; the networks run on the CPU."""
        return [LANDMARK_WEIGHTS, MOTION_WEIGHTS], "mesh on cpu"

    def start(self, job: JobInput, progress: AnalysisProgress | None = None) -> MeshJob:
        """Reads the speech and looks at the face in every frame that will be shown.

        Raises:
            MediaError: the speech has no sound.
        """
        with job.clock("sound"):
            samples = read_speech(job.audio)
        spoken = frame_count(len(samples), job.source.fps, AudioConfig())
        store, renderer = LandmarkStore(), MouthRenderer()
        try:
            with job.clock("landmarks"):
                wanted = job.source.count if job.options.save_track else min(job.source.count, spoken)
                for number, (frame, found) in enumerate(follow_face(job, self.landmarks, wanted), 1):
                    store.append(found)
                    if store.landmarks(number - 1) is not None and found is not None:
                        renderer.observe(frame, found)
                    if progress:
                        progress("frame", number, wanted)
            rest = self._rest(store) if store.any_face() else None
            with job.clock("motion"):
                motion = self.motion.displacements(samples)
        except BaseException:
            store.close()
            raise
        return MeshJob(job, spoken, store, renderer, motion, rest)

    def _rest(self, store: LandmarkStore) -> np.ndarray:
        """The person's face at rest; of a photo, or where the mouth never closes, what the shape seen tells of it."""
        shape = store.rest_shape()
        rest_map = self.motion.trained.rest
        return shape if rest_map is None else rest_map.rest(shape)


@dataclass(frozen=True)
class _Plan:
    """What becomes of one frame."""

    number: int
    points: np.ndarray
    pose: HeadPose
    target: np.ndarray
    amount: float
    wanted: MouthTarget


@dataclass
class MeshJob:
    """One job of a `MeshEngine`, its face known."""

    job: JobInput
    spoken: int
    store: LandmarkStore
    renderer: MouthRenderer
    motion: LipMotion
    rest: np.ndarray | None

    def has_face(self) -> bool:
        """Whether any frame shows a usable face."""
        return self.rest is not None

    def track(self) -> FaceTrack:
        """Where the face is in the frames that were looked at."""
        boxes, points, found = self.store.boxes_and_points()
        return FaceTrack(boxes, points, found, np.zeros(len(found), np.int32), size=self.job.source.size)

    def close(self) -> None:
        """Removes the file of landmarks."""
        self.store.close()

    def render(
        self, frames: Iterable[tuple[int, np.ndarray]], total: int, depth: int
    ) -> Generator[RenderedFrame, None, None]:
        """Numbered frames with new mouths."""
        numbers = self.job.source.order(total, self.job.options.sync_mode, len(self.store))
        plans = self._planned(numbers, total)
        for number, frame in frames:
            with self.job.clock("plan"):
                plan, mouth = next(plans, (None, None))
            if plan is None or plan.number != number:
                yield RenderedFrame(frame, frame, False)
                continue
            with self.job.clock("render"):
                result = self.renderer.render(
                    frame, plan.points, plan.target, amount=plan.amount, pose=plan.pose, mouth=mouth
                )
            yield RenderedFrame(frame, result, True)

    def _planned(self, numbers: Iterator[int], total: int) -> Iterator[tuple[_Plan | None, InnerMouth | None]]:
        """The plan of each shown frame with its inner mouth, chosen for many frames together."""
        shown = enumerate(numbers)
        while block := [self._plan(shown_at, number, total) for shown_at, number in islice(shown, PLANNED)]:
            mouths = iter(self.renderer.plan([plan.wanted for plan in block if plan is not None]))
            for plan in block:
                yield (None, None) if plan is None else (plan, next(mouths))

    def _plan(self, shown_at: int, number: int, total: int) -> _Plan | None:
        found = self.store.landmarks(number) if shown_at < self.spoken else None
        amount = self.store.amount(number)
        if total > self.spoken:  # the rest of the video follows: the mouth must not snap back to it
            amount = min(amount, (self.spoken - shown_at) / FADE)
        if found is None or amount <= 0 or self.rest is None:
            return None
        points = found.points.astype(np.float64)
        pose = HeadPose.of(points)
        displacement = np.zeros_like(self.rest)
        displacement[lower_face()] = self.motion.at(Fraction(shown_at) / self.job.source.fps)
        target = target_shape(points, self.rest, displacement, self.job.options.strength, pose)
        return _Plan(number, points, pose, target, amount, mouth_target(pose, target))
