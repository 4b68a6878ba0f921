"""S3FD (Zhang et al., 2017) from face-alignment: the original's detector; slow without a GPU."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from preprocessing.errors import UsageError
from preprocessing.faces.face_track import Detection, clip_detections
from training.safe_pickle import require_finite_weights

FILE = "s3fd-619a316812.pth"
URL = f"https://www.adrianbulat.com/downloads/python-fan/{FILE}"
SMALLEST = 32  # pixels; the net halves a frame five times
MIN_SCORE, MAX_OVERLAP = 0.5, 0.3


def find_sfd(path: str | Path | None = None) -> Path:
    """Finds S3FD's weights: the given file, else torch hub's cache; never downloads. Raises UsageError if absent."""
    cached = Path(torch.hub.get_dir()) / "checkpoints" / FILE
    file = Path(path) if path is not None else cached
    if file.is_file():
        return file
    if path is not None:
        raise UsageError(f"no S3FD weights at {path}: give the path of {FILE}")
    raise UsageError(
        f"the detector sfd needs {FILE}: download it from {URL} and pass it with --s3fd, or save it as {cached}"
    )


class S3FD:
    """`FaceDetector` without points, on the CPU or a GPU."""

    def __init__(self, weights: Path, device: str = "cpu") -> None:
        # Slow to import (numba), so only where it is used.
        from face_alignment.detection.sfd.net_s3fd import s3fd

        if torch.device(device).type == "cuda" and not torch.cuda.is_available():
            raise UsageError(f"device {device} is not available: use cpu")
        self._device = device
        self._net = s3fd()
        try:
            self._net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        except (RuntimeError, pickle.UnpicklingError, EOFError, AttributeError, TypeError) as error:
            raise UsageError(f"{weights} is not an S3FD checkpoint: download {FILE} from {URL}") from error
        require_finite_weights(weights, self._net.state_dict())
        self._net.to(device).eval()

    def __call__(self, frames: Sequence[np.ndarray]) -> list[list[Detection]]:
        """Faces of uint8 BGR frames (H, W, 3), best first. Consecutive frames of equal size are batched."""
        batches = [list(same) for _, same in groupby(frames, key=lambda frame: frame.shape)]
        return [found for batch in batches for found in self._detect(batch)]

    def _detect(self, frames: list[np.ndarray]) -> list[list[Detection]]:
        if min(frames[0].shape[:2]) < SMALLEST:
            return [[] for _ in frames]
        from face_alignment.detection.sfd.bbox import nms
        from face_alignment.detection.sfd.detect import batch_detect

        rgb = torch.from_numpy(np.stack(frames)[..., ::-1].copy()).permute(0, 3, 1, 2)
        rows = [np.asarray(found, np.float32).reshape(-1, 5) for found in batch_detect(self._net, rgb, self._device)]
        rows = [found[nms(found, MAX_OVERLAP)] for found in rows]
        return [
            clip_detections([Detection(row[:4], float(row[4])) for row in found if row[4] > MIN_SCORE], frame)
            for found, frame in zip(rows, frames, strict=True)
        ]
