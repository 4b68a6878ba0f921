"""Chooses the precision of training by trying: bf16 is up to three times as fast, or ten times as slow, by CPU."""

from __future__ import annotations

import os
import time

PROBED = "WAV2LIP_PRECISION"  # what the first process chose, for those that it starts
REPEATS = 3
LEAST_GAIN = 1.1  # bf16 must be faster by this factor


def choose_precision(accelerator: str) -> str:
    """ "bf16-mixed", "16-mixed" or "32-true", whatever is fast on this machine; the same in all processes of a run.

    Args:
        accelerator: "auto", "cpu", "cuda" or "mps".
    """
    if PROBED not in os.environ:
        os.environ[PROBED] = _choose(accelerator)
    return os.environ[PROBED]


def _choose(accelerator: str) -> str:
    import torch

    if accelerator in ("auto", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    if accelerator == "mps" or (accelerator == "auto" and torch.backends.mps.is_available()):
        return "32-true"
    return "bf16-mixed" if step_seconds(False) > LEAST_GAIN * step_seconds(True) else "32-true"


def step_seconds(bf16: bool) -> float:
    """Seconds of a forward and backward pass of a small convolution on the CPU: the fastest of REPEATS."""
    import torch
    from torch.nn import functional as F

    image, weight = torch.ones(8, 32, 24, 24), torch.full((32, 32, 3, 3), 0.01, requires_grad=True)
    times = []
    for _ in range(REPEATS + 1):  # the first one prepares the kernels
        begun = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = F.conv2d(F.gelu(F.conv2d(image, weight)), weight).float().square().mean()
        loss.backward()
        times.append(time.perf_counter() - begun)
    return min(times[1:])
