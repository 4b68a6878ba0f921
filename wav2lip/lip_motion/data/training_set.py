"""Training data: clips as coefficients at 25 fps, and random windows of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from preprocessing.faces.mesh import LEFT_CORNER, LOWER_LIP, RIGHT_CORNER, UPPER_LIP, lower_face
from wav2lip.lip_motion.data.clips import FPS, MotionClip
from wav2lip.lip_motion.data.targets import at_times
from wav2lip.lip_motion.motion_config import ROWS_PER_FRAME, MotionConfig, context_rows
from wav2lip.lip_motion.shape_space import ShapeSpace, gain_of
from wav2lip.lip_motion.silence import SILENT, talking_share

CLOSED = 0.12  # fraction of a clip's 95th percentile opening below which lips count as closed
MIN_SPEECH_FRAMES = 100  # with fewer speech frames, a person's gain is computed over all frames


@dataclass(frozen=True)
class MotionExample:
    """A clip for training or evaluation, at 25 fps.

    Attributes:
        clip: the source clip.
        gain: gain of the person.
        coefficients: (T, K) float32, of displacements divided by the gain.
        known: (T,) bool, whether the coefficients are known.
        opening: (T,) float32, distance between the inner lips, units.
        width: (T,) float32, distance between the mouth corners, units.
        speech: (T,) bool, whether there is speech.
    """

    clip: MotionClip
    gain: float
    coefficients: np.ndarray
    known: np.ndarray
    opening: np.ndarray
    width: np.ndarray
    speech: np.ndarray

    @property
    def frames(self) -> int:
        """Number of frames T."""
        return len(self.coefficients)

    @cached_property
    def closed(self) -> np.ndarray:
        """(T,) bool, whether the lips are closed."""
        return self.opening < CLOSED * np.percentile(self.opening[self.known], 95)

    @cached_property
    def talking(self) -> np.ndarray:
        """(T,) float32, 0 in silence and 1 in speech; see `talking_share`."""
        return talking_share(self.speech)

    @property
    def rest_gap(self) -> float:
        """Gap between the inner lips at rest, units, negative if they overlap."""
        return float(self.clip.motion.rest[LOWER_LIP, 1] - self.clip.motion.rest[UPPER_LIP, 1])


def sample_displacements(clip: MotionClip, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """(T, P, 3) displacements at k / 25 s and (T,) whether known; `offset`: frames by which the video is late."""
    wanted = (np.arange(clip.frames) + offset) / FPS
    return at_times(clip.motion.values, clip.motion.valid, clip.motion.times, wanted)


def speaker_gains(clips: Sequence[MotionClip]) -> dict[str, float]:
    """Speaker → gain over all their speech frames."""
    frames: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for clip in clips:
        values, known = sample_displacements(clip)
        frames.setdefault(clip.speaker, []).append((values[known], clip.speech[: len(known)][known]))
    gains = {}
    for speaker, parts in frames.items():
        values, spoken = (np.concatenate(part) for part in zip(*parts, strict=True))
        gains[speaker] = gain_of(values[spoken] if spoken.sum() > MIN_SPEECH_FRAMES else values)
    return gains


def fit_space(clips: Sequence[MotionClip], gains: Mapping[str, float], components: int, seed: int) -> ShapeSpace:
    """Fits a shape space to the clips."""
    people: dict[str, list[np.ndarray]] = {}
    for clip in clips:
        values, known = sample_displacements(clip)
        people.setdefault(clip.speaker, []).append(values[known])
    names = sorted(people)
    return ShapeSpace.fit(
        [np.concatenate(people[name]) for name in names], [gains[name] for name in names], components, seed
    )


def example(clip: MotionClip, space: ShapeSpace, gain: float, offset: float = 0.0) -> MotionExample:
    """A clip as an example in the shape space; see `sample_displacements` for the offset."""
    values, known = sample_displacements(clip, offset)
    shape = clip.motion.rest[lower_face()] + values
    lower, upper, right, left = (lower_face().tolist().index(row) for row in measured_rows())
    opening = np.linalg.norm(shape[:, lower, :2] - shape[:, upper, :2], axis=-1)
    width = np.linalg.norm(shape[:, left, :2] - shape[:, right, :2], axis=-1)
    speech = clip.speech[: len(known)]
    coefficients = space.coefficients(values, gain)
    return MotionExample(clip, gain, coefficients, known, opening.astype(np.float32), width.astype(np.float32), speech)


def measured_rows() -> tuple[int, int, int, int]:
    """Mesh rows of lower lip, upper lip, right corner, left corner."""
    return LOWER_LIP, UPPER_LIP, RIGHT_CORNER, LEFT_CORNER


class WindowSampler:
    """Samples windows: people by duration to the power `power`, their clips by duration, window positions uniformly.

    A step's windows depend on the seed and the step only, so a resumed run equals an uninterrupted one.
    """

    def __init__(
        self, examples: Sequence[MotionExample], config: MotionConfig, window: int, power: float, seed: int
    ) -> None:
        self.examples = [item for item in examples if item.frames > 8 and item.known.any()]
        self.config, self.window, self.seed = config, window, seed
        people = sorted({item.clip.speaker for item in examples})
        self._person = {speaker: index for index, speaker in enumerate(people)}
        seconds: dict[str, float] = {}
        for item in self.examples:
            seconds[item.clip.speaker] = seconds.get(item.clip.speaker, 0.0) + item.frames / FPS
        share = np.array([item.frames / FPS * seconds[item.clip.speaker] ** (power - 1) for item in self.examples])
        self.share = share / share.sum()

    def batch(self, step: int, size: int) -> dict[str, Tensor]:
        """`size` windows by name: the features of each encoder, coefficients, known, closed, speech, person."""
        rng = np.random.default_rng((self.seed, step))
        chosen = rng.choice(len(self.examples), size, p=self.share)
        drawn = [self._window(self.examples[index], rng) for index in chosen]
        return {name: torch.from_numpy(np.stack([item[name] for item in drawn])) for name in drawn[0]}

    def _window(self, item: MotionExample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One window; beyond the end of a shorter clip, frames are marked unknown."""
        first = int(rng.integers(0, max(item.frames - self.window, 0) + 1))
        position = np.arange(first, first + self.window)
        inside = position < item.frames
        position = np.minimum(position, item.frames - 1)
        talking = item.talking[position]
        values = {
            "coefficients": item.coefficients[position] * talking[:, None],
            "known": (item.known[position] & inside).astype(np.float32),
            "closed": (item.closed[position] | (talking < SILENT)).astype(np.float32),
            "speech": item.speech[position].astype(np.float32),
            "person": np.array(self._person[item.clip.speaker]),
        }
        for name, rows in item.clip.features.items():
            values[name] = context_rows(rows, first, self.window, self.config).astype(np.float32)
        return values


def center_rows(rows: Tensor, config: MotionConfig, frames: int) -> Tensor:
    """Strips the context of (B, 2 (before + N + after) + 2, D) rows: (B, 2 N, D)."""
    first = ROWS_PER_FRAME * config.before + 1
    return rows[:, first : first + ROWS_PER_FRAME * frames]
