"""The sync of one whole clip, as an expert sees it: every window's distances to the clip's own audio."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from preprocessing.dataset.clips import Clip
from syncnet.offset import REACH, SyncScore, cosine_distances, shift_curve, sync_score
from syncnet.sync_expert import SyncExpert, windows_with_speech

NEAREST = 3  # frames; at smaller shifts five-frame windows overlap too much to count as off-sync
OFF_SYNC = np.abs(np.arange(-REACH, REACH + 1)) >= NEAREST  # columns of the distances that count as off-sync


@dataclass(frozen=True)
class ClipSyncResult:
    """A sync expert's result for a clip of W windows.

    Attributes:
        clip: file name without extension.
        speaker: the speaker's name.
        frames: number of frames.
        distances: (W, 31), each window's distances to the audio around it, see `cosine_distances`.
        windows_with_speech: (W,) bool, the windows that are scored, see `syncnet.sync_expert.windows_with_speech`.
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
    def in_sync(self) -> np.ndarray:
        """(W,) cosines of the windows with their own audio."""
        return 1 - self.distances[:, REACH]

    @property
    def off_sync(self) -> np.ndarray:
        """(W, 26) cosines with audio of the clip 3 to 15 frames before and after, nan where there is none."""
        return 1 - self.distances[:, OFF_SYNC]

    @property
    def curve(self) -> np.ndarray:
        """(31,) mean distance at each shift over the windows with speech."""
        return shift_curve(self.distances[self.windows_with_speech])

    @property
    def pairwise(self) -> float:
        """The share of off-sync audio windows that are farther than the window's own; ties count half."""
        return float(np.nanmean(self.wins))

    @property
    def wins(self) -> np.ndarray:
        """(W, 26): 1 where the own audio is closer, 0 where it is not, 0.5 for ties, nan where there is none."""
        return (np.sign(self.in_sync[:, None] - self.off_sync) + 1) / 2


def score_clip(expert: SyncExpert, clip: Clip) -> ClipSyncResult:
    """Embeds a whole clip of at least five frames and compares its video with its audio."""
    return score_embeddings(clip, *expert.embed(clip))


def score_embeddings(clip: Clip, video: np.ndarray, audio: np.ndarray) -> ClipSyncResult:
    """Like `score_clip`, from the clip's video and audio embeddings, (W, D) each."""
    distances, speech = cosine_distances(video, audio), windows_with_speech(clip.speech, np.arange(len(video)))
    score = sync_score(distances, speech)
    return ClipSyncResult(clip.path.stem, clip.speaker, clip.frames, distances, speech, score)
