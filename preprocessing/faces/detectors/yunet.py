"""YuNet, through OpenCV: small, fast on any CPU, with five landmarks. The model is one 230 kB file."""

from __future__ import annotations

import hashlib
import http.client
import os
import tempfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from preprocessing.errors import UsageError
from preprocessing.faces.face_track import Detection, clip_detections

FILE = "face_detection_yunet_2023mar.onnx"
URL = f"https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/{FILE}"
SMALLEST = 20  # pixels
TIMEOUT = 10  # seconds
LARGEST = 4 << 20  # bytes; the file has 0.23 MB
SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"


def find_yunet(path: str | Path | None = None) -> Path:
    """Finds YuNet's model file: the given one, else the cached one, else downloaded once and verified.

    Raises:
        UsageError: the given file is missing, or the model cannot be downloaded.
    """
    if path is not None:
        if not Path(path).is_file():
            raise UsageError(f"no YuNet model at {path}: give the path of a face_detection_yunet .onnx file")
        return Path(path)
    return cached_yunet() or _fetch(_cache())


def cached_yunet() -> Path | None:
    """The model file that an earlier run downloaded; None if there is none."""
    return _cache() if _cache().is_file() else None


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wav2lip" / FILE


def _fetch(target: Path) -> Path:
    """Downloads the model and stores it only if its SHA-256 matches."""
    try:
        with urllib.request.urlopen(URL, timeout=TIMEOUT) as reply:
            data = reply.read(LARGEST)
    except (OSError, http.client.HTTPException) as error:
        raise UsageError(
            f"YuNet's model cannot be downloaded from {URL} ({error}): pass a local file with --yunet"
        ) from error
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise UsageError(f"the file downloaded from {URL} is not the expected YuNet model: SHA-256 mismatch")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as part:
            part.write(data)
        os.replace(part.name, target)
    except OSError as error:
        raise UsageError(
            f"YuNet's model cannot be saved to {target} ({error}): pass a local file with --yunet"
        ) from error
    return target


class YuNet:
    """`FaceDetector` with points. Frames may differ in size."""

    def __init__(self, model: Path, min_score: float = 0.6) -> None:
        try:
            self._net = cv2.FaceDetectorYN.create(str(model), "", (320, 320), min_score)
            self._net.detect(np.zeros((320, 320, 3), np.uint8))
        except cv2.error as error:
            raise UsageError(f"{model} is not a YuNet face detector: pass a face_detection_yunet .onnx file") from error

    def __call__(self, frames: Sequence[np.ndarray]) -> list[list[Detection]]:
        """Faces of uint8 BGR frames (H, W, 3), best first."""
        return [self._detect(frame) for frame in frames]

    def _detect(self, frame: np.ndarray) -> list[Detection]:
        if min(frame.shape[:2]) < SMALLEST:  # the network is unreliable below this
            return []
        self._net.setInputSize((frame.shape[1], frame.shape[0]))
        rows = self._net.detect(frame)[1]
        return clip_detections([_detection(row) for row in rows] if rows is not None else [], frame)


def _detection(row: np.ndarray) -> Detection:
    """Converts a YuNet row: x, y, width, height, five points in our order, score."""
    return Detection(np.concatenate([row[:2], row[:2] + row[2:4]]), float(row[14]), row[4:14].reshape(5, 2))
