"""Validation of a sync expert: does it recognize windows in sync, and does it find a clip's AV offset?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from torch import nn

from preprocessing.dataset.clips import Clip
from preprocessing.errors import UsageError
from syncnet.data import WINDOW
from syncnet.offset import shift_curve
from syncnet.scoring.clip_scoring import NEAREST, ClipSyncResult, score_clip
from syncnet.sync_expert import SyncExpert

SHORT, LONG = 35, 75  # minimum frames of a clip for the offset metrics: 1.4 s and 3 s


@dataclass(frozen=True)
class Validation:
    """A sync expert's results for a set of clips.

    Attributes:
        clips: one result per clip.
    """

    clips: Sequence[ClipSyncResult]

    @property
    def curve(self) -> np.ndarray:
        """(31,) mean distance at each shift over the windows with speech of all clips."""
        return shift_curve(np.concatenate([clip.distances[clip.windows_with_speech] for clip in self.clips]))

    def cosines(self, speech_only: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """In-sync (M,) and off-sync (N,) cosines of all clips; `speech_only`: of windows with speech."""
        rows = [clip.windows_with_speech if speech_only else np.ones(clip.windows, bool) for clip in self.clips]
        in_sync = [clip.in_sync[row] for clip, row in zip(self.clips, rows, strict=True)]
        off_sync = np.concatenate([clip.off_sync[row].ravel() for clip, row in zip(self.clips, rows, strict=True)])
        return np.concatenate(in_sync), off_sync[~np.isnan(off_sync)]

    def within_1(self, shortest: int) -> float | None:
        """The share of clips of at least `shortest` frames whose offset is -1, 0 or 1; None without such clips."""
        hits = [abs(clip.score.offset) <= 1 for clip in self.clips if clip.frames >= shortest]
        return float(np.mean(hits)) if hits else None

    def values(self) -> dict[str, float]:
        """Metrics for the log; those that no clip is long enough for are omitted.

        * accuracy: balanced accuracy of classifying a 0.2 s window as in sync or off-sync by its cosine, at the best
          threshold; chance is 0.5. Off-sync: audio of the same clip, 3 to 15 frames away.
        * accuracy_heard: the same for windows with speech, at their best threshold.
        * threshold: the smallest cosine that `accuracy` counts as in sync.
        * pairwise: how often a window's own audio is closer than off-sync audio.
        * offset_within_1, offset_within_1_long: share of clips of at least 35, or 75, frames whose measured offset is
          -1, 0 or 1.
        """
        accuracy, threshold = best_threshold(*self.cosines())
        wins = np.concatenate([clip.wins.ravel() for clip in self.clips])
        metrics = {
            "accuracy": accuracy, "accuracy_heard": best_threshold(*self.cosines(speech_only=True))[0],
            "threshold": threshold, "pairwise": float(np.nanmean(wins)),
            "offset_within_1": self.within_1(SHORT), "offset_within_1_long": self.within_1(LONG),
        }  # fmt: skip
        return {name: value for name, value in metrics.items() if value is not None}


def best_threshold(in_sync: np.ndarray, off_sync: np.ndarray) -> tuple[float, float]:
    """The best balanced accuracy and its threshold, the lowest in case of ties.

    Only in-sync cosines are candidates: raising a threshold to the next of them loses no in-sync window.

    Args:
        in_sync: (M,) in-sync cosines, not empty.
        off_sync: (N,) off-sync cosines, not empty.
    """
    levels = np.unique(in_sync)
    accuracies = balanced_accuracy(in_sync, off_sync, levels)
    best = int(np.argmax(accuracies))
    return float(accuracies[best]), float(levels[best])


def balanced_accuracy(in_sync: np.ndarray, off_sync: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """(T,) balanced accuracies at (T,) thresholds: mean share of `in_sync` at or above and of `off_sync` below each."""
    below = [np.searchsorted(np.sort(some), thresholds) / len(some) for some in (in_sync, off_sync)]
    return (1 - below[0] + below[1]) / 2


def validate(expert: SyncExpert, clips: Sequence[Clip]) -> Validation:
    """Evaluates an expert on whole clips, in eval mode; the network's mode is restored afterwards.

    Raises:
        UsageError: no clip has the eight frames needed for an off-sync window; shorter clips are skipped.
    """
    shortest = WINDOW + NEAREST
    usable = [clip for clip in clips if clip.frames >= shortest]
    if not usable:
        raise UsageError(
            f"validation needs clips of {shortest} frames or more, but none of the {len(clips)} is that long"
        )
    with _eval_mode(expert.network):
        return Validation([score_clip(expert, clip) for clip in usable])


@contextmanager
def _eval_mode(network: nn.Module) -> Iterator[None]:
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)
