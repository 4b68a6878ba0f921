"""The default engine: predicts lip shapes from speech and warps the person's own pixels to them.

The first pass tracks the mesh points through all frames to be shown, and collects the person's rest shape and inner
mouths. The second pass warps each frame so that its points take the predicted shape, and fills the inner mouth from the
person's own frames. Pixels outside the warped region are unchanged.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from inference.engine import AnalysisProgress, JobInput, RenderedFrame, Utterance
from inference.files.speech import read_speech
from inference.mesh.analysis import Analysis, AnalysisCache, analysis_key
from inference.mesh.face_landmarks import track_landmarks
from inference.mesh.landmark_store import LandmarkStore
from inference.mesh.person import MeshPerson, Spoken
from inference.options import Options
from inference.photo.photo_motion import PhotoMotion
from preprocessing.errors import UsageError
from preprocessing.faces import landmarks
from preprocessing.faces.face_track import FaceTrack
from preprocessing.faces.landmarks.predictor import WEIGHTS, LandmarkNetwork, load_landmarks
from preprocessing.faces.mesh import lower_face, opening, rest_shape
from preprocessing.faces.occlusion.mask import WEIGHTS as OCCLUSION_WEIGHTS
from preprocessing.faces.occlusion.mask import OcclusionFinder
from preprocessing.media.audio import AudioConfig, frame_count
from wav2lip.lip_motion.motion import REST_GAP, HeardSpeech, LipMotionModel, MotionRange
from wav2lip.lip_motion.motion import WEIGHTS as MOTION_WEIGHTS
from wav2lip.lip_motion.shape_space import gain_of, personal_gain
from wav2lip.renderer.inner_mouth import InnerMouthBank
from wav2lip.renderer.painter_inference import NetworkPainter
from wav2lip.renderer.painter_inputs import WEIGHTS as PAINTER_WEIGHTS
from wav2lip.renderer.renderer import MouthRenderer

LANDMARK_WEIGHTS = Path(landmarks.__file__).parent / WEIGHTS
LANDMARKS = ("mesh", "fan")
# An independent mesh sees 0.66 to 0.87 of the opening asked for (four people), since lips are warped from their red
# edge, which lies outside the mesh's; predictions vary as much as real speakers, so they are enlarged in part.
SHOWN_LESS = 1.15
MESH_GAP = 0.5  # units between the inner lips of a closed mouth in the mesh
MIN_GAIN_FRAMES = 25  # frames; fewer, as of a photo, do not tell how much a face moves


@dataclass(frozen=True)
class MeshEngine:
    """The networks: landmarks with their weight file, lip motion and, if any, the finder of what covers a face;
    `analyses` keeps what was found out about faces, for jobs one after the other."""

    landmarks: LandmarkNetwork
    motion: LipMotionModel
    landmark_weights: Path = LANDMARK_WEIGHTS
    occlusion: OcclusionFinder | None = None
    analyses: AnalysisCache | None = None

    @classmethod
    def load(cls, landmarks: str = "mesh", fan: Path | str | None = None, device: str = "cpu") -> MeshEngine:
        """Loads the networks.

        Args:
            landmarks: "mesh", our own network, or "fan", face-alignment's.
            fan: FAN's weights; None: where face-alignment keeps them.
            device: where FAN runs, see `load_fan`; everything else runs on the CPU.

        Raises:
            UsageError: a weight file is missing or damaged, or `landmarks` is neither.
        """
        if landmarks not in LANDMARKS:
            raise UsageError(f"landmarks must be {' or '.join(LANDMARKS)}, not {landmarks!r}")
        if landmarks == "mesh":
            if fan is not None:
                raise UsageError("fan is the weight file of the landmarks fan: choose them, too")
            with ThreadPoolExecutor(2) as pool:  # reading compiled networks takes a tenth of a second each
                motion, occlusion = pool.submit(LipMotionModel.load), pool.submit(OcclusionFinder.load)
                return cls(load_landmarks(), motion.result(), occlusion=occlusion.result())
        from preprocessing.faces.landmarks.fan import find_fan, load_fan  # imports torch

        weights = find_fan(fan)
        return cls(load_fan(weights, device), LipMotionModel.load(), weights, OcclusionFinder.load())

    def remembering(self) -> MeshEngine:
        """The same with a memory for faces: for several jobs one after the other, which may have the same face."""
        return replace(self, analyses=AnalysisCache())

    def provenance(self, options: Options) -> tuple[list[Path], str] | None:
        """The weight files; the networks run on the CPU, but for FAN."""
        files = [self.landmark_weights, MOTION_WEIGHTS]
        files += [PAINTER_WEIGHTS] if options.paint else []
        files += [OCCLUSION_WEIGHTS] if self.occlusion else []
        return files, "mesh on cpu"

    def start(self, job: JobInput, progress: AnalysisProgress | None = None) -> MeshJob:
        """Reads the speech and tracks the faces through every frame to be shown.

        Raises:
            MediaError: a speech file has no audio.
        """
        with job.clock("sound"):
            speech = self._hear(job)  # before any frame is decoded: encoding speech takes memory, too
        speech_frames = max(frames for _, frames in speech.values())
        count = job.source.count if job.options.save_track else min(job.source.count, speech_frames)
        key = analysis_key(job, count) if self.analyses else None
        known = self.analyses.find(key) if self.analyses and key else None
        people = self._people(job, known)
        kept = known is not None
        try:
            with job.clock("track"):
                if known is None:
                    self.observe(job, people, count, progress)
            if self.analyses and key and not kept:
                self.analyses.keep(key, Analysis(people[0].store, people[0].renderer.bank))
                kept = True
            with job.clock("motion"):
                for person in people:
                    self._prepare(person, speech)
        except BaseException:
            if not kept:
                _close(people)
            raise
        return MeshJob(job, speech_frames, people, kept)

    def _hear(self, job: JobInput) -> dict[Utterance, tuple[HeardSpeech, int]]:
        """By utterance: what is heard in it, and the output frame at which it ends."""
        files: dict[Path, tuple[HeardSpeech, int]] = {}
        speech = {}
        for said in (said for role in job.roles for said in role.utterances):
            if said.audio not in files:
                samples = read_speech(said.audio, track=job.options.audio_track)
                files[said.audio] = self.motion.hear(samples), len(samples)
            heard, length = files[said.audio]
            end = said.first + frame_count(length, job.source.fps, AudioConfig())
            speech[said] = heard, end if said.last is None else min(end, said.last)
        return speech

    def _people(self, job: JobInput, known: Analysis | None) -> list[MeshPerson]:
        """The people of a job, of whom nothing is known yet but what an earlier job found out."""
        painter = NetworkPainter.load() if job.options.paint else None
        if painter is not None:
            painter = replace(painter, network=job.clock.timed("paint", painter.network))
        occlusion = self.occlusion and job.clock.timed("occlusion", self.occlusion)
        return [
            MeshPerson(
                role.utterances,
                known.store if known else LandmarkStore(),
                MouthRenderer(known.bank if known else InnerMouthBank(), painter=painter),
                strength=job.options.strength,
                occlusion=occlusion,
            )
            for role in job.roles
        ]

    def observe(
        self, job: JobInput, people: Sequence[MeshPerson], count: int, progress: AnalysisProgress | None = None
    ) -> None:  # fmt: skip
        """The first pass: one walk over the first `count` frames, whatever the number of people."""
        for index, frame, found in track_landmarks(job, self.landmarks, count):
            with job.clock("collect"):
                people[index].observe(frame, found)
            if progress and index == 0:
                progress("frame", len(people[0].store), count)

    def _prepare(self, person: MeshPerson, speech: Mapping[Utterance, tuple[HeardSpeech, int]]) -> None:
        """Sets a person's rest shape and lip motion."""
        if not person.store.any_face():
            return
        shapes = person.store.shapes()
        person.rest = self.rest(shapes)
        span = self.motion_range(shapes, person.rest)
        for said in person.utterances:
            heard, last = speech[said]
            motion = self.motion.motion(heard, gain=span.gain, rest_gap=span.rest_gap)
            person.spoken.append(Spoken(said.first, last, motion, said.active))

    def rest(self, shapes: np.ndarray) -> np.ndarray:
        """The person's rest shape from (N, 206, 3) unposed shapes; estimated if the mouth never closes in them."""
        shape = rest_shape(shapes)
        rest_map = self.motion.rest
        return shape if rest_map is None else rest_map.rest(shape)

    def motion_range(self, shapes: np.ndarray, rest: np.ndarray) -> MotionRange:
        """How far this person's mouth moves, and opens at rest."""
        below = lower_face()
        own = gain_of(shapes[:, below] - rest[below]) if len(shapes) >= MIN_GAIN_FRAMES else 0.0
        rest_gap = max(float(opening(rest)) - MESH_GAP, REST_GAP)
        return MotionRange(SHOWN_LESS * personal_gain(own, self.motion.gain), rest_gap)


def _close(people: Sequence[MeshPerson]) -> None:
    for person in people:
        person.store.close()


@dataclass
class MeshJob:
    """One job of a `MeshEngine`, after the analysis pass; `kept`: others may use the landmarks later."""

    job: JobInput
    speech_frames: int
    people: list[MeshPerson]
    kept: bool = False

    @property
    def planar(self) -> bool:
        """Frames stay planar if the source can give them so; see `RenderJob`."""
        return self.job.source.planar and not self._lively

    @property
    def _lively(self) -> bool:
        """Whether the face is a photo that moves."""
        return self.job.source.still and self.job.options.photo_motion != "none"

    def has_face(self) -> bool:
        """Whether any frame has a usable face."""
        return any(person.rest is not None for person in self.people)

    def track(self) -> FaceTrack:
        """The face track of the first person in the analyzed frames."""
        boxes, points, found = self.people[0].store.boxes_and_points()
        return FaceTrack(boxes, points, found, np.zeros(len(found), np.int32), size=self.job.source.size)

    def close(self) -> None:
        """Removes the temporary landmark files."""
        if not self.kept:
            _close(self.people)

    def render(
        self, frames: Iterable[tuple[int, np.ndarray]], total: int, depth: int
    ) -> Generator[RenderedFrame, None, None]:
        """Renders the mouths, each from the input frame; see `RenderJob.render`."""
        source, mode, clock = self.job.source, self.job.options.sync_mode, self.job.clock
        people = [person for person in self.people if person.rest is not None]
        orders = (source.order(total, mode, len(person.store)) for person in people)
        plans = [person.plans(order, total, source.fps) for person, order in zip(people, orders, strict=True)]
        motions: list[PhotoMotion] | None = None
        for position, (number, frame) in enumerate(frames):
            with clock("plan"):
                planned = [(person, next(plan, None)) for person, plan in zip(people, plans, strict=True)]
            shown = [(person, *plan) for person, plan in planned if plan is not None and plan[0].number == number]
            result = frame
            with clock("render"):
                if shown:
                    result = frame.copy()
                for person, plan, mouth in shown:
                    person.render(result, frame, plan, mouth)
            if self._lively:
                with clock("move"):
                    motions = self._motions(frame) if motions is None else motions
                    for motion in motions:
                        result = motion.at(result, float(Fraction(position) / source.fps))
            yield RenderedFrame(frame, result, bool(shown), shown[0][1].mouth_box() if shown else None)

    def _motions(self, photo: np.ndarray) -> list[PhotoMotion]:
        """What each person in a photo does."""
        faces = [person.store.landmarks(0) for person in self.people]
        kind = self.job.options.photo_motion
        return [PhotoMotion(photo, face.points, kind, k) for k, face in enumerate(faces) if face is not None]
