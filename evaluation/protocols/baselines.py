"""A face's own pictures, changed without a generator: at another rate, or with a mouth that stays as it is."""

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

FINEST = 8  # times SIDE at most: beyond it a held mouth is coarser than it was filmed


def retimed(face: Path, fps: int, seconds: float, path: Path) -> Path:
    """Writes the first seconds of a video at another rate, without a loss and without the sound.

    Raises:
        MediaError: the video cannot be read, or the other not written.
    """
    info = probe(face)
    with VideoWriter(path, info.width, info.height, Fraction(fps), crf=0, source=info) as writer:
        for picture in read_frames(face, fps=Fraction(fps), end=seconds):
            writer.write(picture)
    return path


def held(pictures: Iterable[np.ndarray], fps: Fraction, source: SourceVideo) -> Iterator[np.ndarray]:
    """The pictures of a face's video, with the mouth that it has in the first frame of the source's run.

    It moves with the head, and is set in by the generator's mask; before and after the run pictures stay as they are.

    Args:
        pictures: (H, W, 3) uint8, from the video's beginning on, `fps` a second.
    """
    maps, mouth, mask = None, np.zeros(0, np.float32), np.zeros(0, np.float32)
    for index, picture in enumerate(pictures):
        place = float(index * CLIP_FPS / fps) - source.start  # in the run's frames
        if not -0.5 <= place < len(source.track) - 0.5:
            yield picture
            continue
        if maps is None:
            maps = _fine(source.maps(picture.shape[1], picture.shape[0]))
            side = round(SIDE * maps[1])
            mouth, mask = crop(picture, maps[0][0], side).astype(np.float32), crop_mask("points", side)
        yield composite(picture, mouth, _between(maps[0], place), mask)


def _fine(maps: np.ndarray) -> tuple[np.ndarray, float]:
    """Maps to squares as fine as the video's own pixels, and how much larger these are."""
    pixels = 1 / np.sqrt(abs(np.linalg.det(maps[0, :, :2])))  # of the video, to one of the square
    times = min(max(1, math.ceil(pixels * SIDE / 32) * 32 / SIDE), FINEST)
    half = np.array([[0, 0, 0.5], [0, 0, 0.5]])  # a pixel's centre lies half a pixel from its corner
    return (maps + half) * times - half, times


def _between(maps: np.ndarray, place: float) -> np.ndarray:
    """The map at a place between two frames: other rates than 25 a second have pictures there."""
    place = min(max(place, 0.0), len(maps) - 1.0)
    before = min(int(place), len(maps) - 2)
    return maps[before] + (place - before) * (maps[before + 1] - maps[before])
