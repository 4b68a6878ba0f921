"""Safe loading of published `.pth` weights. They are pickles and therefore not trusted."""

from __future__ import annotations

import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from preprocessing.errors import UsageError
from training.checkpoint_header import require_finite

# Exceptions torch.load raises for damaged files, found by truncating files and flipping bytes.
LOAD_ERRORS = (
    pickle.UnpicklingError, RuntimeError, OSError, EOFError, LookupError, ValueError, TypeError, AttributeError,
    AssertionError, struct.error, zipfile.BadZipFile, OverflowError, MemoryError, NotImplementedError,
)  # fmt: skip


def read_pickle(path: Path) -> tuple[dict[str, Tensor], dict[Any, Any]]:
    """Reads a published file without executing any code in it.

    Args:
        path: a dictionary with "state_dict", or a bare state dict, in PyTorch's zip format or the legacy one.

    Returns:
        The state dict, unchanged except that DataParallel's `module.` prefix is removed from the keys, and the complete
        content of the file. Tensors of a hostile file may be too large to copy: check `weight_mismatches` first.

    Raises:
        UsageError: one line saying what the file is instead, or what is wrong with it.
    """
    _reject_foreign(path)
    content = _unpickle(path)
    return _state_dict(path, content), content


def to_float32(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Converts floating-point weights to float32."""
    return {key: weight.float() if weight.is_floating_point() else weight for key, weight in weights.items()}


def require_finite_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Raises UsageError if a weight is NaN or infinite."""
    for name, weight in weights.items():
        finite = not weight.is_floating_point() or bool(torch.isfinite(weight).all())
        require_finite(path, summarize_keys([name]), finite)


def weight_mismatches(weights: dict[str, Tensor], network: Callable[[], nn.Module]) -> str:
    """Summarizes the keys and shapes that differ from the network's; "" if none do."""
    with torch.device("meta"):
        expected = {key: tuple(weight.shape) for key, weight in network().state_dict().items()}
    shapes = {key: tuple(weight.shape) for key, weight in weights.items()}
    missing = [key for key in expected if key not in shapes]
    unexpected = [key for key in shapes if key not in expected]
    shared = [key for key in shapes if key in expected and shapes[key] != expected[key]]
    other = [f"{key} is {shapes[key]}, not {expected[key]}" for key in shared]
    groups = {"missing": missing, "unexpected": unexpected, "of the wrong shape": other}
    return "; ".join(f"{len(keys)} {what} ({summarize_keys(keys)})" for what, keys in groups.items() if keys)


def summarize_keys(keys: Iterable[str], count: int = 3) -> str:
    """The first few keys for a one-line message; untrusted characters are escaped and long keys cut."""
    listed = list(keys)
    shown = [key.encode("unicode_escape").decode()[:120] for key in listed[:count]]
    return ", ".join(shown) + (", ..." if len(listed) > count else "")


def _reject_foreign(path: Path) -> None:
    """Rejects files whose first bytes show that they are not PyTorch pickles."""
    if not path.is_file():
        raise UsageError(f"checkpoint {path} {'is not a file' if path.exists() else 'does not exist'}")
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise UsageError(f"checkpoint {path} cannot be read ({error.strerror})") from error
    what = _identify_foreign(head)
    if what is None and head.startswith(b"PK"):
        what = _identify_foreign_zip(path)
    if what is not None:
        raise UsageError(f"{path} {what}")


def _identify_foreign(head: bytes) -> str | None:
    """What a file with these first bytes is, or None if it may be a PyTorch file."""
    if not head:
        return "is empty: the download went wrong"
    if head[7:9] == b"\0{":  # eight bytes of length, little-endian, then JSON
        return "is a safetensors file, not a PyTorch .pth file"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "is HTML: the download went wrong and saved a web page instead of the checkpoint"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the checkpoint itself: fetch it with `git lfs pull`"
    if not head.startswith((b"PK", b"\x80")):  # a zip archive, or a legacy pickle
        return "is not a PyTorch file"
    return None


def _identify_foreign_zip(path: Path) -> str | None:
    """What is wrong with a zip file, or None if torch.save wrote it."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, struct.error, ValueError, NotImplementedError) as error:
        return f"is truncated or damaged ({error}): download it again"
    members = {name.partition("/")[2] for name in names}
    if "constants.pkl" in members or any(member.startswith("code/") for member in members):
        return "is a TorchScript archive, which contains code; a plain state dict is needed"
    if "data.pkl" not in members:
        return "is a zip archive without PyTorch weights"
    return None


def _unpickle(path: Path) -> dict[Any, Any]:
    """The file's dictionary, read by the restricted unpickler, which allows only tensors and containers."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns about odd pickle protocols before rejecting them
            content = torch.load(path, map_location="cpu", weights_only=True)
    except LOAD_ERRORS as error:
        raise UsageError(_explain(path, error)) from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds a {type(content).__name__}, not a checkpoint dictionary")
    return content


def _explain(path: Path, error: BaseException) -> str:
    """One line explaining a torch.load error: a rejected call, or damage."""
    wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
    if wanted:
        return f"{path} was rejected: its pickle references {wanted[1]}, not only plain weights; nothing was executed"
    if "Unsupported" in str(error):
        return f"{path} was rejected: its pickle is damaged or holds more than plain weights; nothing was executed"
    return f"{path} is truncated or damaged: download it again"


def _state_dict(path: Path, content: dict[Any, Any]) -> dict[str, Tensor]:
    """The state dict without DataParallel's `module.` prefix."""
    state = content.get("state_dict", content)
    if not isinstance(state, dict) or not state:
        raise UsageError(f"{path} holds no state dict")
    strangers = [key for key, weight in state.items() if not (isinstance(key, str) and isinstance(weight, Tensor))]
    if strangers:
        raise UsageError(f"{path} holds no state dict: {summarize_keys(map(str, strangers))} is not a tensor")
    weights = {re.sub(r"^(module\.)+", "", key): weight for key, weight in state.items()}
    if len(weights) < len(state):
        raise UsageError(f"{path} holds some weights twice, with and without the prefix 'module.'")
    require_finite_weights(path, weights)
    return weights
