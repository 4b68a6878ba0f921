"""Reads the original authors' checkpoints: `.pth` files, which are pickles and therefore untrusted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from preprocessing.errors import UsageError
from syncnet.model import SyncNet
from training.safe_pickle import read_pickle, summarize_keys, to_float32, weight_mismatches
from wav2lip.gan.critics import VisualQualityCritic
from wav2lip.generator.model import Generator

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "generator": Generator, "syncnet": SyncNet, "critic": VisualQualityCritic
}  # fmt: skip
NAMES = {
    "generator": "a generator", "syncnet": "a SyncNet expert", "critic": "a visual-quality discriminator",
    "lse": "syncnet_python's network for LSE scores", "s3fd": "the S3FD face detector",
}  # fmt: skip
# Key prefixes that identify a network. The last two are only identified for the error message.
KEY_PREFIXES = {
    "face_decoder_blocks": "generator", "output_block": "generator", "face_encoder": "syncnet",
    "binary_pred": "critic", "netcnnlip": "lse", "netcnnaud": "lse", "conv3_3_norm_mbox_conf": "s3fd",
}  # fmt: skip


@dataclass(frozen=True)
class ReleasedCheckpoint:
    """Contents of a released file.

    Attributes:
        kind: "generator", "syncnet" or "critic".
        weights: the state dict in float32, with exactly the keys and shapes of that network.
        step: number of training steps; 0 if the file does not store it.
    """

    kind: str
    weights: dict[str, Tensor]
    step: int


def read_released(path: str | Path, kind: str | None = None) -> ReleasedCheckpoint:
    """Reads a released file without executing anything in it.

    Args:
        path: a dictionary with "state_dict" or a bare state dict, in PyTorch's zip format or the legacy one.
        kind: the expected network; None: any.

    Raises:
        UsageError: the file holds something else or is damaged.
    """
    if kind is not None and kind not in NETWORKS:
        raise UsageError(f"kind must be one of {', '.join(NETWORKS)}, not {kind!r}")
    path = Path(path)
    weights, content = read_pickle(path)
    found = _identify(path, weights, kind)
    if wrong := weight_mismatches(weights, NETWORKS[found]):
        raise UsageError(f"{path} holds {NAMES[found]}, but not the released architecture: {wrong}")
    step = content.get("global_step", 0)
    return ReleasedCheckpoint(found, to_float32(weights), step if isinstance(step, int) else 0)


def _identify(path: Path, weights: dict[str, Tensor], kind: str | None) -> str:
    """The kind of network, identified by its keys."""
    parts = {key.partition(".")[0] for key in weights}
    found = next((found for sign, found in KEY_PREFIXES.items() if sign in parts), None)
    if found is None:
        raise UsageError(f"{path} holds an unknown network, with keys such as {summarize_keys(weights)}")
    if found not in NETWORKS or found != (kind or found):
        needed = NAMES[kind] if kind else " or ".join(NAMES[name] for name in NETWORKS)
        raise UsageError(f"{path} holds {NAMES[found]}, not {needed}")
    return found
