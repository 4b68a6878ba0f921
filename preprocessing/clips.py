"""Clips: one prepared utterance of one person in one file, and how both trainers find them."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from preprocessing.audio import AudioConfig

CLIP_FPS = 25


@dataclass
class Clip:
    """A prepared utterance; pictures are read from the file when asked for.

    Attributes:
        path: the .safetensors file.
        speaker: who speaks; the splits are made by it.
        frames: number of crops, 25 a second.
        margin: pixels around the network's square that each crop carries, so that a trainer can move it.
        mel: (n_mels, T) float32.
        speech: (T,) bool, see `preprocessing.audio.speech_columns`.
    """

    path: Path
    speaker: str
    frames: int
    margin: int
    mel: np.ndarray
    speech: np.ndarray

    @classmethod
    def open(cls, path: Path, config: AudioConfig = AudioConfig()) -> Clip:
        """Opens a clip; refuses a file that is none and a clip with another audio front-end.

        Raises:
            ValueError: naming the file and what is wrong with it.
        """
        try:
            with safe_open(path, "numpy") as file:
                header = json.loads((file.metadata() or {})["clip"])
                speaker, frames, margin, audio = (header[key] for key in ("speaker", "frames", "margin", "audio"))
                mel, speech = file.get_tensor("mel"), file.get_tensor("speech")
        except (SafetensorError, KeyError, TypeError, OSError, ValueError) as error:
            raise ValueError(f"{path} is not a prepared clip ({error})") from error
        config.require(audio, str(path))
        return cls(path, speaker, frames, margin, mel, speech.astype(bool))

    def faces(self, first: int, count: int, step: int = 1) -> np.ndarray:
        """`count` crops, every `step`-th from `first` on: (count, S, S, 3) uint8 BGR, S with its margin."""
        with safe_open(self.path, "numpy") as file:
            return file.get_slice("faces")[first : first + (count - 1) * step + 1][::step]


def write_clip(
    path: Path, faces: np.ndarray, mel: np.ndarray, speech: np.ndarray, *, speaker: str, margin: int,
    config: AudioConfig,
) -> None:  # fmt: skip
    """Writes a clip beside its name and moves it there when whole."""
    header = {"speaker": speaker, "frames": len(faces), "margin": margin, "audio": asdict(config)}
    tensors = {"faces": faces, "mel": mel, "speech": speech.astype(np.uint8)}
    # The format stores memory as it lies, so that a transposed or reversed view would come back scrambled.
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        part = Path(folder) / "clip.part"
        part.write_bytes(save(tensors, metadata={"clip": json.dumps(header)}))
        os.replace(part, path)


def open_clips(folder: Path, shortest: int) -> list[Clip]:
    """All clips below `folder` with at least `shortest` frames, in the order of their names.

    Raises:
        ValueError: there is none.
    """
    clips = [Clip.open(path) for path in sorted(folder.rglob("*.safetensors"))]
    clips = [clip for clip in clips if clip.frames >= shortest]
    if not clips:
        raise ValueError(f"{folder} holds no clip of {shortest} frames or more; make clips with preprocessing.build")
    return clips


def speaker_weights(clips: list[Clip]) -> np.ndarray:
    """Sampling probabilities by which a speaker with n clips is drawn in proportion to the square root of n."""
    counts: dict[str, int] = {}
    for clip in clips:
        counts[clip.speaker] = counts.get(clip.speaker, 0) + 1
    weights = np.array([counts[clip.speaker] ** -0.5 for clip in clips])
    return weights / weights.sum()
