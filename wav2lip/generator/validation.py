"""What a generator does on held-out clips: always the same windows, undisguised."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from preprocessing.dataset.clips import Clip
from syncnet.data import WINDOW
from syncnet.sync_expert import SyncExpert
from wav2lip.generator.data import GeneratorBatch, GeneratorWindow, Sampling, collate, sample
from wav2lip.generator.model import GeneratorConfig, picture_of
from wav2lip.generator.sample_grid import sample_grid, write_png
from wav2lip.generator.unet import AnyGenerator

MOST = 200  # clips that are looked at, one window each
SHOWN = 8  # windows on the sheet
BLOCK = 8  # windows at once
MOUTH = (0.33, 0.79, 0.27, 0.73)  # top, bottom, left and right of the mouth's square, as shares of the crop


class HeldOutEvaluation:
    """Windows of held-out clips, one each, on which a generator is measured.

    Attributes:
        windows: the same for every generator of a size and mask.
    """

    def __init__(self, clips: Sequence[Clip], config: GeneratorConfig, judge: SyncExpert) -> None:
        """`judge` did not train the generator, and is on its device."""
        self.config, self.judge = config, judge
        numbers = np.unique(np.linspace(0, len(clips) - 1, min(MOST, len(clips))).round().astype(int))
        self.windows = [self._draw(clips[number], int(number)) for number in numbers]

    def _draw(self, clip: Clip, number: int) -> GeneratorWindow:
        rng = np.random.default_rng((7, number))
        return sample(clip, rng, self.config.size, self.config.mask_row, Sampling.plain())

    @torch.inference_mode()
    def measure(self, model: AnyGenerator) -> dict[str, float]:
        """Figures for the log, means over the windows.

        * l1, swapped, copy: mean absolute difference of the masked rows: with the frames' own sound, with the sound of
          the next window, and of the reference as it is.
        * psnr: of the masked part of the mouth's square, with the own sound, in dB.
        * own_sound_better: share of windows in which the own sound gives the smaller difference.
        * judge_real, judge_own, judge_swapped, judge_still: the judge's cosine of the own sound with the real
          pictures, the generated ones, those of the next window's sound, and the reference.
        * judge_own_better: share of windows in which the judge prefers the own sound's pictures.
        """
        model.eval()
        blocks = [self._measure(model, batch, mels) for batch, mels in self._batches()]
        found = {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}
        found["own_sound_better"] = (found["l1"] < found["swapped"]).float()
        found["judge_own_better"] = (found["judge_own"] > found["judge_swapped"]).float()
        return {name: float(values.mean()) for name, values in found.items()}

    @torch.inference_mode()
    def show(self, model: AnyGenerator, path: Path) -> None:
        """Writes a sheet of the middle frames of some windows."""
        model.eval()
        step = max(1, len(self.windows) // SHOWN)
        batch = collate(self.windows[::step][:SHOWN], self.config.mask_row).to(_device(model))
        made = picture_of(model(batch.mels, batch.faces), batch.faces, self.config)
        faces, target, made = (part[WINDOW // 2 :: WINDOW] for part in (batch.faces, batch.target, made))
        write_png(sample_grid(faces[:, 3:], faces[:, :3], made, target), path)

    def _batches(self) -> Iterator[tuple[GeneratorBatch, Tensor]]:
        """The windows in blocks, each with the sounds of the windows that come next."""
        for first in range(0, len(self.windows), BLOCK):
            block = self.windows[first : first + BLOCK]
            others = [self.windows[(first + k + 1) % len(self.windows)].mels for k in range(len(block))]
            yield collate(block, self.config.mask_row), torch.from_numpy(np.concatenate(others))

    def _measure(self, model: AnyGenerator, batch: GeneratorBatch, others: Tensor) -> dict[str, Tensor]:
        """(B,) figures of B windows."""
        batch, others = batch.to(_device(model)), others.to(_device(model))
        own, swapped = (picture_of(model(mels, batch.faces), batch.faces, self.config) for mels in (batch.mels, others))
        pictures = {"real": batch.target, "own": own, "swapped": swapped, "still": batch.faces[:, 3:]}
        row = self.config.mask_row
        l1 = {name: _by_window((picture - batch.target)[:, :, row:].abs()) for name, picture in pictures.items()}
        heard = self.judge.network.embed_mel(batch.window_mel)
        cosines = {f"judge_{name}": self._cosine(heard, picture) for name, picture in pictures.items()}
        differences = {"l1": l1["own"], "swapped": l1["swapped"], "copy": l1["still"]}
        return differences | {"psnr": self._psnr(own, batch.target)} | cosines

    def _cosine(self, heard: Tensor, pictures: Tensor) -> Tensor:
        windows = pictures.unflatten(0, (-1, WINDOW)).transpose(1, 2)
        return (heard * self.judge.network.embed_faces(self.judge.look(windows))).sum(1)

    def _psnr(self, picture: Tensor, target: Tensor) -> Tensor:
        top, bottom, left, right = (round(share * self.config.size) for share in MOUTH)
        rows, columns = slice(max(top, self.config.mask_row), bottom), slice(left, right)
        error = _by_window((picture - target)[:, :, rows, columns].square())
        return -10 * error.clamp_min(1e-10).log10()


def _by_window(values: Tensor) -> Tensor:
    """(5 B, ...) to the means of the B windows."""
    return values.reshape(-1, WINDOW * values[0].numel()).mean(1)


def _device(model: AnyGenerator) -> torch.device:
    return next(model.parameters()).device
