"""A sheet of faces to look at: what the generator was given, what it made of it, and what is real."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

COLUMNS = ("reference", "masked", "generated", "real")
HEAD = 16  # rows of pixels for the columns' names


def sample_grid(reference: Tensor, masked: Tensor, generated: Tensor, real: Tensor) -> np.ndarray:
    """One row a face, one named column a kind.

    Args:
        reference, masked, generated, real: (N, 3, S, S) each, BGR, 0 to 1.

    Returns:
        (HEAD + N S, 4 S, 3) uint8 BGR.
    """
    faces = torch.stack((reference, masked, generated, real), dim=1).detach().cpu().clamp(0, 1)  # N, 4, 3, S, S
    count, _, _, size, _ = faces.shape
    rows = faces.permute(0, 3, 1, 4, 2).reshape(count * size, len(COLUMNS) * size, 3)
    head = np.zeros((HEAD, len(COLUMNS) * size, 3), np.uint8)
    for index, name in enumerate(COLUMNS):
        place = (index * size + 3, HEAD - 4)
        cv2.putText(head, name, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
    return np.concatenate((head, (rows * 255).round().to(torch.uint8).numpy()))


def write_png(pixels: np.ndarray, path: Path) -> None:
    """(H, W, 3) uint8 BGR to a file, beside its final name first."""
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    os.replace(part, path)
