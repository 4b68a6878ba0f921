"""Two judges of mouth shape, from a video to mesh points: MediaPipe FaceMesh and our own landmark network.

MediaPipe's wheel requires numpy < 2, so it runs in another Python environment, as a subprocess that is fed the same
frames. Our network is no independent judge of the default engine, which moves the points that it finds.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from evaluation.metrics.mesh import mediapipe_mesh
from evaluation.metrics.mesh.mouth_shape import (
    MouthLook,
    fill_gaps,
    flicker,
    lip_redness,
    mouth_box,
    outside_change,
    sharpness,
)
from preprocessing.dataset.clip_header import CLIP_FPS
from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.faces.face_track import FaceDetector
from preprocessing.faces.landmarks.predictor import LandmarkNetwork, load_landmarks
from preprocessing.faces.landmarks.smoothing import SmoothingConfig
from preprocessing.faces.landmarks.tracker import LandmarkTracker
from preprocessing.faces.mesh import MESH_INDICES
from preprocessing.media.video_reader import read_frames

Track = tuple[np.ndarray, np.ndarray]
"""Points (N, 206, 2) float64 in pixels, zeros where there is no face, and found, (N,) bool."""


class MeshJudge(Protocol):
    """Finds the mesh points of the one face in consecutive frames, uint8 BGR (H, W, 3)."""

    name: str
    """Names the judge in reports."""

    def __call__(self, frames: Iterable[np.ndarray]) -> Track: ...


class LandmarkJudge:
    """Our landmark network, without smoothing."""

    name = "our landmark network"

    def __init__(self, detector: FaceDetector, network: LandmarkNetwork | None = None) -> None:
        self._detector, self._network = detector, network or load_landmarks()

    def __call__(self, frames: Iterable[np.ndarray]) -> Track:
        tracker = LandmarkTracker(self._network, self._detector, smoothing=SmoothingConfig(reach=0))
        seen = list(tracker(frames))
        nothing = np.zeros((len(MESH_INDICES), 2))
        points = [nothing if face is None else face.points[:, :2].astype(np.float64) for face in seen]
        return np.array(points).reshape(-1, len(MESH_INDICES), 2), np.array([face is not None for face in seen], bool)


class MediaPipeJudge:
    """MediaPipe FaceMesh with the attention model, in tracking mode, run by another Python.

    Args:
        python: the interpreter of an environment with mediapipe.

    Raises:
        UsageError: it cannot be run, or has no mediapipe.
    """

    def __init__(self, python: Path) -> None:
        # -I: the modules beside the script must not hide those of its environment
        self._command = [str(python), "-I", str(Path(mediapipe_mesh.__file__))]
        try:
            answer = subprocess.run([*self._command, "--version"], capture_output=True, text=True, check=True)
        except OSError as error:
            raise UsageError(f"cannot run {display_path(python)}: {error.strerror}") from error
        except subprocess.CalledProcessError as error:
            raise UsageError(f"{display_path(python)} has no MediaPipe: {_last_line(error.stderr)}") from error
        self.name = f"MediaPipe FaceMesh {answer.stdout.strip()}"

    def __call__(self, frames: Iterable[np.ndarray]) -> Track:
        """Raises MediaError if MediaPipe fails."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "points.npz")
            self._run(frames, path)
            with np.load(path, allow_pickle=False) as saved:
                return saved["points"][:, list(MESH_INDICES), :2].astype(np.float64), saved["found"]

    def _run(self, frames: Iterable[np.ndarray], path: Path) -> None:
        with tempfile.TemporaryFile() as log:
            process: subprocess.Popen[bytes] | None = None
            try:
                for frame in frames:
                    if process is None:
                        size = [str(side) for side in frame.shape[1::-1]]
                        command = [*self._command, *size, str(path)]
                        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
                    process.stdin.write(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB).tobytes())  # type: ignore[union-attr]
            except BrokenPipeError:
                pass  # it has failed: its exit code says so
            except BaseException:
                if process is not None:
                    process.kill()
                raise
            finally:
                if process is not None:
                    _close(process)
            if process is None or process.returncode:
                log.seek(0)
                raise MediaError(f"MediaPipe failed: {_last_line(log.read().decode(errors='replace')) or 'no frames'}")


def _close(process: subprocess.Popen[bytes]) -> None:
    try:
        process.communicate()
    except BrokenPipeError:
        process.wait()


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


def mesh_judge(python: Path | None, detector: FaceDetector) -> MeshJudge:
    """MediaPipe if the interpreter of its environment is given, else our landmark network.

    Raises:
        UsageError: MediaPipe cannot be run.
    """
    return LandmarkJudge(detector) if python is None else MediaPipeJudge(python)


def observe(path: Path, judge: MeshJudge, seconds: float | None = None) -> MouthLook:
    """The mouth in the first `seconds` of a video, at 25 fps.

    Raises:
        MediaError: not a video, or no frame has a face.
    """
    points, found = judge(_frames(path, seconds))
    if not found.any():
        raise MediaError(f"{judge.name} finds no face in {display_path(path)}")
    points = fill_gaps(points, found)
    look = np.full((len(points), 3), np.nan)
    recent = deque[np.ndarray](maxlen=3)
    for k, frame in enumerate(islice(_frames(path, seconds), len(points))):
        recent.append(frame)
        if found[k]:
            box, inside = mouth_box(frame, points[k])
            look[k, :2] = lip_redness(box, inside), sharpness(box)
        if len(recent) == 3 and found[k - 1]:
            before, middle, after = recent
            look[k - 1, 2] = flicker(before, middle, after, points[k - 1])
    return MouthLook(points, found, *look.T)


def untouched(made: Path, own: Path, look: MouthLook, seconds: float | None = None) -> float | None:
    """Mean of `mouth_shape.outside_change` over the frames with a face, of a video made from frame 0 of another on.

    Args:
        look: the own video's mouth.

    Returns:
        Levels of 255; None if the frames differ in size.
    """
    found = []
    pairs = zip(_frames(made, seconds), _frames(own, seconds), look.points, look.found, strict=False)
    for here, there, points, face in pairs:
        if here.shape != there.shape:
            return None
        if face:
            found.append(outside_change(here, there, points))
    return float(np.nanmean(found)) if np.isfinite(found).any() else None


def _frames(path: Path, seconds: float | None) -> Iterator[np.ndarray]:
    return read_frames(path, fps=Fraction(CLIP_FPS), end=seconds)
