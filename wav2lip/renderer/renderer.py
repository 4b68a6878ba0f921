"""Warps a face to a target shape and fills the opened mouth from the person's own frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from preprocessing.errors import UsageError
from preprocessing.faces.mesh import LIPS_INNER, LIPS_OUTER, HeadPose, Landmarks
from preprocessing.media.planar_frame import PlanarFrame
from wav2lip.renderer.inner_mouth import (
    HARDLY_OPEN,
    Covered,
    InnerMouth,
    InnerMouthBank,
    head_angles,
    mouth_plane,
    skin_color,
    teeth_place,
    to_mouth_plane,
)
from wav2lip.renderer.lip_edges import lip_edges, with_lip_edges
from wav2lip.renderer.mouth_choice import MouthChooser, MouthTarget, choose_mouths
from wav2lip.renderer.mouth_fill import Opening, fill_mouth, fill_opacity
from wav2lip.renderer.painter_inference import KnownMouth, NetworkPainter, painted_area
from wav2lip.renderer.painter_inputs import reference_crop
from wav2lip.renderer.target import target_shape
from wav2lip.renderer.triangulation import vertices_in_frame
from wav2lip.renderer.warp import FrameOrPlanes, Rectangle, warp_into

__all__ = ["MouthRenderer", "mouth_target", "mouth_targets", "target_shape"]

PRESENT = 0.5  # faces with lower presence are not added to the bank


def mouth_target(pose: HeadPose, target: np.ndarray) -> MouthTarget:
    """The target mouth to match with the bank: the inner lips of (206, 3) target points under a head pose."""
    return MouthTarget(to_mouth_plane(target[LIPS_INNER], mouth_plane(pose)), head_angles(pose))


def mouth_targets(poses: HeadPose, targets: np.ndarray) -> list[MouthTarget]:
    """`mouth_target` of N frames at once: (N, 206, 3) target points under N head poses."""
    planes = mouth_plane(poses)
    shifted = targets[:, LIPS_INNER, :2] - planes[:, None, :, 2]
    rings = shifted @ np.swapaxes(np.linalg.inv(planes[..., :2]), -1, -2)
    return [MouthTarget(ring, angles) for ring, angles in zip(rings, head_angles(poses), strict=True)]


@dataclass
class MouthRenderer:
    """Renders one person frame by frame; deterministic.

    For files: `observe` every frame, `plan` the mouths of all targets, then `render` each frame with its mouth. For
    streams: `observe` and `render` each frame without a mouth; it is then selected without lookahead.

    A person of whom no open mouth is known gets drawn teeth. A painter paints only where a known mouth falls short.
    """

    bank: InnerMouthBank = field(default_factory=InnerMouthBank)
    chooser: MouthChooser = field(default_factory=MouthChooser)
    painter: NetworkPainter | None = None
    _reference: tuple[InnerMouth | None, bytes, np.ndarray] | None = None  # cached result of `reference_crop`

    def __post_init__(self) -> None:
        if self.chooser.lookahead:
            raise UsageError(f"render selects mouths immediately: lookahead must be 0, not {self.chooser.lookahead}")

    def observe(
        self, frame: np.ndarray, landmarks: Landmarks, pose: HeadPose | None = None, covered: Covered | None = None
    ) -> None:
        """Adds the inner mouth of an (H, W, 3) uint8 frame to the bank if it is open, new and not `covered`."""
        if landmarks.presence >= PRESENT:
            self.bank.observe(frame, np.asarray(landmarks.points, np.float64), pose, covered)

    def plan(self, targets: Sequence[MouthTarget]) -> list[InnerMouth | None]:
        """Selects the inner mouth for each frame of a sequence."""
        return choose_mouths(targets, self.mouths())

    def mouths(self) -> list[InnerMouth]:
        """To choose from: the bank's, unless all are hardly open: such a mouth, stretched, would be a dark slit."""
        widest = self.bank.widest()
        return self.bank.entries if widest is not None and widest.opening >= HARDLY_OPEN else []

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
        result = frame.copy()
        self.render_into(result, frame, points, target, amount=amount, pose=pose, mouth=mouth)
        return result

    def render_into(
        self,
        result: FrameOrPlanes,
        frame: FrameOrPlanes,
        points: np.ndarray,
        target: np.ndarray,
        *,
        amount: float = 1.0,
        pose: HeadPose | None = None,
        mouth: InnerMouth | None = None,
    ) -> None:
        """Renders a frame into a copy of it, which may show other people already; see `render`.

        Only the region of the mouth of a `PlanarFrame` is converted to BGR; the rest is warped in its planes.
        """
        if not 0 <= amount <= 1:
            raise UsageError(f"amount must be from 0 to 1, not {amount}")
        points = np.asarray(points, np.float64)
        moved = points + amount * (np.asarray(target, np.float64) - points)
        pose = pose or HeadPose.of(points)
        if mouth is None and (entries := self.mouths()):
            mouth = self.chooser.push(mouth_target(pose, moved), entries)[0]
        if not np.array_equal(moved, points):
            self._render(result, frame, points, moved, amount, pose, mouth)

    def _render(
        self,
        result: FrameOrPlanes,
        frame: FrameOrPlanes,
        points: np.ndarray,
        moved: np.ndarray,
        amount: float,
        pose: HeadPose,
        mouth: InnerMouth | None,
    ) -> None:
        scale, plane = float(pose.scale), mouth_plane(pose)
        here, ring = (to_mouth_plane(at[LIPS_INNER], plane) for at in (points, moved))
        known, share = self.bank.teeth(), amount * fill_opacity(ring, here)
        place = teeth_place(here) if known is None else known
        rings = np.vstack([at[[*LIPS_OUTER, *LIPS_INNER], :2] for at in (points, moved)])
        area = painted_area(plane, place, rings, scale, frame.shape)
        before, corner = area.view(frame), np.array([area.left, area.top, 0])
        edges = lip_edges(before, points - corner) + corner if before.size else points[LIPS_INNER]
        skin = skin_color(before, points - corner) if before.size else None
        opening = Opening(moved[LIPS_INNER, :2], plane, scale, share, place, skin)
        source = vertices_in_frame(with_lip_edges(points, edges, amount), pose)
        warp_into(result, frame, source, vertices_in_frame(points, pose, moved), scale)
        if not before.size:
            return
        pixels = area.view(result)
        warped = pixels.copy()
        self._fill(pixels, warped, area, opening, moved[LIPS_OUTER, :2], before, mouth)
        if isinstance(result, PlanarFrame):
            result.paste(area.top, area.left, warped, pixels)

    def _fill(
        self,
        pixels: np.ndarray,
        warped: np.ndarray,
        area: Rectangle,
        opening: Opening,
        outer: np.ndarray,
        before: np.ndarray,
        mouth: InnerMouth | None,
    ) -> None:
        """Fills the opening in place; the painter, if there is one, completes a mouth of the bank."""
        filled = fill_mouth(pixels, area, opening, mouth, self.bank.dark())
        if filled is None or mouth is None or self.painter is None or opening.teeth is None:
            return
        known = KnownMouth(before, opening.teeth, self._reference_crop(opening.teeth))
        self.painter.paint(pixels, warped, area, opening, outer, known, filled)

    def _reference_crop(self, origin: np.ndarray) -> np.ndarray:
        """The crop of the widest open mouth, which rarely changes."""
        widest, place = self.bank.widest(), origin.tobytes()
        if self._reference is None or self._reference[0] is not widest or self._reference[1] != place:
            self._reference = widest, place, reference_crop(widest, origin)
        return self._reference[2]
