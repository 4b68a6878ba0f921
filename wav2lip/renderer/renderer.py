"""Warps a face to a target shape and fills the opened mouth from the person's own frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from preprocessing.errors import UsageError
from preprocessing.faces.mesh import LIPS_INNER, HeadPose, Landmarks
from wav2lip.renderer.inner_mouth import InnerMouth, InnerMouthBank, head_angles, mouth_plane, to_mouth_plane
from wav2lip.renderer.lip_edges import lip_edges, with_lip_edges
from wav2lip.renderer.mouth_choice import MouthChooser, MouthTarget, choose_mouths
from wav2lip.renderer.mouth_fill import MouthPainter, Opening, fill_opacity, paint_mouth
from wav2lip.renderer.target import target_shape
from wav2lip.renderer.triangulation import vertices_in_frame
from wav2lip.renderer.warp import warp_frame

__all__ = ["MouthRenderer", "mouth_target", "target_shape"]

PRESENT = 0.5  # faces with lower presence are not added to the bank


def mouth_target(pose: HeadPose, target: np.ndarray) -> MouthTarget:
    """The target mouth to match with the bank: the inner lips of (206, 3) target points under a head pose."""
    return MouthTarget(to_mouth_plane(target[LIPS_INNER], mouth_plane(pose)), head_angles(pose))


@dataclass
class MouthRenderer:
    """Renders one person frame by frame; deterministic.

    For files: `observe` every frame, `plan` the mouths of all targets, then `render` each frame with its mouth. For
    streams: `observe` and `render` each frame without a mouth; it is then selected without lookahead.
    """

    bank: InnerMouthBank = field(default_factory=InnerMouthBank)
    chooser: MouthChooser = field(default_factory=MouthChooser)
    painter: MouthPainter = paint_mouth

    def __post_init__(self) -> None:
        if self.chooser.lookahead:
            raise UsageError(f"render selects mouths immediately: lookahead must be 0, not {self.chooser.lookahead}")

    def observe(self, frame: np.ndarray, landmarks: Landmarks, pose: HeadPose | None = None) -> None:
        """Adds the inner mouth of an (H, W, 3) uint8 frame to the bank if it is open, unoccluded and new."""
        if landmarks.presence >= PRESENT:
            self.bank.observe(frame, np.asarray(landmarks.points, np.float64), pose)

    def plan(self, targets: Sequence[MouthTarget]) -> list[InnerMouth | None]:
        """Selects the inner mouth for each frame of a sequence."""
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
        """Renders a frame with the target shape.

        Args:
            frame: (H, W, 3) uint8, not modified.
            points: (206, 3) mesh points of the frame, pixels.
            target: (206, 3) target points, see `target_shape`.
            amount: 0 for the original frame, 1 for the target; fades the effect in and out.
            pose: head pose, if known.
            mouth: the inner mouth from `plan`; None to select one now.

        Returns:
            (H, W, 3) uint8, a new frame, bit-identical outside the warped region.

        Raises:
            UsageError: amount is not in 0 to 1.
        """
        if not 0 <= amount <= 1:
            raise UsageError(f"amount must be from 0 to 1, not {amount}")
        result, points = frame.copy(), np.asarray(points, np.float64)
        moved = points + amount * (np.asarray(target, np.float64) - points)
        pose = pose or HeadPose.of(points)
        wanted = mouth_target(pose, moved)
        mouth = mouth or self.chooser.push(wanted, self.bank.entries)[0]
        if np.array_equal(moved, points):
            return result
        scale = float(pose.scale)
        source = vertices_in_frame(with_lip_edges(points, lip_edges(frame, points), amount), pose)
        pixels, area = warp_frame(frame, source, vertices_in_frame(points, pose, moved), scale)
        plane = mouth_plane(pose)
        share = amount * fill_opacity(wanted.ring, to_mouth_plane(points[LIPS_INNER], plane))
        opening = Opening(moved[LIPS_INNER, :2], plane, scale, share)
        self.painter(pixels, area, opening, mouth, self.bank.dark())
        area.view(result)[:] = pixels
        return result
