"""Warps a face to a target shape and fills the opened mouth from the person's own frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from preprocessing.errors import UsageError
from preprocessing.faces.mesh import LIPS_INNER, LIPS_OUTER, HeadPose, Landmarks
from wav2lip.renderer.inner_mouth import (
    InnerMouth,
    InnerMouthBank,
    head_angles,
    mouth_plane,
    teeth_place,
    to_mouth_plane,
)
from wav2lip.renderer.lip_edges import lip_edges, with_lip_edges
from wav2lip.renderer.mouth_choice import MouthChooser, MouthTarget, choose_mouths
from wav2lip.renderer.mouth_fill import Opening, fill_opacity
from wav2lip.renderer.painter_inference import KnownMouth, NetworkPainter, fill_only
from wav2lip.renderer.target import target_shape
from wav2lip.renderer.triangulation import vertices_in_frame
from wav2lip.renderer.warp import warp_frame

__all__ = ["MouthRenderer", "mouth_target", "target_shape"]

PRESENT = 0.5  # faces with lower presence are not added to the bank
HARDLY_OPEN = 1.6  # units; with a mouth known no further open than this, teeth are drawn


def mouth_target(pose: HeadPose, target: np.ndarray) -> MouthTarget:
    """The target mouth to match with the bank: the inner lips of (206, 3) target points under a head pose."""
    return MouthTarget(to_mouth_plane(target[LIPS_INNER], mouth_plane(pose)), head_angles(pose))


@dataclass
class MouthRenderer:
    """Renders one person frame by frame; deterministic.

    For files: `observe` every frame, `plan` the mouths of all targets, then `render` each frame with its mouth. For
    streams: `observe` and `render` each frame without a mouth; it is then selected without lookahead.

    `paint` fills an opening with the signature of `NetworkPainter.paint`: the painter's, or `fill_only` without one.
    """

    bank: InnerMouthBank = field(default_factory=InnerMouthBank)
    chooser: MouthChooser = field(default_factory=MouthChooser)
    painter: NetworkPainter | None = None
    paint: Callable[..., object] = field(init=False)

    def __post_init__(self) -> None:
        if self.chooser.lookahead:
            raise UsageError(f"render selects mouths immediately: lookahead must be 0, not {self.chooser.lookahead}")
        self.paint = fill_only if self.painter is None else self.painter.paint

    def observe(self, frame: np.ndarray, landmarks: Landmarks, pose: HeadPose | None = None) -> None:
        """Adds the inner mouth of an (H, W, 3) uint8 frame to the bank if it is open, unoccluded and new."""
        if landmarks.presence >= PRESENT:
            self.bank.observe(frame, np.asarray(landmarks.points, np.float64), pose)

    def plan(self, targets: Sequence[MouthTarget]) -> list[InnerMouth | None]:
        """Selects the inner mouth for each frame of a sequence."""
        return choose_mouths(targets, self._entries())

    def _entries(self) -> list[InnerMouth]:
        """The bank's entries, unless they are hardly open: such a mouth stretched would be darker than drawn teeth."""
        widest = self.bank.widest()
        return [] if widest is None or widest.opening < HARDLY_OPEN else self.bank.entries

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
        mouth = mouth or self.chooser.push(wanted, self._entries())[0]
        if np.array_equal(moved, points):
            return result
        return self._rendered(frame, points, moved, amount, pose, mouth)

    def _rendered(
        self,
        frame: np.ndarray,
        points: np.ndarray,
        moved: np.ndarray,
        amount: float,
        pose: HeadPose,
        mouth: InnerMouth | None,
    ) -> np.ndarray:
        result, scale, plane = frame.copy(), float(pose.scale), mouth_plane(pose)
        source = vertices_in_frame(with_lip_edges(points, lip_edges(frame, points), amount), pose)
        pixels, area = warp_frame(frame, source, vertices_in_frame(points, pose, moved), scale)
        here, ring = (to_mouth_plane(at[LIPS_INNER], plane) for at in (points, moved))
        known, share = self.bank.teeth(), amount * fill_opacity(ring, here)
        place = teeth_place(here) if known is None else known
        opening = Opening(moved[LIPS_INNER, :2], plane, scale, share, place)
        person = KnownMouth.of(frame, plane, place, self.bank.widest())
        self.paint(pixels, area, opening, moved[LIPS_OUTER, :2], person, mouth, self.bank.dark())
        area.view(result)[:] = pixels
        return result
