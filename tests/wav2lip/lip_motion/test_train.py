"""Lip motion training on synthetic heads: steps, resuming, offsets, the bundled recipe."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import wav2lip.lip_motion.train
from preprocessing.errors import TrainingError, UsageError
from tests.wav2lip.lip_motion.material import talk, write_talks
from training.engine import Engine
from wav2lip.lip_motion.checkpoint import TrainedMotion
from wav2lip.lip_motion.data.clips import MotionClip, open_motion_clips
from wav2lip.lip_motion.data.corpus import Corpus
from wav2lip.lip_motion.data.training_set import WindowSampler
from wav2lip.lip_motion.evaluate import evaluate
from wav2lip.lip_motion.motion_config import MotionConfig
from wav2lip.lip_motion.train import LipMotionTrainOptions, main, train
from wav2lip.lip_motion.training.expert_training import main as train_judge
from wav2lip.lip_motion.training.offsets import LAGS, best_lag, combine_offsets, find_offsets
from wav2lip.lip_motion.training.recipe import LipMotionRecipe
from wav2lip.lip_motion.training.train_state import LipMotionTrainState, start, train_step

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).parents[3]
CPU = Engine(accelerator="cpu", precision="32-true")
TINY = LipMotionRecipe(
    network=MotionConfig(features=6, width=16, blocks=2, components=3, dropout=0.1),
    repair_rounds=1, repair_steps=2, expert_steps=2, steps=4, batch=4, window=16, lr=3e-3, seed=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    return write_talks(tmp_path_factory.mktemp("talks") / "clips")


@pytest.fixture(scope="module")
def corpus(clips) -> Corpus:
    return Corpus.of(open_motion_clips(clips, "whisper"), TINY.network.components, 0)


def test_a_clip_comes_back_from_its_file(tmp_path):
    clip = talk("eve__1", 50)
    clip.save(tmp_path / "eve.safetensors")
    again = MotionClip.load(tmp_path / "eve.safetensors", "mel")
    assert (again.name, again.speaker, again.split, again.frames) == ("eve__1", "a", "train", 50)
    np.testing.assert_allclose(again.motion.values, clip.motion.values, atol=0.01)
    np.testing.assert_array_equal(again.features["mel"], clip.features["mel"].astype(np.float16))
    with pytest.raises(UsageError, match="has no features of words"):
        MotionClip.load(tmp_path / "eve.safetensors", "words")


def test_steps_lower_the_losses(corpus):
    recipe = replace(TINY, steps=60, lr=1e-2)
    state = start(recipe, corpus, CPU.launch())
    draw = WindowSampler(corpus.seen, recipe.network, recipe.window, recipe.power, 0)
    found = [train_step(state, draw.batch(step, 8)) for step in range(60)]
    for name in ("position", "closure", "correlation"):
        first, last = (float(np.mean([losses[name] for losses in part])) for part in (found[:5], found[-5:]))
        assert last < 0.8 * first, name
    assert "sync" not in found[0]


def test_a_style_is_what_one_person_does_differently(corpus):
    recipe = replace(TINY, steps=80, lr=1e-2, style_decay=0.0)
    state = start(recipe, corpus, CPU.launch())
    draw, louder = WindowSampler(corpus.seen, recipe.network, recipe.window, recipe.power, 0), 2.0
    for step in range(80):
        batch = draw.batch(step, 8)
        batch["coefficients"] *= 1 + (louder - 1) * (batch["person"] == 1).float()[:, None, None]
        train_step(state, batch)
    state.network.eval()
    rows, styles = draw.batch(99, 8)["whisper"], state.styled.styles.weight.detach()
    with torch.no_grad():
        spreads = [float(state.network(rows, style.expand(8, -1))[0].std()) for style in styles]
        unknown = float(state.network(rows)[0].std())
    assert spreads[1] > 1.1 * max(spreads[0], spreads[2])
    assert min(spreads) < unknown < max(spreads)


def test_windows_depend_on_seed_and_step_alone(corpus):
    draw, again = (WindowSampler(corpus.seen, TINY.network, 16, 0.6, 5) for _ in range(2))
    draw.batch(0, 4)
    one, other = draw.batch(7, 4), again.batch(7, 4)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(one["coefficients"], draw.batch(8, 4)["coefficients"])


def test_a_loss_that_is_no_number_stops_the_training(corpus):
    state = start(TINY, corpus, CPU.launch())
    batch = WindowSampler(corpus.seen, TINY.network, 16, 0.6, 5).batch(0, 4)
    batch["whisper"][0, 0] = torch.nan
    with pytest.raises(TrainingError, match="nan at step 0"):
        train_step(state, batch)


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(clips, tmp_path, monkeypatch):
    flags = {
        name: LipMotionTrainOptions(tmp_path / name, log_every=1, validate_every=2) for name in ("whole", "stopped")
    }
    train(clips, TINY, flags["whole"], CPU)
    real = wav2lip.lip_motion.train.train_step

    def stopped(state: LipMotionTrainState, batch: dict) -> dict:
        if state.expert is not None and state.step == 3:
            raise KeyboardInterrupt
        return real(state, batch)

    monkeypatch.setattr(wav2lip.lip_motion.train, "train_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(clips, TINY, flags["stopped"], CPU)
    torch.manual_seed(99)  # a new process starts with a different random state
    monkeypatch.setattr(wav2lip.lip_motion.train, "train_step", real)
    train(clips, TINY, flags["stopped"], CPU)
    whole, again = (torch.load(flag.out / "state.pt", weights_only=True) for flag in flags.values())
    assert whole["step"] == again["step"] == 4
    for part in ("styled", "average"):
        assert all(torch.equal(whole[part][key], again[part][key]) for key in whole[part])
    logs = [[json.loads(line) for line in (flag.out / "log.jsonl").read_text().splitlines()] for flag in flags.values()]
    steps = [[line for line in log if line["step"] > 0] for log in logs]
    assert [line | {"seconds": 0} for line in steps[0]] == [line | {"seconds": 0} for line in steps[1]]
    assert {"opening_r", "width_r", "closures_kept"} <= {name for line in steps[0] for name in line}
    names = {"offsets.json", "expert.safetensors", "lip_motion.safetensors", "best.safetensors", "config.json"}
    assert names <= {path.name for path in flags["stopped"].out.iterdir()}
    with pytest.raises(UsageError, match=r"has lr 0\.003, not 0\.01"):
        train(clips, replace(TINY, lr=0.01), flags["stopped"], CPU)


def test_a_checkpoint_opens_and_is_measured(clips, tmp_path):
    train(clips, TINY, LipMotionTrainOptions(tmp_path / "run"), CPU)
    path = tmp_path / "run" / "lip_motion.safetensors"
    motion = TrainedMotion.load(path)
    assert (motion.encoder, motion.step, motion.about["people"]) == ("whisper", 4, 3)
    assert motion.rest is not None
    judge = tmp_path / "judge.safetensors"
    assert train_judge([str(clips), str(judge), "--motion", str(path), "--steps", "2"]) == 0
    found = evaluate(clips, path, judge=judge)
    assert (found["clips"], found["people"]) == (1, 1)
    assert {"opening_r", "judged", "judged_real", "mapped_to_rest"} <= found.keys()


def test_late_and_early_pictures_are_found():
    lags = {"ann__1": 3.0, "bob__1": -2.5, "cleo__1": 0.0, "dan__1": 0.5}
    clips = [talk(name, 200, name, late=lag) for name, lag in lags.items()]
    corpus = Corpus.of(clips, 3, 0)
    true = Corpus.of([talk(name, 200, name) for name in lags], 3, 0)  # predictions of a perfect model
    found = find_offsets([item.coefficients for item in true.seen], corpus.seen, corpus.space)
    assert found == {"ann__1": 3.0, "bob__1": -2.5}
    moved = corpus.shifted(found).seen
    for item, still in zip(moved[:2], true.seen[:2], strict=True):
        inside = slice(5, 190)
        assert np.corrcoef(item.opening[inside], still.opening[inside])[0, 1] > 0.98


def test_a_lag_must_be_clear():
    curve = np.exp(-(((LAGS - 4) / 3) ** 2))
    assert best_lag(curve) == 4.0
    assert best_lag(0.3 * curve) == 0.0  # too weak
    assert best_lag(0.9 + 0.01 * curve) == 0.0  # no better than no lag
    assert best_lag(np.full(len(LAGS), np.nan)) == 0.0
    assert combine_offsets({"a": 1.0, "b": 2.0}, {"a": -1.0, "c": 1.5}) == {"b": 2.0, "c": 1.5}


def test_the_shipped_recipe_is_the_default_and_trains(clips, tmp_path):
    config = ["--config", str(ROOT / "configs" / "lip-motion.yaml")]
    short = ["--steps", "1", "--batch", "2", "--repair_rounds", "0", "--expert-steps", "1", "--network.components", "3"]
    assert main([str(clips), "--out", str(tmp_path), *config, *short, "--accelerator", "cpu"]) == 0
    changed = {"steps": 1, "batch": 2, "repair_rounds": 0, "expert_steps": 1}
    recipe = replace(LipMotionRecipe(network=MotionConfig(components=3)), **changed)
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads(json.dumps(asdict(recipe)))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--weights.sync", "-1"], "weights.sync must be 0 or more, not -1"),
        (["--expert-steps", "0"], "expert_steps is 0, so there is no expert"),
        (["--network.kernel", "4"], "kernel must be odd, not 4"),
        (["--network.lookahead", "99"], "lookahead must be from -1 to 8, not 99"),
        (["--batch", "3", "--devices", "2"], "batch 3 is not divisible by 2 devices"),
        ([], "contains no motion clips"),
    ],
)
def test_wrong_usage_is_one_line(flags, expected, tmp_path, capsys):
    assert main([str(tmp_path / "none"), "--out", str(tmp_path / "run"), *flags]) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert message.count("\n") == 1
    assert not (tmp_path / "run").exists()
