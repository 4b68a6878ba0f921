"""Motion clips: the lip motion and speech features of one recording, in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from preprocessing.errors import UsageError, display_path
from wav2lip.lip_motion.data.targets import Displacements

FORMAT, VERSION = "lip-motion-clip", "1"
FPS = 25  # training frame rate: row k is at k / 25 s


@dataclass(frozen=True)
class MotionClip:
    """One recording.

    Attributes:
        name: name of the recording.
        speaker: name of the speaker.
        split: "train" or "val".
        motion: displacements at the video's own frame times.
        speech: (N,) bool, whether there is speech at k / 25 s, for the whole audio.
        features: (row_count, D) float16 by encoder name.
    """

    name: str
    speaker: str
    split: str
    motion: Displacements
    speech: np.ndarray
    features: Mapping[str, np.ndarray]

    @property
    def frames(self) -> int:
        """Number of frames at 25 fps covered by both audio and video."""
        last = int(np.floor(self.motion.times[-1] * FPS + 1e-6)) + 1
        return min(last, len(self.speech), *((len(rows) - 1) // 2 for rows in self.features.values()))

    def save(self, path: Path) -> None:
        """Writes the file."""
        tensors = {
            "displacement": self.motion.values.astype(np.float16), "valid": self.motion.valid,
            "times": self.motion.times, "rest": self.motion.rest, "speech": self.speech,
        }  # fmt: skip
        tensors |= {f"features.{name}": rows.astype(np.float16) for name, rows in self.features.items()}
        header = {"name": self.name, "speaker": self.speaker, "split": self.split}
        part = path.with_suffix(".part")
        tensors = {name: np.ascontiguousarray(values) for name, values in tensors.items()}  # `save` ignores strides
        part.write_bytes(save(tensors, {"format": FORMAT, "version": VERSION, "header": json.dumps(header)}))
        part.replace(path)

    @classmethod
    def load(cls, path: Path, *encoders: str) -> MotionClip:
        """Reads a file with the features of the given encoders.

        Raises:
            UsageError: the file is not a motion clip, or lacks the features.
        """
        try:
            with safe_open(path, "numpy") as file:
                metadata, names = file.metadata() or {}, set(file.keys())
                if (metadata.get("format"), metadata.get("version")) != (FORMAT, VERSION):
                    raise UsageError(f"{display_path(path)} is not a {FORMAT} of version {VERSION}")
                if missing := ", ".join(name for name in encoders if f"features.{name}" not in names):
                    raise UsageError(
                        f"{display_path(path)} has no features of {missing}: prepare it again with that encoder"
                    )
                features = {name: file.get_tensor(f"features.{name}") for name in encoders}
                parts = {name: file.get_tensor(name) for name in ("displacement", "valid", "times", "rest", "speech")}
        except (SafetensorError, OSError) as error:
            raise UsageError(f"{display_path(path)} is not a {FORMAT} ({error})") from error
        motion = Displacements(parts["displacement"].astype(np.float32), parts["valid"], parts["times"], parts["rest"])
        return cls(**json.loads(metadata["header"]), motion=motion, speech=parts["speech"], features=features)


def open_motion_clips(folder: Path, *encoders: str) -> list[MotionClip]:
    """Loads all motion clips of a folder, sorted by name.

    Raises:
        UsageError: the folder contains none, or one of them is damaged.
    """
    paths = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if not paths:
        hint = "make them with python -m wav2lip.lip_motion.prepare"
        raise UsageError(f"{display_path(folder)} contains no motion clips: {hint}")
    return [MotionClip.load(path, *encoders) for path in paths]
