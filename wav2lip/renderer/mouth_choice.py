"""Selects an inner mouth for each frame: the Viterbi path of minimum cost, which switches at closed lips."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from preprocessing.errors import UsageError
from wav2lip.renderer.inner_mouth import UNITS_PER_DEGREE, InnerMouth, gaps
from wav2lip.renderer.mouth_look import look_differences
from wav2lip.renderer.target import smoothstep

UNCOVERED, COVERED = 1.5, 0.8  # weights of target beyond the entry's lips, and of entry hidden by the target's lips
OFF = 0.3  # weight of the vertical distance between the middles of the two openings
BLUR_COST = 0.4  # cost of a completely blurred entry
COST_BLOCK = 100  # targets compared with all entries at once
SWITCH_SHUT = 0.05  # cost of a switch at closed lips
SWITCH_LEVEL = 0.01  # cost of a switch per unit of opening and per level that the mouths differ


@dataclass(frozen=True)
class MouthTarget:
    """Target mouth of a frame: (20, 2) inner lip ring in the mouth plane, units; (2,) yaw and pitch, degrees."""

    ring: np.ndarray
    angles: np.ndarray

    @property
    def opening(self) -> float:
        """Mean opening height, units."""
        return float(np.maximum(gaps(self.ring), 0).mean())


def fit_costs(targets: Sequence[MouthTarget], entries: Sequence[InnerMouth]) -> np.ndarray:
    """(T, K) mismatch of each entry in shape, place, pose and sharpness, units; scaled down for nearly closed targets.

    A ring that is only displaced fits well: half of that is noise of the head pose, and `align_mouth` takes it out.
    """
    rings, wanted = np.stack([entry.ring for entry in entries]), np.stack([target.ring for target in targets])[:, None]
    upper = rings[:, :10:-1, 1] - wanted[..., :10:-1, 1]  # above 0: the target's upper lip is higher
    lower = wanted[..., 1:10, 1] - rings[:, 1:10, 1]  # above 0: the target's lower lip is lower
    off = (lower.mean(axis=-1) - upper.mean(axis=-1)) / 2
    beyond = np.concatenate([upper + off[..., None], lower - off[..., None]], axis=-1)
    uneven = np.where(beyond > 0, UNCOVERED, COVERED) * beyond
    widths = (rings[:, 10, 0] - rings[:, 0, 0]) - (wanted[..., 10, 0] - wanted[..., 0, 0])
    shape = np.sqrt((uneven**2).mean(axis=-1) + (0.3 * widths) ** 2) + OFF * np.abs(off)
    angles = np.stack([entry.angles for entry in entries]), np.stack([target.angles for target in targets])[:, None]
    turned = UNITS_PER_DEGREE * np.linalg.norm(angles[0] - angles[1], axis=-1)
    sharpness = np.array([entry.sharpness for entry in entries])
    dull = BLUR_COST * (1 - np.minimum(sharpness / max(np.median(sharpness), 1e-6), 1))
    openings = np.array([target.opening for target in targets])[:, None]
    costs: np.ndarray = (shape + turned + dull) * smoothstep(openings, 0.4, 2.0)
    return costs


class SwitchCosts:
    """(T, K, K) cost of a switch to another mouth, made frame by frame: 20 s of 60 mouths are 14 MB an array.

    Args:
        openings: (T,) of the targets, units.
        differences: (K, K) `look_differences`.
    """

    def __init__(self, openings: np.ndarray, differences: np.ndarray) -> None:
        self._heights = np.maximum(openings - 0.5, 0)
        self._shut = SWITCH_SHUT * (1 - np.eye(len(differences)))
        self._level = SWITCH_LEVEL * differences * (1 - np.eye(len(differences)))

    def __getitem__(self, frame: int) -> np.ndarray:
        """(K, K) cost at a frame."""
        costs: np.ndarray = self._shut + self._heights[frame] * self._level
        return costs


def viterbi(costs: np.ndarray, switches: np.ndarray | SwitchCosts) -> np.ndarray:
    """(T,) states of minimum total cost (Viterbi, 1967).

    Args:
        costs: (T, K) cost of each state.
        switches: (T, K, K) cost at each frame of coming from a state (row) to another (column).
    """
    total, back = costs[0].copy(), np.zeros(costs.shape, np.int64)
    for frame in range(1, len(costs)):
        reached = total[:, None] + switches[frame]
        back[frame] = reached.argmin(axis=0)
        total = costs[frame] + reached.min(axis=0)
    path = np.empty(len(costs), np.int64)
    path[-1] = total.argmin()
    for frame in range(len(costs) - 1, 0, -1):
        path[frame - 1] = back[frame, path[frame]]
    return path


def _switches(targets: Sequence[MouthTarget], entries: Sequence[InnerMouth]) -> SwitchCosts:
    openings = np.array([target.opening for target in targets])
    return SwitchCosts(openings, look_differences([entry.look for entry in entries]))


def choose_mouths(targets: Sequence[MouthTarget], entries: Sequence[InnerMouth]) -> list[InnerMouth | None]:
    """Selects a mouth for each frame of a whole sequence; None if the bank is empty."""
    if not entries or not targets:
        return [None] * len(targets)
    blocks = [targets[first : first + COST_BLOCK] for first in range(0, len(targets), COST_BLOCK)]
    costs = np.concatenate([fit_costs(block, entries) for block in blocks])
    return [entries[state] for state in viterbi(costs, _switches(targets, entries))]


@dataclass
class MouthChooser:
    """Selects mouths in a stream, with bounded lookahead, from a bank that may change meanwhile.

    Attributes:
        lookahead: delay of `push` in frames; 0 for an immediate decision.
    """

    lookahead: int = 0
    _waiting: deque[MouthTarget] = field(default_factory=deque)
    _current: InnerMouth | None = None

    def __post_init__(self) -> None:
        if self.lookahead < 0:
            raise UsageError(f"lookahead must be 0 frames or more, not {self.lookahead}")

    def push(self, target: MouthTarget, entries: Sequence[InnerMouth]) -> list[InnerMouth | None]:
        """Adds the next frame's target; returns the mouth of the frame that is now decided, if any."""
        self._waiting.append(target)
        return [self._decide(entries)] if len(self._waiting) > self.lookahead else []

    def flush(self, entries: Sequence[InnerMouth]) -> list[InnerMouth | None]:
        """Returns the remaining mouths at the end of the stream."""
        return [self._decide(entries) for _ in range(len(self._waiting))]

    def _decide(self, entries: Sequence[InnerMouth]) -> InnerMouth | None:
        states = list(entries)
        if self._current is not None and all(entry is not self._current for entry in states):
            states.append(self._current)  # no longer in the bank but still shown
        if states:
            costs = fit_costs(self._waiting, states)
            switches = _switches(self._waiting, states)
            if self._current is not None:
                costs[0] += switches[0][next(k for k, entry in enumerate(states) if entry is self._current)]
            self._current = states[viterbi(costs, switches)[0]]
        self._waiting.popleft()
        return self._current
