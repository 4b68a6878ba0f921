"""Who speaks when: the person whose mouth matches the video's sound best, second by second, or nobody.

For each person and frame, the evidence is how much smaller the expert's distance is at the AV offset than at other
offsets, averaged over a second of speech. The sequence of speakers is the one of most evidence in sum, with a cost
for each change (Viterbi's algorithm).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from preprocessing.dataset.clip_header import CLIP_FPS
from syncnet.data import WINDOW
from syncnet.offset import REACH, shift_curve
from syncnet.scoring.video_scoring import ScoredTrack

NOBODY = -1
COLUMNS_PER_SECOND = 80  # of the mel
SMOOTHING = CLIP_FPS  # frames over which distances are averaged
LEAST_EVIDENCE = 0.13  # below it nobody in view speaks; real speakers have 0.2 to 0.45, others -0.05 to 0.15
CHANGE_COST = 2.0  # in units of evidence times frames
OWN_OFFSET = 0.1  # minimum evidence over all speech for an offset of one's own, as after an edit from several files
SLACK = 1  # frames by which the offset may vary


def speakers(people: Sequence[ScoredTrack | None], speech: np.ndarray, frames: int) -> np.ndarray:
    """Who speaks in each frame.

    Args:
        people: from `score_tracks`.
        speech: (T,) bool, speech flags of the sound by mel column, 80 a second.
        frames: number of frames at 25 fps.

    Returns:
        (frames,) int: an index into `people`, or NOBODY.
    """
    if not frames:
        return np.zeros(0, int)
    talking = _by_frame(speech, frames)
    evidence = np.full((len(people) + 1, frames), -np.inf)
    evidence[-1] = LEAST_EVIDENCE * _average(talking.astype(float), np.ones(frames))
    for row, person, offset in zip(evidence, people, _offsets(people, talking), strict=False):
        if person is not None:
            _fill(row, person, talking, offset)
    chosen = _best_path(evidence)
    return np.where(chosen == len(people), NOBODY, chosen)


def _by_frame(speech: np.ndarray, frames: int) -> np.ndarray:
    """(frames,) bool: whether the middle of a frame has speech."""
    columns = ((np.arange(frames) + 0.5) * COLUMNS_PER_SECOND / CLIP_FPS).astype(int)
    return np.pad(speech, (0, max(0, int(columns[-1]) + 1 - len(speech))))[columns]


def _centers(person: ScoredTrack) -> np.ndarray:
    """(W,) the middle frames of a person's windows."""
    return person.starts + WINDOW // 2


def _offsets(people: Sequence[ScoredTrack | None], talking: np.ndarray) -> list[int]:
    """The column of each person's AV offset: their own where it stands out, else that of the best-matching person."""
    depths, columns = [], []
    for person in people:
        chosen = None if person is None else person.distances[talking[_centers(person)]]
        curve = shift_curve(chosen) if chosen is not None and len(chosen) else np.full(1, np.nan)
        known = bool(np.isfinite(curve).any())
        depths.append(float(np.nanmedian(curve) - np.nanmin(curve)) if known else 0.0)
        columns.append(int(np.nanargmin(curve)) if known else REACH)
    common = columns[int(np.argmax(depths))] if depths else REACH
    return [own if depth >= OWN_OFFSET else common for own, depth in zip(columns, depths, strict=True)]


def _fill(row: np.ndarray, person: ScoredTrack, talking: np.ndarray, offset: int) -> None:
    """Writes a person's evidence into a row of frames, where the person is visible."""
    near = slice(max(0, offset - SLACK), offset + SLACK + 1)
    edges = np.flatnonzero(np.diff(person.starts) > 1) + 1
    for starts, distances in zip(np.split(person.starts, edges), np.split(person.distances, edges), strict=True):
        centers, known = starts + WINDOW // 2, np.isfinite(distances)
        weight = talking[centers].astype(float)
        columns = zip(distances.T, known.T, strict=True)
        averages = np.stack([_average(np.where(ok, d, 0), weight * ok) for d, ok in columns], 1)
        depth = np.median(averages, axis=1) - averages[:, near].min(axis=1)
        depth *= _average(weight, np.ones(len(weight)))
        last = min(centers[-1] + WINDOW // 2 + 1, len(row))
        row[starts[0] : last] = np.interp(np.arange(starts[0], last), centers, depth)


def _average(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(N,) weighted mean over SMOOTHING frames around each; 0 without weight."""
    kernel = np.ones(SMOOTHING | 1)
    sums, weights = (np.convolve(x, kernel, "full")[SMOOTHING // 2 :][: len(x)] for x in (values * weight, weight))
    return sums / np.maximum(weights, 1e-9)


def _best_path(evidence: np.ndarray) -> np.ndarray:
    """(K, N) evidence → (N,) the states with the highest sum, minus CHANGE_COST for each change."""
    states, frames = evidence.shape
    back, total = np.zeros((frames, states), int), np.zeros(states)
    for frame in range(frames):
        best = int(np.argmax(total))
        stay = total >= total[best] - CHANGE_COST
        back[frame] = np.where(stay, np.arange(states), best)
        total = np.maximum(total, total[best] - CHANGE_COST) + evidence[:, frame]
    path = np.empty(frames, int)
    state = int(np.argmax(total)) if frames else 0
    for frame in range(frames - 1, -1, -1):
        path[frame] = state
        state = back[frame, state]
    return path
