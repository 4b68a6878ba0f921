"""Generators measured on clips: inputs, baselines and tables."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.generator import Column, main, print_all, report, write
from benchmarks.protocols import OWN, RECONSTRUCTION, SILENCE, SWAPPED, Bench, Row, most_spoken
from benchmarks.speaking import Cost, Footage, Model, assign_donors, cost, freeze_mouth, mel_inputs, silent_mels
from evaluation.metrics.image_quality import MASK_TOP, MASKED, temporal_change
from inference.generator.backends import Backend
from inference.generator.generation import FaceGenerator
from preprocessing.dataset.clips import Clip, open_clips
from preprocessing.faces.crops import CropGeometry
from syncnet.model import SmallSyncNet
from syncnet.sync_expert import SyncExpert
from tests.material import write_generator, write_talking_clips
from training.checkpoint import Checkpoint
from wav2lip.generator.model import Generator, GeneratorConfig

FRAMES, ROW = 76, round(MASK_TOP * 128)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[Clip]:
    return open_clips(write_talking_clips(tmp_path_factory.mktemp("clips"), 2, FRAMES))


@pytest.fixture(scope="module")
def model() -> Model:
    """A generator that shows its reference."""
    backend = Backend("stub", torch.device("cpu"), "fp32", lambda mel, faces: faces[:, 3:])
    return Model("tiny", FaceGenerator(backend, GeneratorConfig(mask_row=40), CropGeometry()), Cost(1, 0.1, 0.1))


@pytest.fixture(scope="module")
def rows(clips, model) -> tuple[list[Row], list[Model]]:
    torch.manual_seed(0)
    return Bench(SyncExpert(SmallSyncNet(dimension=8).eval()), [model], FRAMES).measure(clips), [model]


def test_a_generator_is_loaded_from_a_file_if_it_was_trained_on_clips(tmp_path):
    path = write_generator(tmp_path / "a.safetensors")
    model = Model.load(path, "cpu", "torch")
    assert (model.name, model.generator.config.width, model.generator.geometry.kind) == (str(path), 2, "points")
    assert model.cost.parameters == sum(p.numel() for p in Generator(GeneratorConfig(width=2)).parameters())
    box = Checkpoint.load(path)
    replace(box, crop={"kind": "box", "size": 96}).save(path)
    with pytest.raises(ValueError, match="crops of the kind 'box', not 'points'"):
        Model.load(path, "cpu", "torch")


def test_a_reconstruction_has_the_references_mouth_under_the_real_eyes(clips, model):
    footage = Footage(clips[0])
    real = footage.faces()
    closed, *_, wide = np.argsort(-real[:, ROW:].mean(axis=(1, 2, 3)))  # an open mouth is drawn dark
    made = model.reconstruct(footage, np.array([closed]), int(wide), silent_mels(1))[0]
    assert np.array_equal(made[:ROW], real[closed, :ROW])
    far, near = (np.abs(made[ROW:].astype(int) - real[k, ROW:]).mean() for k in (closed, wide))
    assert near < 0.8 * far


def test_in_silence_one_frame_is_the_reference_of_all_and_in_speech_each_its_own(clips, model):
    """Drawn heads do not move."""
    footage = Footage(clips[0])
    real = footage.faces()[:12]
    assert temporal_change(real, MASKED) > 0.1
    still, moving = (model.speak(footage, mels) for mels in (silent_mels(12), np.zeros((12, 1, 80, 16), np.float32)))
    assert np.array_equal(still[:, :ROW], real[:, :ROW])
    assert temporal_change(still, MASKED) < 0.1 * temporal_change(real, MASKED)
    assert temporal_change(moving, MASKED) > 0.8 * temporal_change(real, MASKED)


def test_sounds_are_silent_where_nobody_speaks(clips):
    clip = clips[0]
    mels = mel_inputs(clip, range(FRAMES))
    quiet = [k for k in range(1, FRAMES - 5) if not clip.speech[int(3.2 * (k - 1)) : int(3.2 * (k - 1)) + 16].any()]
    assert quiet
    assert (mels[quiet] == -4).all()
    assert (mels.max(axis=(1, 2, 3)) > -4).sum() > FRAMES / 2


def test_a_held_mouth_leaves_the_eyes():
    pictures, mouth = np.zeros((2, 128, 128, 3), np.uint8), np.full((128, 128, 3), 9, np.uint8)
    done = freeze_mouth(pictures, mouth)
    assert not done[:, :ROW].any()
    assert (done[:, ROW:] == 9).all()
    assert not pictures.any()


class StubClip:
    """The attributes of a clip that `assign_donors` uses."""

    def __init__(self, speaker: str, frames: int, speech: float = 1.0) -> None:
        self.speaker, self.frames, self.speech = speaker, frames, np.arange(100) < 100 * speech


def test_a_swapped_sound_is_another_persons_and_long_enough_and_not_always_the_same():
    clips = [StubClip("a", 50), StubClip("a", 90), StubClip("b", 60), StubClip("b", 70), StubClip("c", 95, speech=0.2)]
    found = assign_donors(clips, [50, 90, 60, 70, 95])
    assert found[1] == 4  # none has both the length and enough speech: the longest
    assert [clips[k].speaker != clip.speaker for k, clip in zip(found, clips, strict=True)] == [True] * 5
    assert found[0] in (2, 3)
    assert found[2] == found[3] == 1
    assert assign_donors([StubClip(name, 50) for name in "abcd"], [50] * 4) == [1, 2, 3, 0]
    with pytest.raises(ValueError, match="of two people"):
        assign_donors([StubClip("a", 50), StubClip("a", 60)], [50, 60])


def test_the_most_spoken_two_seconds_are_found():
    clip = StubClip("a", 90)
    clip.speech = np.arange(288) >= 64  # columns, 3.2 per frame: from frame 20 on
    assert most_spoken(clip, 90) == 20
    assert most_spoken(clip, 60) == 10


def test_every_clip_has_its_rows(rows, clips):
    found, _ = rows
    names = [(row["protocol"], row["system"]) for row in found if row["clip"] == clips[0].path.stem]
    assert names == [
        *((RECONSTRUCTION, name) for name in ("real", "copy", "static", "tiny")),
        (OWN, "real"), (SWAPPED, "real"), (OWN, "static"), (OWN, "tiny"), (SWAPPED, "unsynced"),
        (SWAPPED, "static"), (SWAPPED, "tiny"), (SILENCE, "real"), (SILENCE, "tiny, own audio"),
        (SILENCE, "tiny, silence"),
    ]  # fmt: skip
    assert len(found) == 2 * len(names)
    assert len({row["clip"] for row in found}) == 2


def test_the_real_mouth_goes_with_its_sound_and_a_static_one_with_none(rows):
    by_name = {(row["protocol"], row["system"], row["clip"]): row for row in rows[0]}
    for clip in ("0", "1"):
        assert by_name[OWN, "real", clip]["opening"] > 0.5
        assert by_name[OWN, "real", clip]["opening_real"] == pytest.approx(1)
        assert by_name[OWN, "static", clip]["opening"] == 0
        assert by_name[SWAPPED, "unsynced", clip]["sound"] != clip
        assert by_name[SILENCE, "tiny, silence", clip]["motion"] < by_name[SILENCE, "real", clip]["motion"]


def test_the_tables_and_the_file_hold_the_rows(rows, tmp_path, capsys):
    found, models = rows
    report(found, models)
    text = capsys.readouterr().out
    assert all(f"## {name}" in text for name in ("Reconstruction", "Own audio", "Swapped audio", "Silence"))
    assert "| speaker0 | 1 |" in text
    assert "tiny: motion in silence, relative to speech" in text
    write(tmp_path / "rows.json", found, models)
    assert '"protocol": "silence"' in (tmp_path / "rows.json").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["rows.json"]


def test_a_table_by_hand(capsys):
    print_all([{"system": "a", "x": 1.0}, {"system": "a", "x": 1.0}, {"system": "b"}], [Column("x", "X")])
    assert capsys.readouterr().out.splitlines()[2:] == ["| a | 2 | 1.00 [1.00, 1.00] |", "| b | 1 | – |"]


def test_the_command_refuses_in_one_line(tmp_path, capsys, monkeypatch):
    for flags, message in (([], "holds no clip"), (["--seconds", "1"], "3 or more, not 1"), (["--judge", "no"], "no")):
        monkeypatch.setattr("sys.argv", ["generator.py", str(tmp_path), "--checkpoint", "a.pth", *flags])
        with pytest.raises(SystemExit, match="2"):
            main()
        *_, line = capsys.readouterr().err.splitlines()
        assert message in line


class OneLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(size=96)
        self.layer = nn.Conv2d(6, 3, 1)

    def forward(self, mel: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
        return self.layer(faces)


def test_the_cost_of_one_layer_by_hand():
    assert cost(OneLayer()) == Cost(21, pytest.approx(6 * 3 * 96 * 96 / 1e9), pytest.approx(42e-6))
