"""The detector for inference: frames → boxes and points."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from preprocessing.compiled_networks import load_network
from preprocessing.faces.detectors.center.network_config import (
    DEEPEST,
    STRIDE,
    CenterConfig,
    center_config,
    decode_cells,
)
from preprocessing.faces.detectors.center.presence import PresenceCheck
from preprocessing.faces.face_track import Detection, clip_detections, reduce_frame
from preprocessing.faces.landmarks.predictor import load_part
from training.checkpoint_header import read_header

if TYPE_CHECKING:
    from torch import Tensor, nn

KIND = "face-detector"
WEIGHTS = Path(__file__).parent / "weights" / "face_detector.safetensors"
MIN_SCORE = 0.4  # after the check of presence
MAX_OVERLAP = 0.4  # IoU of two boxes that are two faces
SMALLEST = 20  # pixels: frames below this hold no face


class CenterDetector:
    """`FaceDetector` with points: ours, bundled, on one CPU core. The landmark network verifies what it doubts.

    Args:
        path: checkpoint; the bundled one by default.
        min_score: of the faces that are reported, 0 to 1.

    Raises:
        UsageError: the file is missing, damaged, or another kind of network.
    """

    def __init__(self, path: Path | None = None, min_score: float = MIN_SCORE) -> None:
        source = path or WEIGHTS
        self.config = center_config(read_header(source, KIND)["config"]["network"])
        self.min_score = min_score
        sources, build = (source, Path(__file__).with_name("model.py")), partial(frame_module, source, self.config)
        self._verified = PresenceCheck(partial(load_part, "face"))
        self._run = load_network(KIND, sources, build, [(1, -1, -1, 3)])

    def __call__(self, frames: Sequence[np.ndarray]) -> list[list[Detection]]:
        """Faces of uint8 BGR frames (H, W, 3), best first."""
        return [self._detect(frame) for frame in frames]

    def _detect(self, frame: np.ndarray) -> list[Detection]:
        if min(frame.shape[:2]) < SMALLEST:
            return []
        small = reduce_frame(frame, self.config.side)
        factor = np.array(small.shape[1::-1], np.float32) ** -1 * frame.shape[1::-1]
        heat, values = self._run(padded(small)[None])
        # Cells beyond the picture see padding only.
        inside = heat[0, : -(-small.shape[0] // STRIDE), : -(-small.shape[1] // STRIDE)]
        found = detections_of(inside, values[0], self.min_score)
        whole = [Detection(one.box * np.tile(factor, 2), one.score, one.points * factor) for one in found]  # type: ignore[operator]
        verified = [self._verified(frame, one, self.min_score) for one in clip_detections(whole, frame)]
        return sorted((one for one in verified if one is not None), key=lambda one: -one.score)


def detections_of(heat: np.ndarray, values: np.ndarray, min_score: float) -> list[Detection]:
    """The faces in the network's output, in pixels of its input.

    Args:
        heat: (h, w).
        values: (VALUES, h', w'), at least as large.
    """
    rows, columns = np.nonzero(heat >= min_score)
    boxes, points = decode_cells(np.stack([columns, rows], 1), values[:, rows, columns].T)
    scores = heat[rows, columns]
    boxes, points = boxes.astype(np.float32), points.astype(np.float32)
    return [Detection(boxes[k], float(scores[k]), points[k]) for k in without_overlaps(boxes, scores)]


def padded(picture: np.ndarray) -> np.ndarray:
    """The picture with black to the right and below, up to multiples of the deepest stride."""
    below, right = (-picture.shape[axis] % DEEPEST for axis in (0, 1))
    return cv2.copyMakeBorder(picture, 0, below, 0, right, cv2.BORDER_CONSTANT, value=(0, 0, 0))


def without_overlaps(boxes: np.ndarray, scores: np.ndarray) -> list[int]:
    """Rows of boxes (K, 4) that remain, best first, when of two that overlap much only the better one stays."""
    kept: list[int] = []
    for row in np.argsort(-scores):
        if all(overlap(boxes[row], boxes[other]) <= MAX_OVERLAP for other in kept):
            kept.append(int(row))
    return kept


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes (4,)."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    both = float(np.prod(np.maximum(sides, 0)))
    return both / float(np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - both)


def frame_module(source: Path, config: CenterConfig) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The torch module for uint8 frames, and an example."""
    import torch

    from preprocessing.faces.detectors.center.model import CenterNet, FrameNetwork
    from training.checkpoint import Checkpoint

    network = CenterNet(config)
    network.load_state_dict(Checkpoint.load(source, KIND).weights)
    return FrameNetwork(network).eval(), (torch.zeros(1, 192, 256, 3, dtype=torch.uint8),)


def bundled_detector() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The torch module of the bundled network, and an example frame."""
    return frame_module(WEIGHTS, center_config(read_header(WEIGHTS, KIND)["config"]["network"]))
