"""Landmark losses and error metrics; lengths are in units of the canonical face."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from preprocessing.faces.landmarks.network_config import NetworkConfig
from preprocessing.faces.landmarks.views import FACE_SIDE, MOUTH_SIDE
from preprocessing.faces.mesh import LEFT_EYE, LIPS_INNER, LIPS_OUTER, RIGHT_EYE, mouth_width, opening

DEPTH_WEIGHT = 0.4  # weight of depth, which a single image barely constrains
LOWER = np.concatenate([LIPS_OUTER[1:10], LIPS_INNER[1:10]])  # lower lip points and their opposites on the upper lip
UPPER = np.concatenate([LIPS_OUTER[:10:-1], LIPS_INNER[:10:-1]])


@dataclass(frozen=True)
class LandmarkLossWeights:
    """Weights of the losses.

    Attributes:
        points: Mean absolute error over all points.
        lips: The same over both lip rings.
        gap: The same over the lip-to-lip vectors across the mouth, which determine whether it is closed.
        presence: Cross-entropy of presence.
    """

    points: float = 1.0
    lips: float = 2.0
    gap: float = 1.5
    presence: float = 0.7


class LandmarkLoss:
    """Computes the unweighted losses of a batch by name."""

    def __init__(self, network: NetworkConfig) -> None:
        index = {int(row): k for k, row in enumerate(network.rows())}
        self.lips = torch.tensor([index[row] for row in (*LIPS_OUTER, *LIPS_INNER)])
        self.lower = torch.tensor([index[row] for row in LOWER])
        self.upper = torch.tensor([index[row] for row in UPPER])
        self.units = (FACE_SIDE if network.part == "face" else MOUTH_SIDE) / 2

    def __call__(
        self, points: Tensor, logits: Tensor, truth: Tensor, presence: Tensor, weight: Tensor
    ) -> dict[str, Tensor]:
        """Losses of (B, P, 3) points and (B,) logits against the true ones; (B,) weights of each example's points."""
        axes = torch.tensor([1.0, 1.0, DEPTH_WEIGHT])
        error = (points - truth).abs() * axes * self.units
        gap = (points[:, self.upper] - points[:, self.lower]) - (truth[:, self.upper] - truth[:, self.lower])
        share = weight / weight.sum().clamp(min=1e-6)
        judged = presence >= 0
        crossed = F.binary_cross_entropy_with_logits(logits, presence.clamp(min=0), reduction="none")
        return {
            "points": (error.mean((1, 2)) * share).sum(),
            "lips": (error[:, self.lips].mean((1, 2)) * share).sum(),
            "gap": (gap[..., :2].abs().mean((1, 2)) * self.units * share).sum(),
            "presence": (crossed * judged).sum() / judged.sum().clamp(min=1),
        }


def measure_points(points: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Errors of (T, 206, 3) points in percent of the eye distance, and correlation of the mouth shape.

    Returns:
        all and lips: mean distance in the image plane; shift: constant part of the lip error over all frames;
        opening and width: Pearson correlation over the frames.
    """
    eyes = np.linalg.norm(truth[:, RIGHT_EYE, :2].mean(1) - truth[:, LEFT_EYE, :2].mean(1), axis=-1)
    away = (points - truth)[..., :2] / eyes[:, None, None]
    lips = away[:, [*LIPS_OUTER, *LIPS_INNER]]
    return {
        "all": 100 * float(np.linalg.norm(away, axis=-1).mean()),
        "lips": 100 * float(np.linalg.norm(lips, axis=-1).mean()),
        "shift": 100 * float(np.linalg.norm(lips.mean(0), axis=-1).mean()),
        "opening": _correlation(opening(points) / eyes, opening(truth) / eyes),
        "width": _correlation(mouth_width(points) / eyes, mouth_width(truth) / eyes),
    }


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    if min(np.std(one), np.std(other)) < 1e-9:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])
