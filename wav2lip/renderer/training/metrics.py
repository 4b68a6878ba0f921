"""What is measured on held-out people during the painter's training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from wav2lip.renderer.painter import Painted
from wav2lip.renderer.training.dataset import MouthSamples
from wav2lip.renderer.training.losses import condition, finished

BATCH = 32


def sharpness(images: Tensor, mask: Tensor) -> Tensor:
    """(B,) root mean square of the Laplacian of the gray image inside a mask, in gray levels."""
    gray = images.mean(1, keepdim=True) * 255
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], dtype=gray.dtype)[None, None]
    edges = torch.nn.functional.conv2d(gray, kernel, padding=1)
    return ((edges.square() * mask).sum((1, 2, 3)) / (mask.sum((1, 2, 3)) + 1)).sqrt()


@torch.no_grad()
def measure(
    paint: Callable[[dict[str, Tensor]], Painted],
    samples: MouthSamples,
    critic: Callable[[Tensor, Tensor], Tensor] | None = None,
    others: int = 0,
) -> dict[str, float]:
    """Measures a painter, which gets so many other mouths of the person, on held-out samples.

    Returns:
        For each case (`smile_`, `video_`, `poor_`): L1 inside the opening in gray levels of the composite as it was
        (`before`) and of the painter (`after`), sharpness inside relative to the real one (`sharp`, `sharp_before`),
        and the weight of the paint (`painted`). With a critic: `critic_right`, the share of samples in which it
        scores the real mouth above the painted one.
    """
    found: dict[str, list[np.ndarray]] = {}
    for first in range(0, len(samples), BATCH):
        planes = samples.batch(np.arange(first, min(first + BATCH, len(samples))), others=others)
        for name, values in _measured(paint(planes), planes, critic).items():
            found.setdefault(name, []).append(values.numpy())
    whole = {name: np.concatenate(parts) for name, parts in found.items()}
    metrics: dict[str, float] = {"critic_right": float(whole.pop("right").mean())} if critic else {}
    for case in np.unique(samples.cases):
        middle = {name: float(np.median(part[samples.cases == case])) for name, part in whole.items()}
        metrics |= {f"{case}_{name}": middle[name] for name in ("before", "after", "painted")}
        metrics |= {f"{case}_sharp": middle["sharp"] / middle["sharp_real"]}
        metrics |= {f"{case}_sharp_before": middle["sharp_before"] / middle["sharp_real"]}
    return metrics


def _measured(
    painted: Painted, planes: dict[str, Tensor], critic: Callable[[Tensor, Tensor], Tensor] | None
) -> dict[str, Tensor]:
    image, target, inner = finished(painted, planes), planes["target"], planes["inner"]
    area = inner.sum((1, 2, 3)) + 1

    def error(x: Tensor) -> Tensor:
        return ((x - target).abs().mean(1, keepdim=True) * inner).sum((1, 2, 3)) / area * 255

    found = {"before": error(planes["composite"]), "after": error(image)}
    found["painted"] = (painted.weights[:, 2:] * inner).sum((1, 2, 3)) / area
    named = {"sharp": image, "sharp_before": planes["composite"], "sharp_real": target}
    found |= {name: sharpness(x, inner) for name, x in named.items()}
    if critic is not None:
        masks = condition(planes)
        found["right"] = (critic(target, masks) > critic(image, masks)).float().flatten()
    return found
