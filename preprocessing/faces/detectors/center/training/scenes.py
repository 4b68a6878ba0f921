"""Training scenes: labeled faces turned, scaled, cut off by the border, darkened and pasted onto other pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from preprocessing.errors import UsageError
from preprocessing.faces.detectors.center.training.pictures import Face, Pictures, rotation

VISIBLE, GONE = 0.55, 0.15  # shares of a face in the scene: a face above, ignored down to, nothing below
CLEAR = 1.25  # a background keeps this many face sizes from its own picture's face
TRIES = 8
GRAIN = 1024  # pixels: side of the noise that is made once
SOFT = 6  # pixels that a blurred mask reaches farther
ALONE = 0.7  # of the natural scenes have no second face

Window = tuple[slice, slice]  # rows, columns


@dataclass(frozen=True)
class SceneRecipe:
    """How scenes are made.

    Attributes:
        side: of the scene, pixels.
        smallest, largest: geometric mean of a face's sides, pixels; log-uniform between.
        natural: Fraction of scenes that are a piece of a labeled picture, with its face.
        empty: Fraction of the other scenes without a face.
        crowd: Most faces in a scene, 2 or more.
        turned: Fraction of faces turned by any angle up to `turn`; the others by a few degrees.
        turn: Degrees.
        dark: Fraction of scenes darkened or of low contrast.
        scrambled: Fraction of pasted pictures whose face is cut into shuffled tiles, and then is none.
        covered: Fraction of scenes with blocks in front.
        blur, jpeg, gray: Fractions of scenes.
        noise: Maximum standard deviation in gray levels.
    """

    side: int = 160
    smallest: float = 12.0
    largest: float = 155.0
    natural: float = 0.35
    empty: float = 0.12
    crowd: int = 5
    turned: float = 0.45
    turn: float = 50.0
    dark: float = 0.3
    scrambled: float = 0.06
    covered: float = 0.3
    blur: float = 0.3
    jpeg: float = 0.4
    gray: float = 0.1
    noise: float = 10.0

    def __post_init__(self) -> None:
        if self.side < 64 or self.side % 32:
            raise UsageError(f"side must be a multiple of 32 of 64 or more, not {self.side}")
        if self.crowd < 2:
            raise UsageError(f"crowd must be 2 or more, not {self.crowd}")
        if not 4 <= self.smallest <= self.largest:
            raise UsageError(f"smallest must be from 4 to largest {self.largest}, not {self.smallest}")

    def doubled(self) -> SceneRecipe:
        """For scenes of twice the side, with faces up to twice as large."""
        return replace(self, side=2 * self.side, largest=2 * self.largest)


@dataclass(frozen=True)
class Scene:
    """A picture with its faces.

    Attributes:
        image: (S, S, 3) uint8 BGR.
        boxes: (K, 4) of the faces, pixels; they may reach beyond the picture.
        points: (K, 5, 2).
        ignored: (M, 4) boxes of faces that are hardly to be seen, neither right nor wrong.
    """

    image: np.ndarray
    boxes: np.ndarray
    points: np.ndarray
    ignored: np.ndarray


class SceneMaker:
    """Makes scenes of pictures and further backgrounds.

    Args:
        shares: (N,) probability of each picture.
    """

    def __init__(
        self, pictures: Pictures, backgrounds: list[np.ndarray], recipe: SceneRecipe, shares: np.ndarray | None = None
    ) -> None:
        self.pictures, self.backgrounds, self.recipe = pictures, backgrounds, recipe
        self.shares, self.sums = shares, None if shares is None else np.cumsum(shares)
        self.grain = np.random.default_rng(0).standard_normal((GRAIN, GRAIN, 3), np.float32)

    def doubled(self) -> SceneMaker:
        """For scenes of twice the side."""
        return SceneMaker(self.pictures, self.backgrounds, self.recipe.doubled(), self.shares)

    def draw(self, rng: np.random.Generator) -> Scene:
        """A scene, determined by the generator's state."""
        recipe, side = self.recipe, self.recipe.side
        faces: list[Face] = []
        covers: list[np.ndarray] = []
        if rng.random() < recipe.natural:
            canvas, face = self._piece(rng)
            faces, covers = [face], [np.zeros((side, side), np.float32)]
            more = 0 if rng.random() < ALONE else 1
        else:
            canvas = self._background(rng)
            more = 0 if rng.random() < recipe.empty else self._count(rng)
        for _ in range(more):
            pasted, window, mask = self._paste(canvas, rng)
            for cover in covers:
                np.maximum(cover[window], mask, out=cover[window])
            if pasted is not None:
                faces.append(pasted)
                covers.append(np.zeros((side, side), np.float32))
        if rng.random() < recipe.covered:
            covers = self._blocks(canvas, covers, rng)
        seen = [visible_share(face, cover) for face, cover in zip(faces, covers, strict=True)]
        return _labeled(self._degraded(canvas, rng), faces, seen)

    def _count(self, rng: np.random.Generator) -> int:
        return 1 if rng.random() < 0.5 else int(rng.integers(2, self.recipe.crowd + 1))

    def _pick(self, rng: np.random.Generator) -> int:
        if self.sums is None:
            return int(rng.integers(len(self.pictures.faces)))
        return min(int(np.searchsorted(self.sums, rng.random())), len(self.sums) - 1)

    def _piece(self, rng: np.random.Generator) -> tuple[np.ndarray, Face]:
        """A piece of a labeled picture, and its face; where the picture is too small, its border continues."""
        recipe, row = self.recipe, self._pick(rng)
        picture, face = self.pictures.picture(row), self.pictures.faces[row]
        matrix, scale = self._placed(face, recipe.smallest * 2, rng)
        return _warped(picture, matrix, scale, (recipe.side, recipe.side), cv2.BORDER_REPLICATE), face.moved(matrix)

    def _placed(self, face: Face, smallest: float, rng: np.random.Generator) -> tuple[np.ndarray, float]:
        """A (2, 3) similarity that scales, turns, perhaps mirrors, and places a face in the scene; its scale."""
        recipe = self.recipe
        size = np.exp(rng.uniform(np.log(min(smallest, recipe.largest)), np.log(recipe.largest)))
        scale = size / float(np.sqrt(face.size.prod()))
        turn = rng.uniform(-1, 1) * np.radians(recipe.turn) if rng.random() < recipe.turned else rng.normal(0, 0.1)
        matrix = _similarity(face.center, scale, turn - face.roll * (rng.random() < 0.5), 0.0)
        if rng.random() < 0.5:
            matrix[0] *= -1
        matrix[:, 2] += self._place(size, rng)
        return matrix, scale

    def _background(self, rng: np.random.Generator) -> np.ndarray:
        """(S, S, 3): a piece of another picture away from its face, of a background, or flat colors."""
        side, kind = self.recipe.side, rng.random()
        if kind < 0.1:
            corners = rng.integers(0, 256, (2, 2, 3)).astype(np.uint8)
            return cv2.resize(corners, (side, side), interpolation=cv2.INTER_LINEAR)
        if kind < 0.45 and self.backgrounds:
            picture, face = self.backgrounds[rng.integers(len(self.backgrounds))], None
        else:
            row = self._pick(rng)
            picture, face = self.pictures.picture(row), self.pictures.faces[row]
        for _ in range(TRIES):
            scale = np.exp(rng.uniform(np.log(0.5), np.log(5)))
            matrix = _similarity(rng.uniform(0, picture.shape[1::-1]), scale, rng.uniform(-0.4, 0.4), side / 2)
            if face is None or _is_clear(face, matrix, scale, side):
                return cv2.warpAffine(picture, matrix, (side, side), borderMode=cv2.BORDER_REFLECT_101)
        return np.full((side, side, 3), rng.integers(0, 256, 3), np.uint8)

    def _paste(self, canvas: np.ndarray, rng: np.random.Generator) -> tuple[Face | None, Window, np.ndarray]:
        """Pastes a picture's face in place; the face, or None if it was scrambled, and where it covers, 0 to 1."""
        recipe, row = self.recipe, self._pick(rng)
        picture, face = self.pictures.picture(row), self.pictures.faces[row]
        broken = rng.random() < recipe.scrambled
        if broken:
            picture = _scrambled(picture, face, rng)
        matrix, scale = self._placed(face, recipe.smallest, rng)
        mask, corners = _mask(picture, face, rng)
        window, moved = _window(corners, matrix, recipe.side)
        size = (window[1].stop - window[1].start, window[0].stop - window[0].start)
        if min(size) < 2:
            return None, window, np.zeros(size[::-1], np.float32)
        seen = cv2.GaussianBlur(cv2.warpAffine(mask, moved, size), (0, 0), rng.uniform(0.4, 2.5))
        light = _levels(gain=np.exp(rng.normal(0, 0.2)), offset=rng.normal(0, 10))
        pasted = cv2.LUT(_warped(picture, moved, scale, size), light).astype(np.float32)
        below = canvas[window].astype(np.float32)
        canvas[window] = below + seen[..., None] * (pasted - below)
        return (None if broken else face.moved(matrix)), window, seen

    def _place(self, size: float, rng: np.random.Generator) -> np.ndarray:
        """(2,) a face's center: within the scene, or anywhere, so that the border cuts it."""
        side = self.recipe.side
        if rng.random() < 0.35:
            return rng.uniform(-0.35 * size, side + 0.35 * size, 2)
        return rng.uniform(min(0.5 * size, side / 2), max(side - 0.5 * size, side / 2 + 1), 2)

    def _blocks(self, canvas: np.ndarray, covers: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
        """Draws up to three bars or ellipses in front of everything."""
        front, side = np.zeros(canvas.shape[:2], np.float32), self.recipe.side
        for _ in range(rng.integers(1, 4)):
            middle, size = rng.uniform(0, side, 2), np.exp(rng.uniform(np.log(6), np.log(90), 2))
            shape = (tuple(map(float, middle)), tuple(map(float, size)), float(rng.uniform(0, 180)))
            color = tuple(map(int, rng.integers(0, 256, 3)))
            if rng.random() < 0.5:
                cv2.ellipse(canvas, shape, color, -1)
                cv2.ellipse(front, shape, 1.0, -1)
            else:
                corners = cv2.boxPoints(shape).astype(np.int32)
                cv2.fillConvexPoly(canvas, corners, color)
                cv2.fillConvexPoly(front, corners, 1.0)
        return [np.maximum(cover, front) for cover in covers]

    def _degraded(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Light, blur, noise and compression as of cameras."""
        recipe, x = self.recipe, image
        if rng.random() < recipe.blur:
            x = cv2.GaussianBlur(x, (0, 0), rng.uniform(0.4, 1.8))
        if rng.random() < recipe.gray:
            x = cv2.cvtColor(cv2.cvtColor(x, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
        x = cv2.LUT(x, _levels(np.exp(rng.normal(0, 0.25)), np.exp(rng.normal(0, 0.08, 3))))
        if rng.random() < recipe.dark:
            low = rng.uniform(0, 120) if rng.random() < 0.4 else 0.0
            x = cv2.LUT(x, _levels(gain=np.exp(rng.uniform(np.log(0.08), np.log(0.8))), offset=low))
        deviation = rng.uniform(0, recipe.noise) * max(0.25, float(x.mean()) / 128)
        top, left = rng.integers(0, GRAIN - recipe.side + 1, 2)
        noise = self.grain[top : top + recipe.side, left : left + recipe.side] * np.float32(deviation)
        x = np.clip(x + noise, 0, 255).astype(np.uint8)
        if rng.random() < recipe.jpeg:
            packed = cv2.imencode(".jpg", x, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 90))])[1]
            x = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR))
        return x


def _mask(picture: np.ndarray, face: Face, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) float, 0 to 1: the whole picture, or an ellipse or a rectangle around the head; its corners, (2, 2)."""
    height, width = picture.shape[:2]
    mask, kind = np.zeros((height, width), np.float32), rng.random()
    grown = face.size * rng.uniform(1.25, 2.2, 2)
    middle = face.center - [0, 0.1 * face.size[1]]
    if kind < 0.3:
        mask[:] = 1
        return mask, np.array([[0.0, 0.0], [width, height]])
    if kind < 0.7:
        angle = np.degrees(face.roll)
        cv2.ellipse(mask, (tuple(map(float, middle)), tuple(map(float, grown)), float(angle)), 1.0, -1)
        return mask, np.stack([middle - grown.max() / 2, middle + grown.max() / 2])
    low, high = np.maximum(middle - grown / 2, 0).astype(int), (middle + grown / 2).astype(int)
    mask[low[1] : high[1], low[0] : high[0]] = 1
    return mask, np.stack([low, high]).astype(np.float64)


def _window(corners: np.ndarray, matrix: np.ndarray, side: int) -> tuple[Window, np.ndarray]:
    """The part of the scene that a rectangle (2, 2) reaches after a similarity, and the similarity into that part."""
    (left, top), (right, bottom) = corners
    moved = np.array([[left, top], [right, top], [left, bottom], [right, bottom]]) @ matrix[:, :2].T + matrix[:, 2]
    low = np.clip(np.floor(moved.min(0)).astype(int) - SOFT, 0, side)
    high = np.clip(np.ceil(moved.max(0)).astype(int) + SOFT, 0, side)
    shifted = matrix.copy()
    shifted[:, 2] -= low
    return (slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))), shifted


def _levels(gamma: float = 1.0, gain: np.ndarray | float = 1.0, offset: float = 0.0) -> np.ndarray:
    """(256, 1, 3) uint8, the new level of each old one and channel."""
    levels = 255 * np.linspace(0, 1, 256)[:, None, None] ** gamma * (np.zeros(3) + gain) + offset
    return np.clip(levels, 0, 255).astype(np.uint8)


def _similarity(center: np.ndarray, scale: float, turn: float, target: float) -> np.ndarray:
    """(2, 3) that scales and turns about a point and moves it to (target, target)."""
    matrix = np.empty((2, 3))
    matrix[:, :2] = scale * rotation(turn)
    matrix[:, 2] = target - matrix[:, :2] @ center
    return matrix


def _warped(
    picture: np.ndarray, matrix: np.ndarray, scale: float, size: tuple[int, int], border: int = cv2.BORDER_CONSTANT
) -> np.ndarray:  # fmt: skip
    """The picture after a similarity of that scale, averaged first where it shrinks; size: (width, height)."""
    if scale >= 0.7:
        return cv2.warpAffine(picture, matrix, size, flags=cv2.INTER_LINEAR, borderMode=border)
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    ratio = np.array([small.shape[1] / picture.shape[1], small.shape[0] / picture.shape[0]])
    # Pixel centers: a point x of the picture lies at (x + 0.5) * ratio - 0.5 of the small one.
    adapted = matrix.copy()
    adapted[:, :2] = matrix[:, :2] / ratio
    adapted[:, 2] = matrix[:, 2] + adapted[:, :2] @ (0.5 - 0.5 * ratio)
    return cv2.warpAffine(small, adapted, size, flags=cv2.INTER_LINEAR, borderMode=border)


def _is_clear(face: Face, matrix: np.ndarray, scale: float, side: int) -> bool:
    """Whether a face lies outside a square of the side after a similarity of that scale."""
    center, reach = matrix[:, :2] @ face.center + matrix[:, 2], CLEAR / 2 * scale * float(face.size.max())
    return bool((center < -reach).any() or (center > side + reach).any())


def _scrambled(picture: np.ndarray, face: Face, rng: np.random.Generator) -> np.ndarray:
    """The picture with its face cut into 4 x 4 tiles in another order: skin and features, but no face."""
    done, box = picture.copy(), face.box()
    low = np.maximum(box[:2], 0).astype(int)
    step = (np.minimum(box[2:], picture.shape[1::-1]).astype(int) - low) // 4
    if step.min() < 1:
        return done
    corners = [low + step * [x, y] for y in range(4) for x in range(4)]
    for k, other in enumerate(rng.permutation(16)):
        (x, y), (u, v) = corners[k], corners[other]
        done[y : y + step[1], x : x + step[0]] = picture[v : v + step[1], u : u + step[0]]
    return done


def visible_share(face: Face, cover: np.ndarray) -> float:
    """The share of a face's box that lies in the picture and is not covered."""
    box = face.box()
    low, high = np.clip(np.round(box).reshape(2, 2), 0, cover.shape[::-1]).astype(int)
    if (high <= low).any():
        return 0.0
    free = float((1 - cover[low[1] : high[1], low[0] : high[0]]).sum())
    return free / float(np.prod(box[2:] - box[:2]))


def _labeled(image: np.ndarray, faces: list[Face], seen: list[float]) -> Scene:
    """The scene of those faces that are seen."""
    good = [face for face, share in zip(faces, seen, strict=True) if share >= VISIBLE]
    hard = [face.box() for face, share in zip(faces, seen, strict=True) if GONE < share < VISIBLE]
    boxes = np.array([face.box() for face in good]).reshape(-1, 4)
    points = np.array([face.points for face in good]).reshape(-1, 5, 2)
    return Scene(image, boxes, points, np.array(hard).reshape(-1, 4))
