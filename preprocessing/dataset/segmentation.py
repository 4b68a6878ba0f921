"""Where clips begin and end: runs of one face within a shot, long ones cut into near-equal pieces where it is quiet."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from preprocessing.dataset.clip_header import CLIP_FPS
from preprocessing.faces.face_track import FaceTrack

FRAME_SAMPLES = 16000 // CLIP_FPS  # 640 samples of sound belong to a frame
MAX_SILENT_END = 0.1  # seconds: sound that ends so much before the picture is filled with silence
SEARCH_RADIUS = 25  # frames to either side of the even cut in which a quieter place is looked for
QUIET_RADIUS = 2  # frames to either side of a cut whose loudness counts
LOUDNESS_STEP = 3.0  # decibels: places whose loudness differs by less are alike, and the nearer one is taken


def frames_with_audio(frames: int, samples: int) -> int:
    """How many of a video's frames have sound: all of them unless it ends more than MAX_SILENT_END before them."""
    return frames if frames * FRAME_SAMPLES - samples <= MAX_SILENT_END * 16000 else samples // FRAME_SAMPLES


def face_runs(track: FaceTrack, frames: int) -> list[tuple[int, int]]:
    """First and one-past-last frame of each run, among the first `frames`, of a face that is found in one shot."""
    found, shot = track.found[:frames], track.shot[:frames]
    edges = np.flatnonzero((np.diff(found.astype(np.int8)) != 0) | (np.diff(shot) != 0)) + 1
    bounds = [0, *edges.tolist(), len(found)]
    return [(first, last) for first, last in pairwise(bounds) if first < last and found[first]]


def cut_run(
    first: int, last: int, samples: np.ndarray, min_seconds: float, max_seconds: float
) -> list[tuple[int, int]]:  # fmt: skip
    """A run of frames in near-equal pieces of at most `max_seconds`, each cut in the quietest place near the even one.

    Args:
        first, last: the run, of at least `min_seconds`; `last` is one past its end.
        samples: (n,) int16, the whole video's sound.
        min_seconds, max_seconds: of a piece; the first is at most half of the second.
    """
    shortest, longest = math.ceil(min_seconds * CLIP_FPS), math.floor(max_seconds * CLIP_FPS)
    count = math.ceil((last - first) / longest)
    cuts = [first]
    for left in range(count - 1, 0, -1):
        even = first + round((last - first) * (count - left) / count)
        low = max(cuts[-1] + shortest, last - left * longest, even - SEARCH_RADIUS)
        high = min(cuts[-1] + longest, last - left * shortest, even + SEARCH_RADIUS)
        cuts.append(_quietest(samples, low, high, even))
    return list(zip(cuts, [*cuts[1:], last], strict=True))


def _quietest(samples: np.ndarray, low: int, high: int, even: int) -> int:
    """The frame from `low` to `high` around whose beginning the sound is quietest, the one nearest to `even`."""
    power = [_mean_square(samples, frame) for frame in range(low - QUIET_RADIUS, high + QUIET_RADIUS)]
    around = [sum(power[k : k + 2 * QUIET_RADIUS]) for k in range(high - low + 1)]
    loudness = [round(10 * math.log10(value + 1) / LOUDNESS_STEP) for value in around]
    return min(range(low, high + 1), key=lambda frame: (loudness[frame - low], abs(frame - even)))


def _mean_square(samples: np.ndarray, frame: int) -> float:
    """Mean square of the sound of a frame, in squared steps of int16; 0 beyond the sound's end."""
    piece = samples[max(frame, 0) * FRAME_SAMPLES : (frame + 1) * FRAME_SAMPLES]
    return float(np.mean(np.square(piece, dtype=np.float64))) if len(piece) else 0.0
