"""Speech encoder: the encoder of Whisper tiny.en (Radford et al., 2022), frozen, with the weights published by OpenAI.

Its features generalize to unseen voices; spectrograms do not.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from preprocessing.compiled_networks import Network, load_network, release_memory
from preprocessing.errors import UsageError, display_path
from preprocessing.media.audio import as_float
from wav2lip.lip_motion.speech.speech_encoder import (
    ROW_SAMPLES,
    SAMPLE_RATE,
    EncoderName,
    Samples,
    row_count,
)
from wav2lip.lip_motion.speech.whisper_config import CONTEXT, TAPS, WIDTH

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wav2lip.lip_motion.speech.whisper_network import WhisperEncoder

WEIGHTS = Path(__file__).resolve().parents[2] / "weights" / "speech_encoder.safetensors"
CODE = tuple(Path(__file__).with_name(name) for name in ("whisper.py", "whisper_network.py", "whisper_config.py"))

CORE = 1000  # rows per inference block: 20 s


def load_whisper() -> WhisperEncoder:
    """The encoder as a torch module.

    Raises:
        UsageError: the weights are missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from wav2lip.lip_motion.speech.whisper_network import WhisperEncoder

    encoder = WhisperEncoder()
    try:
        weights = load_file(WEIGHTS)
        encoder.load_state_dict({name: values.float() for name, values in weights.items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UsageError(f"{display_path(WEIGHTS)} is not the speech encoder: {error}") from error
    return encoder.eval().requires_grad_(False)


def encoder_module() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The encoder and example inputs, for `load_network`."""
    import torch

    samples = 0.1 * torch.randn(1, 6 * SAMPLE_RATE, generator=torch.Generator().manual_seed(0))
    return load_whisper(), (samples, torch.arange(row_count(samples.shape[1])).float())


class WhisperSpeechEncoder:
    """Concatenated outputs of Whisper's four blocks: 1536 values, 50 times per second (see `SpeechEncoder`).

    Attention is limited to 1.5 s to either side, so a row depends on a bounded range of sound.
    """

    name: EncoderName = "whisper"
    dimension = len(TAPS) * WIDTH

    def __init__(self, run: Network) -> None:
        self._run = run

    @classmethod
    def load(cls) -> WhisperSpeechEncoder:
        """Loads the weights.

        Raises:
            UsageError: they are missing or damaged.
        """
        return cls(load_network("speech-encoder", (WEIGHTS, *CODE), encoder_module, [(1, -1), (-1,)]))

    def rows(self, samples: Samples, first: int, last: int) -> np.ndarray:
        """See `SpeechEncoder.rows`."""
        pieces = [self._core(samples, start, min(start + CORE, last)) for start in range(first, last, CORE)]
        return np.concatenate(pieces) if pieces else np.zeros((0, self.dimension), np.float32)

    def release_memory(self) -> None:
        """See `SpeechEncoder.release_memory`."""
        release_memory(self._run)

    def _core(self, samples: Samples, first: int, last: int) -> np.ndarray:
        """Computes one block of rows, with enough sound on both sides."""
        start = max(first - CONTEXT, 0)
        stop = min(last + CONTEXT, row_count(len(samples)))
        piece = as_float(samples[start * ROW_SAMPLES : stop * ROW_SAMPLES])
        piece = np.pad(piece, (0, max(0, ROW_SAMPLES - len(piece))))  # reflection padding needs a few samples
        numbers = np.arange(start, start + row_count(len(piece)), dtype=np.float32)
        (rows,) = self._run(piece[None], numbers)
        return rows[0, first - start : last - start]
