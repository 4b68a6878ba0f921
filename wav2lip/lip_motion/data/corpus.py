"""The training corpus: examples of seen and held-out people, and their shape space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from preprocessing.errors import UsageError
from wav2lip.lip_motion.data.clips import FPS, MotionClip
from wav2lip.lip_motion.data.training_set import MotionExample, example, fit_space, speaker_gains
from wav2lip.lip_motion.rest_map import RestMap
from wav2lip.lip_motion.shape_space import ShapeSpace
from wav2lip.lip_motion.training.rest_errors import faces_at_rest

FEATURE_STRIDE = 7  # stride of the feature rows used for the mean and standard deviation


@dataclass(frozen=True)
class Corpus:
    """Training and validation examples.

    Attributes:
        space: shape space of the seen people.
        seen: examples of the split "train".
        held_out: examples of the split "val" whose people are not in "train".
    """

    space: ShapeSpace
    seen: list[MotionExample]
    held_out: list[MotionExample]

    @classmethod
    def of(
        cls, clips: Sequence[MotionClip], components: int, seed: int, space: ShapeSpace | None = None
    ) -> Corpus:  # fmt: skip
        """Makes examples of clips, without offset correction; fits a new shape space if none is given.

        Raises:
            UsageError: there are no training clips.
        """
        seen = [clip for clip in clips if clip.split == "train"]
        if not seen:
            raise UsageError('no motion clip has the split "train"')
        gains, people = speaker_gains(clips), {clip.speaker for clip in seen}
        space = space or fit_space(seen, gains, components, seed)
        held_out = [clip for clip in clips if clip.split == "val" and clip.speaker not in people]
        train, val = ([example(clip, space, gains[clip.speaker]) for clip in some] for some in (seen, held_out))
        return cls(space, train, val)

    def shifted(self, offsets: Mapping[str, float]) -> Corpus:
        """A copy with recordings shifted in time by their offsets; see `find_offsets`."""

        def moved(item: MotionExample) -> MotionExample:
            lag = offsets.get(item.clip.name)
            return item if lag is None else example(item.clip, self.space, item.gain, lag)

        return replace(self, seen=[*map(moved, self.seen)], held_out=[*map(moved, self.held_out)])

    @property
    def people(self) -> list[str]:
        """The seen speakers, sorted."""
        return sorted({item.clip.speaker for item in self.seen})

    def feature_rows(self, encoder: str) -> Tensor:
        """(N, D) float32: a subset of the seen clips' features."""
        rows = [item.clip.features[encoder][::FEATURE_STRIDE] for item in self.seen]
        return torch.from_numpy(np.concatenate(rows).astype(np.float32))

    def rest_map(self, frames: int = 60) -> RestMap | None:
        """Fits a rest map on about `frames` frames per seen person; None if nobody closes the mouth at rest."""
        return RestMap.fit(*zip(*faces, strict=True)) if (faces := faces_at_rest(self.seen, frames)) else None

    def about(self, offsets: Mapping[str, float]) -> dict[str, float | int]:
        """Corpus statistics for the checkpoint header."""
        shifts = np.abs(list(offsets.values())) if offsets else np.zeros(1)
        return {
            "people": len(self.people), "clips": len(self.seen),
            "minutes": round(sum(item.frames for item in self.seen) / FPS / 60, 1),
            "clips_shifted": len(offsets), "median_shift_frames": float(np.median(shifts)),
            "largest_shift_frames": float(shifts.max()),
        }  # fmt: skip
