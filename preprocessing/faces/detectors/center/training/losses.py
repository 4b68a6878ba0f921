"""Targets of a scene and the detector's losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from preprocessing.faces.detectors.center.network_config import STRIDE, VALUES, encode_faces
from preprocessing.faces.detectors.center.training.scenes import Scene

SPREAD = 0.09  # standard deviation of a center's heat, in face sizes
NARROWEST = 0.55  # cells
NEAR = 0.12  # cells this near to the center, in face sizes, learn the box


@dataclass(frozen=True)
class CenterLossWeights:
    """Weights of the losses.

    Attributes:
        heat: Focal loss of the heat map (Zhou et al., 2019).
        box: Difference of center and log size.
        points: Difference of the five points, in face sizes.
    """

    heat: float = 1.0
    box: float = 2.0
    points: float = 1.0


@dataclass  # not frozen: Fabric moves its tensors to the device
class Targets:
    """Of a batch: heat (B, h, w), 0 to 1, 1 at centers; values (B, VALUES, h, w) and their weights (B, h, w), 1 in all
    per face; counted (B, h, w), 0 where the heat is neither right nor wrong."""

    heat: Tensor
    values: Tensor
    weights: Tensor
    counted: Tensor


def targets_of(scenes: Sequence[Scene]) -> Targets:
    """The targets of a batch of scenes of one size."""
    parts = zip(*(_of_scene(scene) for scene in scenes), strict=True)
    return Targets(*(torch.from_numpy(np.stack(part)) for part in parts))


def _of_scene(scene: Scene) -> tuple[np.ndarray, ...]:
    side = scene.image.shape[0] // STRIDE
    heat, weights, counted = (np.zeros((side, side), np.float32) for _ in range(3))
    values = np.zeros((VALUES, side, side), np.float32)
    counted += 1
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1)
    for box in scene.ignored:
        low, high = np.clip(np.round(box / STRIDE).astype(int), 0, side).reshape(2, 2)
        counted[low[1] : high[1], low[0] : high[0]] = 0
    order = np.argsort(-(scene.boxes[:, 2:] - scene.boxes[:, :2]).prod(1))  # small ones last: they have fewer cells
    for box, points in zip(scene.boxes[order], scene.points[order], strict=True):
        center, size = (box[:2] + box[2:]) / 2, float(np.sqrt((box[2:] - box[:2]).prod()))
        cell = np.clip(np.floor(center / STRIDE), 0, side - 1).astype(int)
        away = np.square(grid - cell).sum(-1)
        np.maximum(heat, np.exp(-away / (2 * max(SPREAD * size / STRIDE, NARROWEST) ** 2)), out=heat)
        near = away <= max(NEAR * size / STRIDE, 0.5) ** 2
        cells = grid[near]
        several = len(cells)
        values[:, near] = encode_faces(cells, np.repeat(box[None], several, 0), np.repeat(points[None], several, 0)).T
        weights[near] = 1 / several
        counted[cell[1], cell[0]] = 1
    return heat, values, weights, counted


def center_losses(logits: Tensor, values: Tensor, targets: Targets) -> dict[str, Tensor]:
    """The losses by name, each per face of the batch.

    Args:
        logits: (B, h, w).
        values: (B, VALUES, h, w).
    """
    heat, right = torch.sigmoid(logits), targets.heat == 1
    found = -F.logsigmoid(logits) * (1 - heat) ** 2
    wrong = -F.logsigmoid(-logits) * heat**2 * (1 - targets.heat) ** 4
    faces = right.sum().clamp(min=1)
    away = F.smooth_l1_loss(values, targets.values, reduction="none", beta=0.05) * targets.weights[:, None]
    return {
        "heat": (torch.where(right, found, wrong) * targets.counted).sum() / faces,
        "box": away[:, :4].sum() / (4 * faces),
        "points": away[:, 4:].sum() / (10 * faces),
    }
