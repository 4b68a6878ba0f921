"""Training samples of the painter: one frame's mouth warped to another frame's shape, and what that frame shows.

A mouth is retrieved from further frames of the clip, as in a video; sometimes from a few that are at most half as open
as the widest, or from the frame itself, as in a photo of a smile, so that much is to be repaired. A photo of closed
lips, of which nothing is known, gets drawn teeth; that case is not trained on, but measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from preprocessing.faces.mesh import LIPS_INNER, LIPS_OUTER
from wav2lip.renderer.inner_mouth import (
    HARDLY_OPEN,
    InnerMouth,
    crop_mouth,
    gaps,
    mouth_plane,
    skin_color,
    teeth_place,
    to_mouth_plane,
)
from wav2lip.renderer.lip_edges import lip_edges, with_lip_edges
from wav2lip.renderer.mouth_choice import MouthTarget, fit_costs
from wav2lip.renderer.mouth_fill import Opening, fill_mouth, fill_opacity
from wav2lip.renderer.painter_inputs import (
    ABOVE,
    DENSITY,
    HEIGHT,
    PLANES,
    WIDTH,
    from_image,
    mouth_masks,
    reference_crop,
    to_crop,
)
from wav2lip.renderer.training.crops import SIDE, MouthCrops, crop_pose
from wav2lip.renderer.triangulation import vertices_in_frame
from wav2lip.renderer.warp import warp_frame

CASES = ("photo", "smile", "video", "poor")
SHARES = {"smile": 0.2, "video": 0.45, "poor": 0.35}  # of the training samples
CLOSED = 1.2  # units; a photo's mouth is at most this far open, if the clip has such frames
BANK = 24  # entries from which a video's mouth is retrieved
POOR_OPENING = 0.5  # a poor bank's mouths are at most this fraction as open as the widest
FAR = 0.3  # seconds; a retrieved mouth is not from right beside the target
ANGLE = 9.0  # degrees; larger differences of head pose between a pair are avoided
OPEN_SHARE = 0.65  # of the samples, their target is drawn by openness, so that wide mouths are not rare


@dataclass(frozen=True)
class Pair:
    """Indices of a sample's frames in its clip: source, target, and the bank's."""

    case: str
    source: int
    target: int
    bank: tuple[int, ...]


class SampleMaker:
    """Draws and renders the samples of one clip."""

    def __init__(self, crops: MouthCrops) -> None:
        self.crops, self.pose = crops, crop_pose()
        self.plane = mouth_plane(self.pose)
        images, points = crops.images, crops.points
        self.edges = [lip_edges(image, mesh) for image, mesh in zip(images, points, strict=True)]
        self.shapes = [with_lip_edges(mesh, ring) for mesh, ring in zip(points, self.edges, strict=True)]
        self.rings = np.stack([to_mouth_plane(shape[LIPS_INNER], self.plane) for shape in self.shapes])
        self.openness = np.maximum(gaps(self.rings), 0).mean(axis=1)
        self.known: dict[int, InnerMouth | None] = {}  # bank entries by frame

    def entry(self, index: int) -> InnerMouth | None:
        """The frame as a bank entry; None if it is not open."""
        if index not in self.known:
            mouth = None
            if self.openness[index] >= 1.0:
                mouth = crop_mouth(self.crops.images[index], self.crops.points[index], self.pose, index)
            self.known[index] = mouth
        return self.known[index]

    def knows_mouth(self, pair: Pair) -> bool:
        """Whether a mouth of the pair's bank is open enough to be shown, see `MouthRenderer`."""
        entries = (self.entry(index) for index in pair.bank)
        return any(mouth is not None and mouth.opening >= HARDLY_OPEN for mouth in entries)

    def draw(self, rng: np.random.Generator, case: str) -> Pair:
        """Draws the frames of a sample of a case."""
        target = self._draw_target(rng, case)
        turned = np.linalg.norm(self.crops.angles - self.crops.angles[target], axis=1)
        apart = np.abs(self.crops.times - self.crops.times[target]) > FAR
        near = np.flatnonzero((turned < ANGLE) & apart)
        near = near if len(near) else np.array([target])
        if case in ("photo", "smile"):
            return self._photo(rng, case, target, near)
        bank = rng.permutation(near)
        if case == "poor":
            few = self.openness[bank] < POOR_OPENING * self.openness.max()
            bank = bank[few][: int(rng.integers(1, 6))]
        return Pair(case, int(rng.choice(near)), target, tuple(bank[:BANK].tolist()))

    def _draw_target(self, rng: np.random.Generator, case: str) -> int:
        some = rng.integers(0, len(self.openness), 4)
        if rng.random() < (OPEN_SHARE if case != "photo" else 0.8):
            return int(some[self.openness[some].argmax()])
        return int(some[0])

    def _photo(self, rng: np.random.Generator, case: str, target: int, near: np.ndarray) -> Pair:
        closed = self.openness[near] < CLOSED
        if case == "photo":
            closest = near[self.openness[near] <= np.quantile(self.openness[near], 0.1)]
            return Pair(case, int(rng.choice(near[closed] if closed.any() else closest)), target, ())
        source = int(rng.choice(near[~closed] if (~closed).any() else near))
        return Pair(case, source, target, (source,))

    def render(self, pair: Pair, teeth: bool = True) -> np.ndarray:
        """The sample: (channels of PLANES, HEIGHT, WIDTH) uint8, as the renderer shows it without a painter.

        `teeth`: draw a tongue, and average teeth where no mouth is retrieved.
        """
        frame, points = self.crops.images[pair.source], self.crops.points[pair.source]
        moved = self.shapes[pair.target]
        source = vertices_in_frame(self.shapes[pair.source], self.pose)
        pixels, area = warp_frame(frame, source, vertices_in_frame(points, self.pose, moved), DENSITY)
        warped = frame.copy()
        area.view(warped)[:] = pixels
        entries = [mouth for index in pair.bank if (mouth := self.entry(index)) is not None]
        wanted = MouthTarget(self.rings[pair.target], self.crops.angles[pair.target])
        mouth = entries[int(fit_costs([wanted], entries).argmin())] if entries else None
        widest = max(entries, key=lambda entry: entry.opening, default=None)
        dark = min((entry.dark for entry in entries), key=lambda color: float(color.sum()), default=None)
        share = fill_opacity(wanted.ring, to_mouth_plane(points[LIPS_INNER], self.plane))
        place = teeth_place(to_mouth_plane(points[LIPS_INNER], self.plane))
        skin = skin_color(frame, points)
        opening = Opening(moved[LIPS_INNER, :2], self.plane, DENSITY, share, place if teeth else None, skin)
        filled = fill_mouth(pixels, area, opening, mouth, dark)
        composite, retrieved = warped.copy(), np.zeros((SIDE, SIDE), np.float32)
        area.view(composite)[:] = pixels
        if filled is not None:
            filled.near.view(retrieved)[:] = filled.retrieved
        planes = {"target": self.crops.images[pair.target], "composite": composite, "warped": warped, "source": frame}
        return self._cut(planes | {"retrieved": to_byte(retrieved)}, pair.source, moved, widest)

    def _cut(
        self, planes: dict[str, np.ndarray], source: int, moved: np.ndarray, widest: InnerMouth | None
    ) -> np.ndarray:
        """Cuts the painter's view, placed by the source frame and snapped to its pixels, and stacks the planes."""
        first = np.round(to_crop(self.plane, teeth_place(self.rings[source]))[:, 2])
        left, top = np.clip(first, 0, (SIDE - WIDTH, SIDE - HEIGHT)).astype(int)
        planes = {name: plane[top : top + HEIGHT, left : left + WIDTH] for name, plane in planes.items()}
        origin = to_mouth_plane(np.array([left + (WIDTH - 1) / 2, top + ABOVE]), self.plane)
        rings = (from_image(moved[ring, :2], to_crop(self.plane, origin)) for ring in (LIPS_INNER, LIPS_OUTER))
        inner, lips = mouth_masks(*rings)
        planes |= {"reference": reference_crop(widest, origin), "inner": to_byte(inner), "lips": to_byte(lips)}
        return np.concatenate([np.atleast_3d(planes[name]) for name in PLANES], axis=2).transpose(2, 0, 1)


def to_byte(mask: np.ndarray) -> np.ndarray:
    """A mask from 0 to 1 as uint8."""
    return np.round(mask * 255).astype(np.uint8)
