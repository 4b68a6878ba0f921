"""The warp of `wav2lip.renderer.warp` for batches of crops, in torch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from wav2lip.renderer.triangulation import triangulation
from wav2lip.renderer.warp import SKIN_SIGMA, affine_displacements, drawing_order, evaluate, lip_mask, triangle_ids


def displacement_batch(source: Tensor, target: Tensor, scale: float, width: int, height: int) -> Tensor:
    """`displacement` at every pixel for a batch of crops, differentiable in the vertices.

    Args:
        source, target: (B, V, 3) vertices before and after, crop pixels.
        scale: pixels per canonical unit, the same for all crops.
        width, height: size of the crops.

    Returns:
        (B, height, width, 2) pixels.
    """
    mesh = triangulation()
    triangles = torch.from_numpy(mesh.triangles).long().to(target.device)
    ids, keep = _batch_masks(target, scale, width, height)
    a, b, c = affine_displacements(source[:, triangles, :2], target[:, triangles, :2])
    motion = (source - target)[:, triangles, :2]
    terms = F.pad(
        torch.cat([a, b, c, motion.amin(2), motion.amax(2)], -1), (0, 0, 0, 1)
    )  # the last one is for pixels outside
    terms = torch.stack([term[chosen] for term, chosen in zip(terms, ids, strict=True)])
    x = torch.arange(width, device=target.device, dtype=target.dtype)[:, None]
    y = torch.arange(height, device=target.device, dtype=target.dtype)[:, None, None]
    exact = evaluate(terms, x, y)
    inside = _inside_batch((ids < len(triangles)).to(target.dtype), scale)
    skin = _blur_batch(exact.permute(0, 3, 1, 2), SKIN_SIGMA * scale).permute(0, 2, 3, 1) * inside[..., None]
    return skin + keep * (exact - skin)


def _batch_masks(target: Tensor, scale: float, width: int, height: int) -> tuple[Tensor, Tensor]:
    mesh, ids, keep = triangulation(), [], []
    for vertices in target.detach().cpu().double().numpy():
        drawn = triangle_ids(vertices[:, :2], width, height, drawing_order(vertices))
        ids.append(np.where(drawn < 0, len(mesh.triangles), drawn))
        keep.append(lip_mask(vertices[mesh.outer_lips, :2], width, height, scale))
    masks = torch.from_numpy(np.stack(keep))[..., None].to(target)
    return torch.from_numpy(np.stack(ids)).long().to(target.device), masks


def _inside_batch(inside: Tensor, scale: float) -> Tensor:
    reach = max(1, round(SKIN_SIGMA * scale))
    side = 2 * reach + 1
    padded = F.pad(inside[:, None], (reach,) * 4, mode="replicate")
    whole = F.pad(-F.max_pool2d(-padded, side, 1), (reach,) * 4, mode="replicate")
    return F.avg_pool2d(whole, side, 1)[:, 0]


def _blur_batch(images: Tensor, sigma: float) -> Tensor:
    reach = int(np.ceil(3 * sigma))
    offsets = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    weights = torch.exp(-(offsets**2) / (2 * sigma**2))
    weights = (weights / weights.sum()).expand(images.shape[1], 1, -1)
    padded = F.pad(images, (reach,) * 4, mode="reflect")
    rows = F.conv2d(padded, weights[..., None], groups=images.shape[1])
    return F.conv2d(rows, weights[:, :, None], groups=images.shape[1])


def warp_batch(images: Tensor, field: Tensor) -> Tensor:
    """Warps a batch of crops (B, C, H, W) by (B, H, W, 2) pixels; bilinear, with border padding."""
    height, width = images.shape[-2:]
    x = torch.arange(width, device=field.device, dtype=field.dtype)
    y = torch.arange(height, device=field.device, dtype=field.dtype)[:, None]
    grid = torch.stack([(field[..., 0] + x) * 2 / (width - 1) - 1, (field[..., 1] + y) * 2 / (height - 1) - 1], -1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)
