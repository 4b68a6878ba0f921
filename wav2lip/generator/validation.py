"""Evaluates a generator on a fixed set of unaugmented windows from held-out clips."""

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
from wav2lip.generator.model import Generator, GeneratorConfig
from wav2lip.generator.sample_grid import sample_grid, write_png

MAX_CLIPS = 200  # one window each
GRID_ROWS = 8  # windows on the sample sheet
BATCH = 8  # windows per forward pass
MOUTH = (0.33, 0.79, 0.27, 0.73)  # top, bottom, left and right of the mouth region, as fractions of the crop


class HeldOutEvaluation:
    """One window from each held-out clip, for evaluating generators.

    Attributes:
        windows: the same for all generators of the same size and mask row.
    """

    def __init__(self, clips: Sequence[Clip], config: GeneratorConfig, judge: SyncExpert) -> None:
        """`judge` must not be the expert that trained the generator; it must be on the same device."""
        self.config, self.judge = config, judge
        numbers = np.unique(np.linspace(0, len(clips) - 1, min(MAX_CLIPS, len(clips))).round().astype(int))
        self.windows = [self._draw(clips[number], int(number)) for number in numbers]

    def _draw(self, clip: Clip, number: int) -> GeneratorWindow:
        rng = np.random.default_rng((7, number))
        return sample(clip, rng, self.config.size, self.config.mask_row, Sampling.plain())

    @torch.inference_mode()
    def measure(self, model: Generator) -> dict[str, float]:
        """Metrics for the log, averaged over the windows.

        * l1, swapped, copy: L1 of the masked rows with the window's own audio, with the next window's audio, and of the
          unchanged reference.
        * psnr: of the masked part of the mouth region, with the own audio, in dB.
        * own_sound_better: share of windows whose L1 is lower with their own audio than with the next window's.
        * judge_real, judge_own, judge_swapped, judge_still: the judge's cosine of the own audio with the real frames,
          those generated from it, those generated from the next window's audio, and the reference.
        * judge_own_better: share of windows whose judge score is higher with their own audio.
        """
        model.eval()
        blocks = [self._measure(model, batch, mels) for batch, mels in self._batches()]
        metrics = {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}
        metrics["own_sound_better"] = (metrics["l1"] < metrics["swapped"]).float()
        metrics["judge_own_better"] = (metrics["judge_own"] > metrics["judge_swapped"]).float()
        return {name: float(values.mean()) for name, values in metrics.items()}

    @torch.inference_mode()
    def show(self, model: Generator, path: Path) -> None:
        """Writes a sample sheet with the middle frames of some windows."""
        model.eval()
        step = max(1, len(self.windows) // GRID_ROWS)
        batch = collate(self.windows[::step][:GRID_ROWS], self.config.mask_row).to(_device(model))
        generated = model(batch.mels, batch.faces)
        faces, target, generated = (part[WINDOW // 2 :: WINDOW] for part in (batch.faces, batch.target, generated))
        write_png(sample_grid(faces[:, 3:], faces[:, :3], generated, target), path)

    def _batches(self) -> Iterator[tuple[GeneratorBatch, Tensor]]:
        """Batches of windows, each with the mels of the windows that follow."""
        for first in range(0, len(self.windows), BATCH):
            block = self.windows[first : first + BATCH]
            swapped_mels = [self.windows[(first + k + 1) % len(self.windows)].mels for k in range(len(block))]
            yield collate(block, self.config.mask_row), torch.from_numpy(np.concatenate(swapped_mels))

    def _measure(self, model: Generator, batch: GeneratorBatch, swapped_mels: Tensor) -> dict[str, Tensor]:
        """(B,) metrics of B windows."""
        batch, swapped_mels = batch.to(_device(model)), swapped_mels.to(_device(model))
        own, swapped = (model(mels, batch.faces) for mels in (batch.mels, swapped_mels))
        frames = {"real": batch.target, "own": own, "swapped": swapped, "still": batch.faces[:, 3:]}
        row = self.config.mask_row
        l1 = {name: _by_window((generated - batch.target)[:, :, row:].abs()) for name, generated in frames.items()}
        audio = self.judge.network.embed_mel(batch.window_mel)
        cosines = {f"judge_{name}": self._cosine(audio, generated) for name, generated in frames.items()}
        errors = {"l1": l1["own"], "swapped": l1["swapped"], "copy": l1["still"]}
        return errors | {"psnr": self._psnr(own, batch.target)} | cosines

    def _cosine(self, audio: Tensor, frames: Tensor) -> Tensor:
        windows = frames.unflatten(0, (-1, WINDOW)).transpose(1, 2)
        return (audio * self.judge.network.embed_faces(self.judge.crop_input(windows))).sum(1)

    def _psnr(self, generated: Tensor, target: Tensor) -> Tensor:
        top, bottom, left, right = (round(share * self.config.size) for share in MOUTH)
        rows, columns = slice(max(top, self.config.mask_row), bottom), slice(left, right)
        error = _by_window((generated - target)[:, :, rows, columns].square())
        return -10 * error.clamp_min(1e-10).log10()


def _by_window(values: Tensor) -> Tensor:
    """(5 B, ...) to the means over each of the B windows."""
    return values.reshape(-1, WINDOW * values[0].numel()).mean(1)


def _device(model: Generator) -> torch.device:
    return next(model.parameters()).device
