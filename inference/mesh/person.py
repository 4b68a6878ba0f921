"""One person of a job: landmarks and mouths collected in the first pass, and the plan of each rendered frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice

import numpy as np

from inference.engine import Utterance
from inference.mesh.landmark_store import FADE, LandmarkStore
from preprocessing.faces.mesh import LIPS_OUTER, HeadPose, Landmarks, lower_face
from preprocessing.faces.occlusion.mask import FindOcclusion, OcclusionMask
from wav2lip.lip_motion.motion import LipMotion
from wav2lip.renderer.inner_mouth import InnerMouth
from wav2lip.renderer.mouth_choice import MouthTarget
from wav2lip.renderer.renderer import MouthRenderer, mouth_targets, target_shape
from wav2lip.renderer.warp import FrameOrPlanes

PLAN_BLOCK = 500  # frames whose inner mouths are chosen jointly
SHAPE_BLOCK = 100  # frames whose shapes are computed at once; more take memory and gain nothing
LOOK_EVERY = 3  # frames; how often a free mouth is looked at for what covers it
MAX_LOOKS = 1000  # that are remembered; what covers a face takes 12 kB each
MOUTH_MARGIN = 0.6  # of the mouth's width, around it in the preview


@dataclass(frozen=True)
class Spoken:
    """An utterance with its lip motion; `last` is one past its last output frame."""

    first: int
    last: int
    motion: LipMotion
    active: np.ndarray | None = None

    def amount(self, position: int, number: int, total: int) -> float:
        """Weight of the mouth at an output position that shows source frame `number`; fades in and out inside."""
        amount = 1.0 if self.active is None else float(self.active[min(number, len(self.active) - 1)])
        if self.last < total:  # the rest of the video follows: fade out, so that the mouth does not snap back
            amount = min(amount, (self.last - position) / FADE)
        if self.first > 0:
            amount = min(amount, (position - self.first + 1) / FADE)
        return amount


@dataclass(frozen=True)
class Unplanned:
    """What the plan of source frame `number` is made from: landmarks, (P, 3) displacement and weight of the mouth."""

    number: int
    found: Landmarks
    displacement: np.ndarray
    amount: float


@dataclass(frozen=True)
class FramePlan:
    """How a person's mouth is rendered in one frame."""

    number: int
    points: np.ndarray
    pose: HeadPose
    target: np.ndarray
    amount: float
    mouth: MouthTarget

    @classmethod
    def several(cls, frames: Sequence[Unplanned], rest: np.ndarray, strength: float) -> list[FramePlan]:
        """The plans of frames at once: one by one, the many small arrays would cost several times as much.

        Args:
            rest: (206, 3) the person's rest shape, to which the displacements are relative.
        """
        if not frames:
            return []
        points = np.stack([frame.found.points for frame in frames]).astype(np.float64)
        poses = HeadPose.of(points)
        moved = np.zeros((len(frames), *rest.shape))
        moved[:, lower_face()] = [frame.displacement for frame in frames]
        targets = target_shape(points, rest, moved, strength, poses)
        mouths = mouth_targets(poses, targets)
        return [
            cls(frame.number, points[k], poses[k], targets[k], frame.amount, mouths[k])
            for k, frame in enumerate(frames)
        ]

    def mouth_box(self) -> tuple[int, int, int, int]:
        """The mouth and some of its surroundings: top, bottom, left, right in pixels, possibly beyond the frame."""
        ring = np.vstack([self.points[[*LIPS_OUTER], :2], self.target[[*LIPS_OUTER], :2]])
        margin = MOUTH_MARGIN * float(np.ptp(ring[:, 0]))
        (left, top), (right, bottom) = ring.min(0) - margin, ring.max(0) + margin
        return round(top), round(bottom), round(left), round(right)


@dataclass
class MeshPerson:
    """A person's landmarks by frame, inner mouths, rest shape (None without a usable face) and utterances.

    `occlusion` finds what covers the face, which then stays as it was; None: nothing is looked for. `looks` has what it
    found, by source frame, for the first ones: frames are seen twice or, in a photo or a repeated video, more often.
    """

    utterances: Sequence[Utterance]
    store: LandmarkStore = field(default_factory=LandmarkStore)
    renderer: MouthRenderer = field(default_factory=MouthRenderer)
    rest: np.ndarray | None = None
    spoken: list[Spoken] = field(default_factory=list)
    strength: float = 1.0
    occlusion: FindOcclusion | None = None
    looks: dict[int, OcclusionMask | None] = field(default_factory=dict)
    _free: int = field(default=0, init=False)  # first frames whose mouth counts as free
    _unseen: int = field(default=0, init=False)  # frames until the next look for what covers the mouth

    def observe(self, frame: np.ndarray, found: Landmarks | None) -> None:
        """Adds the next frame, (H, W, 3) uint8, with the person's landmarks."""
        self.store.append(found)
        if found is not None and self.store.landmarks(len(self.store) - 1) is not None:
            self.renderer.observe(frame, found, found.pose, lambda: self._covered(frame, found))

    def _covered(self, frame: np.ndarray, found: Landmarks) -> bool:
        """Whether something is in front of the mouth of the frame observed last; see `_covering`."""
        if self.occlusion is None or len(self.store) <= self._free:
            return False
        if self._look(frame, len(self.store) - 1, found.points, found.pose) is not None:
            return True
        self._free = len(self.store) + LOOK_EVERY - 1
        return False

    def plans(
        self, numbers: Iterator[int], total: int, fps: Fraction
    ) -> Iterator[tuple[FramePlan, InnerMouth | None] | None]:  # fmt: skip
        """The plan and inner mouth of each output frame, which show these source frames; None: left unchanged."""
        output = enumerate(numbers)
        while positions := list(islice(output, PLAN_BLOCK)):
            block = self.planned(positions, total, fps)
            mouths = iter(self.renderer.plan([plan.mouth for plan in block if plan is not None]))
            for plan in block:
                yield None if plan is None else (plan, next(mouths))

    def planned(self, positions: Sequence[tuple[int, int]], total: int, fps: Fraction) -> list[FramePlan | None]:
        """The plans of output frames, of `total`, by position and the source frame that they show."""
        plans: dict[int, FramePlan] = {}
        for said in self.spoken if self.rest is not None else ():
            part = {place: number for place, number in positions if said.first <= place < said.last}
            plans |= self._said(said, part, total, fps)
        return [plans.get(place) for place, _ in positions]

    def _said(self, said: Spoken, numbers: dict[int, int], total: int, fps: Fraction) -> dict[int, FramePlan]:
        """The plans of frames in which an utterance is said, by position; none where the face or mouth is left."""
        assert self.rest is not None
        found = {place: self.store.landmarks(number) for place, number in numbers.items()}
        amounts = {
            place: min(self.store.amount(number), said.amount(place, number, total))
            for place, number in numbers.items()
        }
        shown = [place for place in numbers if found[place] is not None and amounts[place] > 0]
        motion = said.motion.at_times([Fraction(place - said.first) / fps for place in shown])
        unplanned = [
            Unplanned(numbers[place], face, displacement, amounts[place])
            for place, displacement in zip(shown, motion, strict=True)
            if (face := found[place]) is not None
        ]
        blocks = (unplanned[first : first + SHAPE_BLOCK] for first in range(0, len(unplanned), SHAPE_BLOCK))
        plans = [plan for block in blocks for plan in FramePlan.several(block, self.rest, self.strength)]
        return dict(zip(shown, plans, strict=True))

    def render(
        self, result: FrameOrPlanes, frame: FrameOrPlanes, plan: FramePlan, mouth: InnerMouth | None
    ) -> None:  # fmt: skip
        """Renders this person's mouth in a frame into a copy of it, both BGR or planar; what covers it stays."""
        self.renderer.render_into(
            result, frame, plan.points, plan.target, amount=plan.amount, pose=plan.pose, mouth=mouth
        )
        if (mask := self._covering(frame, plan)) is not None:
            mask.restore(result, frame)

    def _covering(self, frame: FrameOrPlanes, plan: FramePlan) -> OcclusionMask | None:
        """What covers the mouth; a free one is looked at in every third frame only."""
        if self.occlusion is None:
            return None
        if self._unseen and plan.number not in self.looks:
            self._unseen -= 1
            return None
        mask = self._look(frame, plan.number, plan.points, plan.pose)
        self._unseen = 0 if mask is not None else LOOK_EVERY - 1
        return mask

    def _look(
        self, frame: FrameOrPlanes, number: int, points: np.ndarray, pose: HeadPose
    ) -> OcclusionMask | None:  # fmt: skip
        """What covers the face in a source frame."""
        if number in self.looks:
            return self.looks[number]
        assert self.occlusion is not None
        mask = self.occlusion(frame, points, pose)
        if len(self.looks) < MAX_LOOKS:
            self.looks[number] = mask
        return mask
