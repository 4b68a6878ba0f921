"""Speech encoder from the phoneme recognizer of the package hama: a small Conformer (Gulati et al., 2020) in PyTorch.

Phonetic features generalize to unseen voices; spectrograms do not. The weights (Apache-2.0) are read from the installed
package; its engine, which outputs text only, is never imported.
"""

from __future__ import annotations

import hashlib
import struct
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from preprocessing.compiled_networks import Network, load_network
from preprocessing.errors import UsageError
from wav2lip.lip_motion.speech.conformer_config import BLOCKS, REACH, TAPS, WIDTH, context_rows
from wav2lip.lip_motion.speech.speech_encoder import SAMPLE_RATE, EncoderName, Samples, as_float, row_count

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wav2lip.lip_motion.speech.conformer import Conformer

VERSION = "1.7.0"
INSTALL = f"pip install hama=={VERSION} --no-deps"
ASSET = "hama/assets/asr_waveform.hama"
SHA256 = "a9fcfe73e179ca48e399cd76a90a6b3e1887bf5037ecc52b778d13a149563328"
MAGIC = b"HAMAPK\x01\x02"

HOP = SAMPLE_RATE // 50
CORE = 1000  # rows per inference block: 20 s


def weights_file() -> Path:
    """Path of the recognizer's weights in the installed package.

    Raises:
        UsageError: the package is not installed, or has another version.
    """
    try:
        package = distribution("hama")
    except PackageNotFoundError:
        raise UsageError(f"the speech encoder's weights come with the package hama: {INSTALL}") from None
    if package.version != VERSION:
        raise UsageError(f"the speech encoder needs hama {VERSION}, but {package.version} is installed: {INSTALL}")
    return Path(str(package.locate_file(ASSET)))


def read_container(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a .hama file by ONNX name, as float32.

    Layout, little-endian: magic (8 bytes), count (u32); per tensor the name (u16 length), type (u8, 0 float32, 1
    float16), rank (u8), dimensions (u32 each), offset and size in bytes (u64). Data starts at the next multiple of 16.

    Raises:
        UsageError: the file is missing or its hash does not match.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"the speech encoder's weights {path} cannot be read ({error.strerror}): {INSTALL}") from None
    if not data.startswith(MAGIC) or hashlib.sha256(data).hexdigest() != SHA256:
        raise UsageError(f"{path} is not the file of hama {VERSION} (its SHA-256 differs): {INSTALL}")
    (count,), position = struct.unpack_from("<I", data, 8), 12
    entries = []
    for _ in range(count):
        entry, position = _entry(data, position)
        entries.append(entry)
    start = (position + 15) // 16 * 16
    return {name: _tensor(data, kind, sides, start + offset) for name, kind, sides, offset in entries}


def _entry(data: bytes, position: int) -> tuple[tuple[str, int, tuple[int, ...], int], int]:
    """(name, type, dimensions, offset) of the entry at `position`, and the position of the next one."""
    (length,) = struct.unpack_from("<H", data, position)
    name = data[position + 2 : position + 2 + length].decode()
    position += 2 + length
    kind, rank = struct.unpack_from("<BB", data, position)
    sides = struct.unpack_from(f"<{rank}I", data, position + 2)
    position += 2 + 4 * rank
    offset, _ = struct.unpack_from("<QQ", data, position)
    return (name, kind, sides, offset), position + 16


def _tensor(data: bytes, kind: int, sides: tuple[int, ...], start: int) -> Tensor:
    import torch

    values = np.frombuffer(data, (np.float32, np.float16)[kind], int(np.prod(sides)), start)
    return torch.from_numpy(values.astype(np.float32).reshape(sides))


def conformer_weights(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames the container's tensors to the state dict keys of `Conformer`."""
    import torch

    model = "acoustic_model.model."
    weights = {
        "kernel": torch.cat([tensors["stft_real_kernel"], tensors["stft_imag_kernel"]]),
        "mel_basis": tensors["mel_fb"],
        "subsample.weight": tensors["onnx::Conv_801"],
        "subsample.bias": tensors["onnx::Conv_802"],
        "head.weight": tensors[model + "proj.weight"][:, :, 0],
        "head.bias": tensors[model + "proj.bias"],
    }
    for block in range(BLOCKS):
        parts = _block_weights(tensors, f"{model}blocks.{block}.", 829 + 9 * block, 804 + 3 * block)
        weights |= {f"blocks.{block}.{name}": value for name, value in parts.items()}
    return {name: value.contiguous() for name, value in weights.items()}


def _block_weights(tensors: dict[str, Tensor], prefix: str, product: int, convolution: int) -> dict[str, Tensor]:
    """Weights of one block; exported matrices are numbered: `product` is the first, `convolution` the depthwise."""
    numbers = {
        "ffn1.fc1": 0,
        "ffn1.fc2": 1,
        "attention.in_proj": 2,
        "attention.out_proj": 6,
        "ffn2.fc1": 7,
        "ffn2.fc2": 8,
    }
    theirs = {"attention.in_proj.bias": "attn.in_proj_bias", "attention.out_proj.bias": "attn.out_proj.bias"}
    weights = {f"{name}.weight": tensors[f"onnx::MatMul_{product + step}"].T for name, step in numbers.items()}
    weights |= {f"{name}.bias": tensors[prefix + theirs.get(f"{name}.bias", f"{name}.bias")] for name in numbers}
    weights["convolution.depthwise.weight"] = tensors[f"onnx::Conv_{convolution}"]
    weights["convolution.depthwise.bias"] = tensors[f"onnx::Conv_{convolution + 1}"]
    for name in ("pointwise1", "pointwise2"):
        weights[f"convolution.{name}.weight"] = tensors[f"{prefix}conv.{name}.weight"][:, :, 0]
        weights[f"convolution.{name}.bias"] = tensors[f"{prefix}conv.{name}.bias"]
    norms = {"ffn1.norm": "ffn1.norm", "ffn2.norm": "ffn2.norm", "norm": "norm",
             "attention.norm": "attn_norm", "convolution.norm": "conv.norm"}  # fmt: skip
    for ours, name in norms.items():
        weights |= {f"{ours}.{end}": tensors[f"{prefix}{name}.{end}"] for end in ("weight", "bias")}
    return weights


def load_conformer() -> Conformer:
    """The recognizer of the installed package as a torch module.

    Raises:
        UsageError: the package is not installed, has another version, or is damaged.
    """
    from wav2lip.lip_motion.speech.conformer import Conformer

    conformer = Conformer()
    conformer.load_state_dict(conformer_weights(read_container(weights_file())))
    return conformer.eval().requires_grad_(False)


def encoder_module() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The recognizer and example samples, for `load_network`."""
    import torch

    return load_conformer(), (0.1 * torch.randn(1, 6 * SAMPLE_RATE, generator=torch.Generator().manual_seed(0)),)


class HamaEncoder:
    """Concatenated outputs of the recognizer's blocks 2 and 4: 288 values, 50 times per second (see `SpeechEncoder`).

    Attention is limited to `REACH` rows to either side, so a row depends on a bounded range of audio.
    """

    name: EncoderName = "hama"
    dimension = len(TAPS) * WIDTH

    def __init__(self, run: Network) -> None:
        self._run, self._context = run, context_rows(REACH)

    @classmethod
    def load(cls) -> HamaEncoder:
        """Loads the recognizer of the installed package.

        Raises:
            UsageError: the package is not installed, has another version, or is damaged.
        """
        folder = Path(__file__).parent
        code = (Path(__file__), folder / "conformer.py", folder / "conformer_config.py")
        return cls(load_network("speech-encoder", (weights_file(), *code), encoder_module, [(1, -1)]))

    def rows(self, samples: Samples, first: int, last: int) -> np.ndarray:
        """See `SpeechEncoder.rows`."""
        pieces = [self._core(samples, start, min(start + CORE, last)) for start in range(first, last, CORE)]
        return np.concatenate(pieces) if pieces else np.zeros((0, self.dimension), np.float32)

    def _core(self, samples: Samples, first: int, last: int) -> np.ndarray:
        """Computes one block of rows, with enough audio context on both sides."""
        start = max(first - self._context, 0)
        stop = min(last + self._context, row_count(len(samples)))
        piece = as_float(samples[start * HOP : stop * HOP])
        piece = np.pad(piece, (0, max(0, HOP - len(piece))))  # reflection padding needs a few samples
        (taps,) = self._run(piece[None])
        return taps[0, first - start : last - start]
