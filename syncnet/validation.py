"""What an expert is worth on clips: can it tell a window that is in sync, and does it find a clip's offset?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from torch import nn

from preprocessing.dataset.clips import Clip
from preprocessing.errors import UsageError
from syncnet.data import WINDOW
from syncnet.offset import REACH, SyncScore, cosine_distances, shift_curve, sync_score
from syncnet.sync_expert import SyncExpert, windows_with_speech

NEAREST = 3  # frames; a nearer sound is neither in sync nor clearly out of it, for windows of five frames overlap
APART = np.abs(np.arange(-REACH, REACH + 1)) >= NEAREST  # columns of the distances that count as off-sync
SHORT, LONG = 35, 75  # fewest frames of a clip whose offset is counted: 1.4 s, and 3 s


@dataclass(frozen=True)
class ClipJudgement:
    """What an expert says about one clip of W windows.

    Attributes:
        clip: the name of its file. speaker: who speaks. frames: its pictures.
        distances: (W, 31) of each window's picture to the sounds around it, see `cosine_distances`.
        windows_with_speech: (W,) bool, the windows that the score counts, see `syncnet.sync_expert.windows_with_speech`.
        score: the clip's offset, distance and confidence.
    """

    clip: str
    speaker: str
    frames: int
    distances: np.ndarray
    windows_with_speech: np.ndarray
    score: SyncScore

    @property
    def windows(self) -> int:
        """Number of windows."""
        return len(self.distances)

    @property
    def matched(self) -> np.ndarray:
        """(W,) cosines of the windows' pictures with their own sounds."""
        return 1 - self.distances[:, REACH]

    @property
    def apart(self) -> np.ndarray:
        """(W, 26) cosines with the clip's sounds 3 to 15 frames before and after, nan where there is none."""
        return 1 - self.distances[:, APART]

    @property
    def curve(self) -> np.ndarray:
        """(31,) mean distance of the windows that count at each shift."""
        return shift_curve(self.distances[self.windows_with_speech])

    @property
    def pairwise(self) -> float:
        """The share of off-sync sounds that are farther from the picture than its own; of equals, half."""
        return float(np.nanmean(_wins(self.matched, self.apart)))


def _wins(matched: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """(W, 26): 1 where the own sound is nearer, 0 where it is not, 0.5 for equals, nan for none."""
    return (np.sign(matched[:, None] - apart) + 1) / 2


def judge_clip(expert: SyncExpert, clip: Clip) -> ClipJudgement:
    """Embeds a whole clip of five frames or more and compares its pictures with its sounds."""
    return judge(clip, *expert.embed(clip))


def judge(clip: Clip, video: np.ndarray, audio: np.ndarray) -> ClipJudgement:
    """The same from a clip's embeddings, (W, D) each."""
    distances, counted = cosine_distances(video, audio), windows_with_speech(clip.speech, np.arange(len(video)))
    score = sync_score(distances, counted)
    return ClipJudgement(clip.path.stem, clip.speaker, clip.frames, distances, counted, score)


@dataclass(frozen=True)
class Validation:
    """What an expert says about some clips.

    Attributes:
        clips: their judgements.
    """

    clips: Sequence[ClipJudgement]

    @property
    def curve(self) -> np.ndarray:
        """(31,) mean distance at each shift, over the windows of all clips that count."""
        return shift_curve(np.concatenate([clip.distances[clip.windows_with_speech] for clip in self.clips]))

    def cosines(self, only_heard: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """In sync (M,) and off-sync (N,) of all clips; `only_heard`: of the windows that count alone."""
        rows = [clip.windows_with_speech if only_heard else np.ones(clip.windows, bool) for clip in self.clips]
        matched = [clip.matched[row] for clip, row in zip(self.clips, rows, strict=True)]
        apart = np.concatenate([clip.apart[row].ravel() for clip, row in zip(self.clips, rows, strict=True)])
        return np.concatenate(matched), apart[~np.isnan(apart)]

    def within_1(self, shortest: int) -> float | None:
        """The share of clips of so many frames whose offset is -1, 0 or 1; None where there is no such clip."""
        hits = [abs(clip.score.offset) <= 1 for clip in self.clips if clip.frames >= shortest]
        return float(np.mean(hits)) if hits else None

    def values(self) -> dict[str, float]:
        """The figures for the log; one that no clip is long enough for is left out.

        * accuracy: of telling in sync from off-sync by the cosine of one window of 0.2 s, at the best threshold;
          both kinds weigh alike, so that guessing gives 0.5. Off-sync: sounds of the same clip, 3 to 15 frames away.
        * accuracy_heard: the same of windows with speech alone, at their best threshold.
        * threshold: the cosine from which on a window counts as in sync in `accuracy`.
        * pairwise: how often a window's own sound is nearer than an off-sync one.
        * offset_within_1, offset_within_1_long: share of clips of at least 35, or 75, frames whose offset is found
          as -1, 0 or 1.
        """
        accuracy, threshold = best_threshold(*self.cosines())
        wins = np.concatenate([_wins(clip.matched, clip.apart).ravel() for clip in self.clips])
        found = {
            "accuracy": accuracy, "accuracy_heard": best_threshold(*self.cosines(only_heard=True))[0],
            "threshold": threshold, "pairwise": float(np.nanmean(wins)),
            "offset_within_1": self.within_1(SHORT), "offset_within_1_long": self.within_1(LONG),
        }  # fmt: skip
        return {name: value for name, value in found.items() if value is not None}


def best_threshold(matched: np.ndarray, apart: np.ndarray) -> tuple[float, float]:
    """The best balanced accuracy and the threshold that gives it, the lowest of several.

    Only in-sync cosines are tried: a threshold raised up to the next of them loses none and rejects more.

    Args:
        matched: (M,) cosines in sync. apart: (N,) cosines off-sync; neither may be empty.
    """
    levels = np.unique(matched)
    accuracies = balanced_accuracy(matched, apart, levels)
    best = int(np.argmax(accuracies))
    return float(accuracies[best]), float(levels[best])


def balanced_accuracy(matched: np.ndarray, apart: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Mean of the share of `matched` at a threshold or above and the share of `apart` below it, (T,) for (T,)."""
    below = [np.searchsorted(np.sort(some), thresholds) / len(some) for some in (matched, apart)]
    return (1 - below[0] + below[1]) / 2


def validate(expert: SyncExpert, clips: Sequence[Clip]) -> Validation:
    """Judges clips, as a whole each; the network is in eval mode meanwhile and in its own mode afterwards.

    Raises:
        UsageError: no clip is long enough for an off-sync sound, which takes eight frames; shorter ones are left out.
    """
    shortest = WINDOW + NEAREST
    usable = [clip for clip in clips if clip.frames >= shortest]
    if not usable:
        raise UsageError(f"validation needs clips of {shortest} frames or more, and there is none among {len(clips)}")
    with _evaluating(expert.network):
        return Validation([judge_clip(expert, clip) for clip in usable])


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)
