"""Segmentation into clips: runs of one face within a shot, long ones cut at quiet positions into near-equal pieces."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from preprocessing.dataset.clip_header import CLIP_FPS
from preprocessing.faces.face_track import FaceTrack

FRAME_SAMPLES = 16000 // CLIP_FPS  # 640 audio samples per frame
MAX_SILENT_END = 0.1  # seconds: audio that ends at most this much before the video is padded with silence
SEARCH_RADIUS = 25  # frames searched on either side of the even cut for a quieter position
QUIET_RADIUS = 2  # frames on either side of a cut over which loudness is measured
LOUDNESS_STEP = 3.0  # decibels: loudness is quantized to this step; among equally loud positions the nearest wins


def frames_with_audio(frames: int, samples: int) -> int:
    """Number of video frames with audio: all of them unless the audio ends more than MAX_SILENT_END earlier."""
    return frames if frames * FRAME_SAMPLES - samples <= MAX_SILENT_END * 16000 else samples // FRAME_SAMPLES


def face_runs(track: FaceTrack, frames: int) -> list[tuple[int, int]]:
    """[first, last) of each run, within the first `frames` frames, in which the face is found in a single shot."""
    found, shot = track.found[:frames], track.shot[:frames]
    edges = np.flatnonzero((np.diff(found.astype(np.int8)) != 0) | (np.diff(shot) != 0)) + 1
    bounds = [0, *edges.tolist(), len(found)]
    return [(first, last) for first, last in pairwise(bounds) if first < last and found[first]]


def cut_run(
    first: int, last: int, samples: np.ndarray, min_seconds: float, max_seconds: float
) -> list[tuple[int, int]]:  # fmt: skip
    """Cuts a run into near-equal pieces of at most `max_seconds`, each at the quietest position near the even cut.

    Args:
        first, last: the run [first, last), at least `min_seconds` long.
        samples: (n,) int16, the audio of the whole video.
        min_seconds, max_seconds: limits of a piece; `min_seconds` is at most half of `max_seconds`.
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
    """The frame from `low` to `high` with the quietest audio around its start; of equals, the nearest to `even`."""
    power = [_mean_square(samples, frame) for frame in range(low - QUIET_RADIUS, high + QUIET_RADIUS)]
    around = [sum(power[k : k + 2 * QUIET_RADIUS]) for k in range(high - low + 1)]
    loudness = [round(10 * math.log10(value + 1) / LOUDNESS_STEP) for value in around]
    return min(range(low, high + 1), key=lambda frame: (loudness[frame - low], abs(frame - even)))


def _mean_square(samples: np.ndarray, frame: int) -> float:
    """Mean square of a frame's audio in squared int16 units; 0 beyond the end of the audio."""
    piece = samples[max(frame, 0) * FRAME_SAMPLES : (frame + 1) * FRAME_SAMPLES]
    return float(np.mean(np.square(piece, dtype=np.float64))) if len(piece) else 0.0
