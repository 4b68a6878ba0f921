"""Baselines made from the source video without a generator: another frame rate, or a frozen mouth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from evaluation.metrics.face_crops import SIDE, SourceVideo
from inference.generator.compositing import composite, crop_mask
from preprocessing.dataset.clip_header import CLIP_FPS
from preprocessing.faces.crops import crop
from preprocessing.media.video_reader import probe, read_frames
from preprocessing.media.video_writer import VideoWriter

MAX_SCALE = 8  # largest crop is this times SIDE; beyond it a frozen mouth is coarser than the footage


def convert_fps(face: Path, fps: int, seconds: float, path: Path) -> Path:
    """Write the first seconds of a video at another frame rate, losslessly and without audio.

    Raises:
        MediaError: the video cannot be read, or the output cannot be written.
    """
    info = probe(face)
    with VideoWriter(path, info.width, info.height, Fraction(fps), crf=0, source=info) as writer:
        for frame in read_frames(face, fps=Fraction(fps), end=seconds):
            writer.write(frame)
    return path


def freeze_mouth(frames: Iterable[np.ndarray], fps: Fraction, source: SourceVideo) -> Iterator[np.ndarray]:
    """Frames of a face video with the mouth of the first frame of the source's run.

    The mouth follows the head and is composited with the generator's mask; frames outside the run are unchanged.

    Args:
        frames: (H, W, 3) uint8, from the start of the video, at `fps`.
    """
    matrices, mouth, mask = None, np.zeros(0, np.float32), np.zeros(0, np.float32)
    for index, frame in enumerate(frames):
        position = float(index * CLIP_FPS / fps) - source.start  # in frames of the run
        if not -0.5 <= position < len(source.track) - 0.5:
            yield frame
            continue
        if matrices is None:
            matrices, scale = _upscale(source.crop_matrices(frame.shape[1], frame.shape[0]))
            side = round(SIDE * scale)
            mouth, mask = crop(frame, matrices[0], side).astype(np.float32), crop_mask("points", side)
        yield composite(frame, mouth, _interpolate(matrices, position), mask)


def _upscale(matrices: np.ndarray) -> tuple[np.ndarray, float]:
    """Crop matrices at the resolution of the video, and their scale relative to SIDE."""
    pixels = 1 / np.sqrt(abs(np.linalg.det(matrices[0, :, :2])))  # video pixels per crop pixel
    scale = min(max(1, math.ceil(pixels * SIDE / 32) * 32 / SIDE), MAX_SCALE)
    half = np.array([[0, 0, 0.5], [0, 0, 0.5]])  # a pixel's center is half a pixel from its corner
    return (matrices + half) * scale - half, scale


def _interpolate(matrices: np.ndarray, position: float) -> np.ndarray:
    """The crop matrix at a fractional frame position, as needed for frame rates other than 25 fps."""
    position = min(max(position, 0.0), len(matrices) - 1.0)
    before = min(int(position), len(matrices) - 2)
    return matrices[before] + (position - before) * (matrices[before + 1] - matrices[before])
