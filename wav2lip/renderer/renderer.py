"""Moves a person's own pixels to a target shape and fills the opened mouth from the person's own frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from preprocessing.errors import UsageError
from preprocessing.faces.mesh import LIPS_INNER, HeadPose, Landmarks
from wav2lip.renderer.inner_mouth import InnerMouth, InnerMouthBank, head_angles, in_plane, mouth_plane
from wav2lip.renderer.lip_edges import lip_edges, with_edges
from wav2lip.renderer.mouth_choice import MouthChooser, MouthTarget, choose_mouths
from wav2lip.renderer.mouth_fill import MouthPainter, Opening, fill_share, paint_mouth
from wav2lip.renderer.target import target_shape
from wav2lip.renderer.triangulation import vertices_in_frame
from wav2lip.renderer.warp import warp_frame

__all__ = ["MouthRenderer", "mouth_target", "target_shape"]

PRESENT = 0.5  # a face of less presence is not learned from


def mouth_target(pose: HeadPose, target: np.ndarray) -> MouthTarget:
    """What the bank is asked for: the inner lips of (206, 3) target points under a head's pose."""
    return MouthTarget(in_plane(target[LIPS_INNER], mouth_plane(pose)), head_angles(pose))


@dataclass
class MouthRenderer:
    """Renders one person, frame by frame; deterministic.

    From a file: `observe` every frame, `plan` the mouths of all targets, then `render` each with its mouth. From a
    stream: `observe` and `render` each frame as it comes, without a mouth; it is then chosen without look-ahead.
    """

    bank: InnerMouthBank = field(default_factory=InnerMouthBank)
    chooser: MouthChooser = field(default_factory=MouthChooser)
    painter: MouthPainter = paint_mouth

    def __post_init__(self) -> None:
        if self.chooser.look_ahead:
            raise UsageError(f"render decides at once: look_ahead must be 0, not {self.chooser.look_ahead}")

    def observe(self, frame: np.ndarray, landmarks: Landmarks, pose: HeadPose | None = None) -> None:
        """Learn the inner mouth of a (H, W, 3) uint8 frame if it is open, uncovered and new."""
        if landmarks.presence >= PRESENT:
            self.bank.observe(frame, np.asarray(landmarks.points, np.float64), pose)

    def plan(self, targets: Sequence[MouthTarget]) -> list[InnerMouth | None]:
        """The inner mouth for every frame of a sequence."""
        return choose_mouths(targets, self.bank.entries)

    def render(
        self,
        frame: np.ndarray,
        points: np.ndarray,
        target: np.ndarray,
        *,
        amount: float = 1.0,
        pose: HeadPose | None = None,
        mouth: InnerMouth | None = None,
    ) -> np.ndarray:
        """A frame with its face moved.

        Args:
            frame: (H, W, 3) uint8, is not changed.
            points: (206, 3) mesh points as seen, pixels.
            target: (206, 3) where they shall go, see `target_shape`.
            amount: 0 for the frame as it is, 1 for the target; fades the effect in and out.
            pose: the head's pose if known.
            mouth: the inner mouth, from `plan`; None to choose one now.

        Returns:
            (H, W, 3) uint8, a new frame, the same to the bit outside the moved pixels.

        Raises:
            UsageError: amount is not within 0 to 1.
        """
        if not 0 <= amount <= 1:
            raise UsageError(f"amount is between 0 and 1, not {amount}")
        result, points = frame.copy(), np.asarray(points, np.float64)
        moved = points + amount * (np.asarray(target, np.float64) - points)
        pose = pose or HeadPose.of(points)
        wanted = mouth_target(pose, moved)
        mouth = mouth or self.chooser.push(wanted, self.bank.entries)[0]
        if np.array_equal(moved, points):
            return result
        scale = float(pose.scale)
        source = vertices_in_frame(with_edges(points, lip_edges(frame, points), amount), pose)
        pixels, area = warp_frame(frame, source, vertices_in_frame(points, pose, moved), scale)
        plane = mouth_plane(pose)
        share = amount * fill_share(wanted.ring, in_plane(points[LIPS_INNER], plane))
        opening = Opening(moved[LIPS_INNER, :2], plane, scale, share)
        self.painter(pixels, area, opening, mouth, self.bank.dark())
        area.of(result)[:] = pixels
        return result
