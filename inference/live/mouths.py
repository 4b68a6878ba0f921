"""Chooses the inner mouth of each frame from the mouths that this frame and the next few need."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wav2lip.renderer.inner_mouth import InnerMouth
from wav2lip.renderer.mouth_choice import MouthTarget, SwitchCosts, fit_costs, viterbi
from wav2lip.renderer.mouth_look import look_differences


class LiveMouths:
    """The first step of the cheapest path through the next frames, anew for every frame; from a fixed bank."""

    def __init__(self, entries: Sequence[InnerMouth]) -> None:
        self._entries = entries
        self._differences = look_differences([entry.look for entry in entries]) if entries else np.zeros((0, 0))
        self._current: int | None = None

    def choose(self, targets: Sequence[MouthTarget]) -> InnerMouth | None:
        """The mouth of the first of these targets; None with an empty bank."""
        if not self._entries:
            return None
        costs = fit_costs(targets, self._entries)
        switches = SwitchCosts(np.array([target.opening for target in targets]), self._differences)
        if self._current is not None:
            costs[0] += switches[0][self._current]
        self._current = int(viterbi(costs, switches)[0])
        return self._entries[self._current]
