"""Speech activity: the face is at rest in silence."""

from __future__ import annotations

import numpy as np

from preprocessing.media.audio import AudioConfig
from preprocessing.media.speech_activity import speech_columns
from wav2lip.lip_motion.data.clips import FPS
from wav2lip.lip_motion.motion_config import close_lips
from wav2lip.lip_motion.shape_space import ShapeSpace

NEAR, RAMP = 2, 5  # frames
SILENT = 0.05  # `talking_share` below which lips are closed


def speech_frames(samples: np.ndarray) -> np.ndarray:
    """(N,) bool at 25 fps, from 0 s: whether there is speech in (n,) samples."""
    columns = speech_columns(samples)
    rate = AudioConfig().columns_per_second
    frames = np.arange(len(samples) * FPS // AudioConfig().sample_rate + 1)
    position = frames * rate.numerator // (rate.denominator * FPS)
    return columns[np.minimum(position, len(columns) - 1)]


def talking_share(speech: np.ndarray) -> np.ndarray:
    """(T,) bool → (T,) float32: 1 in speech and up to 0.1 s around it, 0 elsewhere, with ramps of 0.2 s.

    Lip motion in silence is unrelated to the audio: people who listen smile, breathe and gape. So in training and at
    inference the face is at rest in silence.
    """
    near = np.convolve(speech, np.ones(2 * NEAR + 1), "same") > 0
    ramp = np.hanning(RAMP + 2)[1:-1]
    padded = np.pad(near.astype(np.float32), RAMP // 2, mode="edge")
    return np.convolve(padded, ramp / ramp.sum(), "valid").astype(np.float32)


def rest_in_silence(
    coefficients: np.ndarray, logits: np.ndarray, talking: np.ndarray, space: ShapeSpace, rest_gap: float
) -> np.ndarray:
    """Post-processes the network's output: rest in silence, and closed lips where closure is probable.

    Args:
        coefficients: (T, K).
        logits: (T,) logits of closed lips.
        talking: (T,) 0 in silence, 1 in speech.
        space: the shape space.
        rest_gap: gap between the inner lips at rest, at gain 1.

    Returns:
        (T, K) float32.
    """
    spoken = coefficients * talking[:, None]
    probability = np.where(talking < SILENT, 1.0, 1 / (1 + np.exp(-logits)))
    change = close_lips(spoken @ space.opening + rest_gap, probability)
    return (spoken + change[:, None] * space.opening_direction).astype(np.float32)
