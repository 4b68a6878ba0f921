"""A face's video and all that were made of it, seen in the same square: points crops at 25 frames a second.

What is measured is the longest run of frames in one shot in which the face is found; where it lies in the picture is
looked up in the face's own video once, and all others are cut there too.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np

from preprocessing.dataset.clip_header import CLIP_FPS
from preprocessing.dataset.segmentation import FRAME_SAMPLES, MAX_SILENT_END, face_runs
from preprocessing.errors import MediaError, display_path
from preprocessing.faces.crops import CropGeometry, crop
from preprocessing.faces.face_track import FaceDetector, FaceTrack
from preprocessing.faces.tracking import track_face
from preprocessing.media.audio import as_int16, load_audio
from preprocessing.media.video_reader import VideoInfo, probe, read_frames

SIDE = 128  # pixels of the square in which everything is measured
SHORTEST = CLIP_FPS  # frames: a second
GEOMETRY = CropGeometry("points", SIDE)
SHAPE = 0.01  # by which width to height may differ between a video and what was made of it


@dataclass
class SourceVideo:
    """A face's own video, the truth that others are measured against.

    Attributes:
        path, info: the file.
        start: first frame of the run, at 25 a second.
        track: the run's boxes and points, in the video's pixels; N frames, the face found in all.
        faces: (N, SIDE, SIDE, 3) uint8 BGR.
        samples: (n,) int16 at 16 kHz, the sound from the file's beginning on; of a silent file none.
    """

    path: Path
    info: VideoInfo
    start: int
    track: FaceTrack
    faces: np.ndarray
    samples: np.ndarray

    def maps(self, width: int, height: int) -> np.ndarray:
        """(N, 2, 3): from the pixels of a picture of that size to the square."""
        size = self.info.width, self.info.height
        maps = np.stack(
            [
                GEOMETRY.matrix(box, points, size)
                for box, points in zip(self.track.boxes, self.track.points, strict=True)
            ]
        )
        scale = np.array([size[0] / width, size[1] / height])
        maps[:, :, 2] += maps[:, :, :2] @ (scale / 2 - 0.5)  # between the middles of pixels
        maps[:, :, :2] *= scale
        return maps


@dataclass
class FaceFootage:
    """A video of a source's face.

    Attributes:
        faces: (N, SIDE, SIDE, 3) uint8 BGR, frames `start` to `start` + N - 1; N is at most the source's.
        samples: (n,) int16 at 16 kHz, the file's sound from its beginning on.
        start: first frame of the run, at 25 a second.
    """

    faces: np.ndarray
    samples: np.ndarray
    start: int


def open_source(path: Path, detector: FaceDetector, seconds: float | None = None) -> SourceVideo:
    """Looks for the face in the first `seconds` of a video, None: in all of it.

    Raises:
        MediaError: it is no video, too short, or does not show a face for a second.
    """
    info = _video(path)
    track = track_face(read_frames(path, fps=Fraction(CLIP_FPS), end=seconds), detector)
    runs = face_runs(track, len(track))
    first, last = max(runs, key=lambda run: run[1] - run[0], default=(0, 0))
    if last - first < SHORTEST:
        raise MediaError(
            f"{display_path(path)} shows no face " + ("for a second without a break" if runs else "at all")
        )
    part = slice(first, last)
    run = FaceTrack(track.boxes[part], track.points[part], track.found[part], track.shot[part], track.size)
    samples = as_int16(load_audio(path)) if info.has_audio else np.zeros(0, np.int16)
    source = SourceVideo(path, info, first, run, np.zeros((0, SIDE, SIDE, 3), np.uint8), samples)
    source.faces = _cut(path, first, source.maps(info.width, info.height))
    return source


def look(path: Path, source: SourceVideo) -> FaceFootage:
    """Reads a video that was made of a source.

    Raises:
        MediaError: it is no video with sound, shorter than a second, of another shape than the source, or its sound and
            its picture last differently long.
    """
    info, samples = _fitting(path, source)
    maps = source.maps(info.width, info.height)
    faces = _cut(path, source.start, maps)
    if len(faces) < SHORTEST:
        raise MediaError(
            f"{display_path(path)} shows less than a second of what is measured of {display_path(source.path)}"
        )
    return FaceFootage(faces, samples, source.start)


def look_at_still(path: Path, source: SourceVideo, index: int) -> FaceFootage:
    """Reads a video that was made of one frame of a source's run, `index`, and is as long as its sound.

    Raises:
        MediaError: as `look`.
    """
    info, samples = _fitting(path, source)
    maps = source.maps(info.width, info.height)[index]
    return FaceFootage(_cut(path, 0, np.broadcast_to(maps, (round(info.duration * CLIP_FPS), 2, 3))), samples, 0)


def _fitting(path: Path, source: SourceVideo) -> tuple[VideoInfo, np.ndarray]:
    """What a video made of a source is, and its sound; MediaError as `look`."""
    info = _video(path)
    if not info.has_audio:
        raise MediaError(f"{display_path(path)} has no sound track")
    theirs, ours = info.width / info.height, source.info.width / source.info.height
    if abs(theirs / ours - 1) > SHAPE:
        size = f"{source.info.width}x{source.info.height}"
        raise MediaError(
            f"{display_path(path)} is of another shape than its face: {info.width}x{info.height} against {size}"
        )
    samples = as_int16(load_audio(path))
    heard = len(samples) / (CLIP_FPS * FRAME_SAMPLES)
    if abs(heard - info.duration) > 2 * MAX_SILENT_END:
        raise MediaError(
            f"{display_path(path)} has unequal lengths: {info.duration:.2f} s of picture, {heard:.2f} s of sound"
        )
    return info, samples


def _video(path: Path) -> VideoInfo:
    info = probe(path)
    if info.is_image:
        raise MediaError(f"{display_path(path)} is a photo, not a video")
    if info.duration < SHORTEST / CLIP_FPS:
        raise MediaError(f"{display_path(path)} lasts {info.duration:.2f} s: 1 s is needed")
    return info


def _cut(path: Path, start: int, maps: np.ndarray) -> np.ndarray:
    """(N, SIDE, SIDE, 3) of the frames from `start` on, one a map, (M, 2, 3); as many as the video has."""
    frames = read_frames(path, fps=Fraction(CLIP_FPS), end=(start + len(maps) + 1) / CLIP_FPS)
    run = islice(frames, start, start + len(maps))
    faces = [crop(frame, each, SIDE) for frame, each in zip(run, maps, strict=False)]
    return np.stack(faces) if faces else np.zeros((0, SIDE, SIDE, 3), np.uint8)
