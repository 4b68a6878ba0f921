"""The default engine: predicts lip shapes from speech and warps the person's own pixels to them.

The first pass tracks the mesh points through all frames to be shown, and collects the person's rest shape and inner
mouths. The second pass warps each frame so that its points take the predicted shape, and fills the inner mouth from the
person's own frames. Pixels outside the warped region are unchanged.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np

from inference.engine import AnalysisProgress, JobInput, RenderedFrame
from inference.mesh.face_landmarks import track_landmarks
from inference.mesh.landmark_store import FADE, LandmarkStore
from inference.speech import read_speech
from preprocessing.faces import landmarks
from preprocessing.faces.face_track import FaceTrack
from preprocessing.faces.landmarks.predictor import WEIGHTS, LandmarkNetwork, load_landmarks
from preprocessing.faces.mesh import HeadPose, lower_face, opening, rest_shape
from preprocessing.media.audio import AudioConfig, frame_count
from wav2lip.lip_motion.motion import REST_GAP, LipMotion, LipMotionModel
from wav2lip.lip_motion.motion import WEIGHTS as MOTION_WEIGHTS
from wav2lip.lip_motion.shape_space import gain_of, personal_gain
from wav2lip.renderer.inner_mouth import InnerMouth
from wav2lip.renderer.mouth_choice import MouthTarget
from wav2lip.renderer.renderer import MouthRenderer, mouth_target, target_shape

LANDMARK_WEIGHTS = Path(landmarks.__file__).parent / WEIGHTS
MESH_GAP = 0.5  # units between the inner lips of a closed mouth in the mesh
MIN_GAIN_FRAMES = 25  # frames; fewer, as of a photo, do not tell how much a face moves
PLAN_BLOCK = 500  # frames whose inner mouths are chosen jointly


@dataclass(frozen=True)
class MeshEngine:
    """The landmark network and the lip-motion model."""

    landmarks: LandmarkNetwork
    motion: LipMotionModel

    @classmethod
    def load(cls) -> MeshEngine:
        """Loads the bundled networks.

        Raises:
            UsageError: a weight file is missing or damaged.
        """
        return cls(load_landmarks(), LipMotionModel.load())

    def provenance(self) -> tuple[list[Path], str] | None:
        """The weight files; the networks run on the CPU."""
        return [LANDMARK_WEIGHTS, MOTION_WEIGHTS], "mesh on cpu"

    def start(self, job: JobInput, progress: AnalysisProgress | None = None) -> MeshJob:
        """Reads the speech and tracks the face through every frame to be shown.

        Raises:
            MediaError: the speech file has no audio.
        """
        with job.clock("sound"):
            samples = read_speech(job.audio)
        speech_frames = frame_count(len(samples), job.source.fps, AudioConfig())
        store, renderer = LandmarkStore(), MouthRenderer()
        try:
            with job.clock("landmarks"):
                count = job.source.count if job.options.save_track else min(job.source.count, speech_frames)
                for number, (frame, found) in enumerate(track_landmarks(job, self.landmarks, count), 1):
                    store.append(found)
                    if store.landmarks(number - 1) is not None and found is not None:
                        renderer.observe(frame, found)
                    if progress:
                        progress("frame", number, count)
            shapes = store.shapes() if store.any_face() else None
            rest = None if shapes is None else self._rest(shapes)
            with job.clock("motion"):
                motion = self._motion(samples, shapes, rest)
        except BaseException:
            store.close()
            raise
        return MeshJob(job, speech_frames, store, renderer, motion, rest)

    def _rest(self, shapes: np.ndarray) -> np.ndarray:
        """The person's rest shape; for a photo, or if the mouth never closes, estimated from the observed shape."""
        shape = rest_shape(shapes)
        rest_map = self.motion.trained.rest
        return shape if rest_map is None else rest_map.rest(shape)

    def _motion(self, samples: np.ndarray, shapes: np.ndarray | None, rest: np.ndarray | None) -> LipMotion:
        """The lip motion of the speech, as far as this person's mouth moves and opens at rest."""
        if shapes is None or rest is None:
            return self.motion.displacements(samples)
        below = lower_face()
        own = gain_of(shapes[:, below] - rest[below]) if len(shapes) >= MIN_GAIN_FRAMES else 0.0
        gain = personal_gain(own, self.motion.gain)
        rest_gap = max(float(opening(rest)) - MESH_GAP, REST_GAP)
        return self.motion.displacements(samples, gain=gain, rest_gap=rest_gap)


@dataclass(frozen=True)
class _Plan:
    """How one frame is rendered."""

    number: int
    points: np.ndarray
    pose: HeadPose
    target: np.ndarray
    amount: float
    mouth: MouthTarget


@dataclass
class MeshJob:
    """One job of a `MeshEngine`, after the analysis pass."""

    job: JobInput
    speech_frames: int
    store: LandmarkStore
    renderer: MouthRenderer
    motion: LipMotion
    rest: np.ndarray | None

    def has_face(self) -> bool:
        """Whether any frame has a usable face."""
        return self.rest is not None

    def track(self) -> FaceTrack:
        """The face track of the analyzed frames."""
        boxes, points, found = self.store.boxes_and_points()
        return FaceTrack(boxes, points, found, np.zeros(len(found), np.int32), size=self.job.source.size)

    def close(self) -> None:
        """Removes the temporary landmark file."""
        self.store.close()

    def render(
        self, frames: Iterable[tuple[int, np.ndarray]], total: int, depth: int
    ) -> Generator[RenderedFrame, None, None]:
        """Renders the mouths; see `RenderJob.render`."""
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
        """The plan and inner mouth of each output frame; inner mouths are chosen jointly for PLAN_BLOCK frames."""
        output = enumerate(numbers)
        while block := [self._plan(position, number, total) for position, number in islice(output, PLAN_BLOCK)]:
            mouths = iter(self.renderer.plan([plan.mouth for plan in block if plan is not None]))
            for plan in block:
                yield (None, None) if plan is None else (plan, next(mouths))

    def _plan(self, position: int, number: int, total: int) -> _Plan | None:
        found = self.store.landmarks(number) if position < self.speech_frames else None
        amount = self.store.amount(number)
        if total > self.speech_frames:  # the rest of the video follows: fade out, so that the mouth does not snap back
            amount = min(amount, (self.speech_frames - position) / FADE)
        if found is None or amount <= 0 or self.rest is None:
            return None
        points = found.points.astype(np.float64)
        pose = HeadPose.of(points)
        displacement = np.zeros_like(self.rest)
        displacement[lower_face()] = self.motion.at(Fraction(position) / self.job.source.fps)
        target = target_shape(points, self.rest, displacement, self.job.options.strength, pose)
        return _Plan(number, points, pose, target, amount, mouth_target(pose, target))
