"""A sheet of sample faces: the generator's inputs, its output and the ground truth."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

COLUMNS = ("reference", "masked", "generated", "real")
HEADER = 16  # height of the column titles in pixels


def sample_grid(reference: Tensor, masked: Tensor, generated: Tensor, real: Tensor) -> np.ndarray:
    """Renders one row per face and one titled column per kind of image.

    Args:
        reference, masked, generated, real: (N, 3, S, S) each, BGR, 0 to 1.

    Returns:
        (HEADER + N S, 4 S, 3) uint8 BGR.
    """
    faces = torch.stack((reference, masked, generated, real), dim=1).detach().cpu().clamp(0, 1)  # N, 4, 3, S, S
    count, _, _, size, _ = faces.shape
    rows = faces.permute(0, 3, 1, 4, 2).reshape(count * size, len(COLUMNS) * size, 3)
    header = np.zeros((HEADER, len(COLUMNS) * size, 3), np.uint8)
    for index, name in enumerate(COLUMNS):
        origin = (index * size + 3, HEADER - 4)
        cv2.putText(header, name, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
    return np.concatenate((header, (rows * 255).round().to(torch.uint8).numpy()))


def write_png(pixels: np.ndarray, path: Path) -> None:
    """Writes (H, W, 3) uint8 BGR as a PNG file, atomically."""
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    os.replace(part, path)
