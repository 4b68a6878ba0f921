"""Evaluation of a generator on held-out clips, and the sample sheet."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from preprocessing.dataset.clips import Clip, open_clips
from syncnet.sync_expert import JUDGE, SyncExpert
from tests.material import write_talking_clips
from wav2lip.generator import validation
from wav2lip.generator.data import Sampling, sample
from wav2lip.generator.model import Generator, GeneratorConfig
from wav2lip.generator.sample_grid import COLUMNS, HEADER, sample_grid, write_png
from wav2lip.generator.validation import HeldOutEvaluation

TINY = GeneratorConfig(width=2, mask_row=40)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[Clip]:
    return open_clips(write_talking_clips(tmp_path_factory.mktemp("clips"), 3))


@pytest.fixture(scope="module")
def judge() -> SyncExpert:
    return SyncExpert.load(JUDGE)


class Answers(nn.Module):
    """Paints a given answer for each mel; it identifies frames by the sum of their mel."""

    def __init__(self, answers: dict[float, Tensor]) -> None:
        super().__init__()
        self.answers, self.nothing = answers, nn.Parameter(torch.zeros(1))

    def forward(self, mel: Tensor, faces: Tensor) -> Tensor:
        return torch.stack([self.answers[float(each.double().sum())] for each in mel])


def test_figures_by_hand(clips, judge):
    """A generator that paints the real frame of the given audio, brighter by 0.1."""
    exam = HeldOutEvaluation(clips, TINY, judge)
    answers, real = {}, []
    for window in exam.windows:
        frames = torch.from_numpy(window.target).permute(0, 3, 1, 2).float() / 255
        real.append(frames)
        for mel, frame in zip(window.mels, frames, strict=True):
            answers[float(torch.from_numpy(mel).double().sum())] = frame + 0.1
    found = exam.measure(Answers(answers))  # type: ignore[arg-type]
    assert found["l1"] == pytest.approx(0.1, abs=1e-5)
    assert found["psnr"] == pytest.approx(20, abs=1e-3)
    others = [real[(k + 1) % 3] + 0.1 - frames for k, frames in enumerate(real)]
    assert found["swapped"] == pytest.approx(np.mean([x[:, :, 40:].abs().mean().item() for x in others]), abs=1e-6)
    copies = [
        np.abs(window.target[:, 40:].astype(float) - window.reference[:, 40:]).mean() / 255 for window in exam.windows
    ]
    assert found["copy"] == pytest.approx(np.mean(copies), abs=1e-6)
    cosines = []
    for window, frames in zip(exam.windows, real, strict=True):
        mel = torch.from_numpy(window.window_mel)[None]
        pictures = [frames.transpose(0, 1)[None], (frames + 0.1).transpose(0, 1)[None]]
        heard, *seen = judge.network.embed_mel(mel), *(judge.network.embed_faces(judge.crop_input(x)) for x in pictures)
        cosines.append([float((heard * face).sum()) for face in seen])
    assert [found["judge_real"], found["judge_own"]] == pytest.approx(np.mean(cosines, axis=0).tolist(), abs=1e-4)
    assert found["own_sound_better"] in (0, 1 / 3, 2 / 3, 1)
    assert found == exam.measure(Answers(answers))  # type: ignore[arg-type]


def test_the_windows_are_always_the_same_and_undisguised(clips, judge, monkeypatch):
    exam = HeldOutEvaluation(clips, TINY, judge)
    for number, (clip, window) in enumerate(zip(clips, exam.windows, strict=True)):
        expected = sample(clip, np.random.default_rng((7, number)), 96, 40, Sampling.plain())
        assert all(np.array_equal(a, b) for a, b in zip(vars(window).values(), vars(expected).values(), strict=True))
    monkeypatch.setattr(validation, "MAX_CLIPS", 2)  # of many clips some, from the first to the last
    few = HeldOutEvaluation(clips, TINY, judge).windows
    assert [np.array_equal(a.target, exam.windows[k].target) for a, k in zip(few, (0, 2), strict=True)] == [True, True]


class Deaf(Generator):
    """Shows its reference whatever it hears."""

    def forward(self, mel: Tensor, faces: Tensor) -> Tensor:
        return faces[:, 3:]


def test_a_generator_that_copies_and_hears_nothing(clips, judge):
    found = HeldOutEvaluation(clips, TINY, judge).measure(Deaf(TINY).train())
    assert found["l1"] == found["swapped"] == found["copy"]
    assert found["own_sound_better"] == found["judge_own_better"] == 0  # a tie is no success


def test_the_sheet_shows_what_it_says(clips, judge, tmp_path):
    exam = HeldOutEvaluation(clips, TINY, judge)
    exam.show(Deaf(TINY), tmp_path / "grid.png")
    sheet = cv2.imread(str(tmp_path / "grid.png"))
    assert sheet.shape == (HEADER + 3 * 96, 4 * 96, 3)
    for row, window in enumerate(exam.windows):
        faces = sheet[HEADER + row * 96 : HEADER + (row + 1) * 96]
        reference, masked, made, real = (faces[:, k * 96 : (k + 1) * 96] for k in range(4))
        assert np.array_equal(reference, window.reference[2])
        assert np.array_equal(made, reference)
        assert np.array_equal(real, window.target[2])
        assert np.array_equal(masked[:40], real[:40])
        assert not masked[40:].any()
    assert not list(tmp_path.glob("*.part"))


def test_a_sheet_by_hand(tmp_path: Path):
    values = [0.0, 0.2, 0.4, 1.2]  # beyond white is white
    sheet = sample_grid(*(torch.full((2, 3, 96, 96), value) for value in values))
    assert sheet.shape == (HEADER + 192, 384, 3)
    assert sheet[HEADER:, 50::96, 0].tolist() == [[0, 51, 102, 255]] * 192
    assert sheet[:HEADER].any()
    assert len(COLUMNS) == 4
    write_png(sheet, tmp_path / "a.png")
    assert np.array_equal(cv2.imread(str(tmp_path / "a.png")), sheet)
