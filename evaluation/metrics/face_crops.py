"""Points crops of a source video and of the videos generated from it, at 25 fps and at the same place.

Metrics cover the longest single-shot run of frames in which the face is found. The face is tracked once, in the source
video; all generated videos are cropped with the same track.
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

SIDE = 128  # pixels, side of the crop in which everything is measured
MIN_FRAMES = CLIP_FPS  # one second
GEOMETRY = CropGeometry("points", SIDE)
ASPECT_TOLERANCE = 0.01  # relative difference in aspect ratio allowed between a source and a generated video


@dataclass
class SourceVideo:
    """The original video of a face, the ground truth for all videos generated from it.

    Attributes:
        path, info: the file and its properties.
        start: first frame of the run, at 25 fps.
        track: boxes and points of the run in video pixels; N frames, the face found in every one.
        faces: (N, SIDE, SIDE, 3) uint8 BGR.
        samples: (n,) int16 at 16 kHz, the audio from the start of the file; empty without an audio track.
    """

    path: Path
    info: VideoInfo
    start: int
    track: FaceTrack
    faces: np.ndarray
    samples: np.ndarray

    def crop_matrices(self, width: int, height: int) -> np.ndarray:
        """(N, 2, 3) affine matrices from the pixels of a frame of this size to the crop."""
        size = self.info.width, self.info.height
        matrices = np.stack(
            [
                GEOMETRY.matrix(box, points, size)
                for box, points in zip(self.track.boxes, self.track.points, strict=True)
            ]
        )
        scale = np.array([size[0] / width, size[1] / height])
        matrices[:, :, 2] += matrices[:, :, :2] @ (scale / 2 - 0.5)  # coordinates refer to pixel centers
        matrices[:, :, :2] *= scale
        return matrices


@dataclass
class FaceFootage:
    """The measured part of a video generated from a source.

    Attributes:
        faces: (N, SIDE, SIDE, 3) uint8 BGR, frames `start` to `start` + N - 1; N is at most the source's.
        samples: (n,) int16 at 16 kHz, the audio from the start of the file.
        start: first frame of the run, at 25 fps.
    """

    faces: np.ndarray
    samples: np.ndarray
    start: int


def open_source(path: Path, detector: FaceDetector, seconds: float | None = None) -> SourceVideo:
    """Track the face in the first `seconds` of a video, or in all of it if None.

    Raises:
        MediaError: not a video, too short, or no face for a full second.
    """
    info = _probe_video(path)
    track = track_face(read_frames(path, fps=Fraction(CLIP_FPS), end=seconds), detector)
    runs = face_runs(track, len(track))
    first, last = max(runs, key=lambda run: run[1] - run[0], default=(0, 0))
    if last - first < MIN_FRAMES:
        raise MediaError(f"no face {'for one continuous second ' if runs else ''}in {display_path(path)}")
    part = slice(first, last)
    run = FaceTrack(track.boxes[part], track.points[part], track.found[part], track.shot[part], track.size)
    samples = as_int16(load_audio(path)) if info.has_audio else np.zeros(0, np.int16)
    source = SourceVideo(path, info, first, run, np.zeros((0, SIDE, SIDE, 3), np.uint8), samples)
    source.faces = _crop_frames(path, first, source.crop_matrices(info.width, info.height))
    return source


def read_footage(path: Path, source: SourceVideo) -> FaceFootage:
    """Read a video generated from a source.

    Raises:
        MediaError: not a video with audio, shorter than a second, another aspect ratio than the source, or audio and
            video differ in length.
    """
    info, samples = _read_generated(path, source)
    matrices = source.crop_matrices(info.width, info.height)
    faces = _crop_frames(path, source.start, matrices)
    if len(faces) < MIN_FRAMES:
        raise MediaError(
            f"{display_path(path)} covers less than one second of the measured run of {display_path(source.path)}"
        )
    return FaceFootage(faces, samples, source.start)


def read_still_footage(path: Path, source: SourceVideo, index: int) -> FaceFootage:
    """Read a video generated from the single frame `index` of a source's run; it is as long as its audio.

    Raises:
        MediaError: as for `read_footage`.
    """
    info, samples = _read_generated(path, source)
    matrix = source.crop_matrices(info.width, info.height)[index]
    matrices = np.broadcast_to(matrix, (round(info.duration * CLIP_FPS), 2, 3))
    return FaceFootage(_crop_frames(path, 0, matrices), samples, 0)


def _read_generated(path: Path, source: SourceVideo) -> tuple[VideoInfo, np.ndarray]:
    """Properties and audio of a generated video; raises MediaError as `read_footage` does."""
    info = _probe_video(path)
    if not info.has_audio:
        raise MediaError(f"{display_path(path)} has no audio track")
    aspect, source_aspect = info.width / info.height, source.info.width / source.info.height
    if abs(aspect / source_aspect - 1) > ASPECT_TOLERANCE:
        size = f"{source.info.width}x{source.info.height}"
        raise MediaError(
            f"{display_path(path)} has another aspect ratio than its face: {info.width}x{info.height}, not {size}"
        )
    samples = as_int16(load_audio(path))
    seconds = len(samples) / (CLIP_FPS * FRAME_SAMPLES)
    if abs(seconds - info.duration) > 2 * MAX_SILENT_END:
        raise MediaError(f"{display_path(path)} has {info.duration:.2f} s of video but {seconds:.2f} s of audio")
    return info, samples


def _probe_video(path: Path) -> VideoInfo:
    info = probe(path)
    if info.is_image:
        raise MediaError(f"{display_path(path)} is a photo, not a video")
    if info.duration < MIN_FRAMES / CLIP_FPS:
        raise MediaError(f"{display_path(path)} is {info.duration:.2f} s long; at least 1 s is required")
    return info


def _crop_frames(path: Path, start: int, matrices: np.ndarray) -> np.ndarray:
    """(N, SIDE, SIDE, 3) crops from frame `start` on, one per matrix, (M, 2, 3); N < M if the video ends early."""
    frames = read_frames(path, fps=Fraction(CLIP_FPS), end=(start + len(matrices) + 1) / CLIP_FPS)
    run = islice(frames, start, start + len(matrices))
    faces = [crop(frame, matrix, SIDE) for frame, matrix in zip(run, matrices, strict=False)]
    return np.stack(faces) if faces else np.zeros((0, SIDE, SIDE, 3), np.uint8)
