"""Training of the painter: its samples, its losses, a critic that learns, and a run that resumes."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from preprocessing.errors import UsageError
from preprocessing.faces.landmarks.training.labels import LabeledVideo
from preprocessing.faces.mesh import LIPS_INNER, LIPS_OUTER
from tests.wav2lip.renderer.faces import opened, shut_face
from training.engine import Engine
from wav2lip.renderer import prepare, train
from wav2lip.renderer.painter import Painted, PainterConfig, PersonEncoder, load_painter
from wav2lip.renderer.painter_inputs import HEIGHT, PLANES, WIDTH
from wav2lip.renderer.training.adversary import MouthAdversary
from wav2lip.renderer.training.content import ContentLoss
from wav2lip.renderer.training.critic import MouthCritic, with_deviation
from wav2lip.renderer.training.crops import MIN_FRAMES, SIDE, MouthCrops, crop_pose, spread
from wav2lip.renderer.training.dataset import MouthSamples, augment
from wav2lip.renderer.training.losses import condition, finished, reconstruction_losses, softened
from wav2lip.renderer.training.metrics import measure
from wav2lip.renderer.training.recipe import CriticRecipe, PainterRecipe
from wav2lip.renderer.training.samples import Pair, SampleMaker
from wav2lip.renderer.training.train_state import PainterTrainState

OPENINGS = (0.2, 0.4, 3.0, 5.0, 7.0, 9.0, 10.0, 11.0, 12.0)
FIRST = {name: sum(list(PLANES.values())[:place]) for place, name in enumerate(PLANES)}


def crops() -> MouthCrops:
    """Red lips on skin, opened by `OPENINGS`, with white teeth: wider open mouths show more."""
    pose, images, points = crop_pose(), [], []
    for number, height in enumerate(OPENINGS):
        mesh = pose.repose(shut_face() + opened(height))
        noise = np.random.default_rng(number).integers(0, 12, (SIDE, SIDE, 3), np.uint8)
        image = noise + np.array([110, 140, 190], np.uint8)
        for ring, color in ((LIPS_OUTER, (70, 60, 170)), (LIPS_INNER, (215, 220, 225))):
            cv2.fillPoly(image, [np.round(mesh[ring, :2] * 16).astype(np.int32)], color, cv2.LINE_AA, 4)
        images.append(image)
        points.append(mesh)
    count = len(images)
    return MouthCrops(np.stack(images), np.stack(points), np.zeros((count, 2)), np.arange(count) * 1.0, 2.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples of two people for training and one to be held out."""
    out = tmp_path_factory.mktemp("mouths é")
    for split, names in {"train": ("ann__1", "bob__1"), "val": ("eve__1",)}.items():
        (out / split).mkdir()
        for name in names:
            crops().save(out / split / f"{name}.npz")
        prepare.make_samples(out / split, out / split, 24, 0)
    return out


def plane(sample: np.ndarray, name: str) -> np.ndarray:
    return sample[FIRST[name] : FIRST[name] + PLANES[name]]


def test_a_sample_shows_the_target_frame_and_its_opening():
    """The target's opening is exactly where the target frame is white."""
    sample = SampleMaker(crops()).render(Pair("photo", 0, 7, ()))
    white = plane(sample, "target").min(axis=0) > 200
    inside = plane(sample, "inner")[0] > 127
    assert sample.shape == (sum(PLANES.values()), HEIGHT, WIDTH)
    assert (white & inside).sum() / (white | inside).sum() > 0.8
    assert (inside <= (plane(sample, "lips")[0] > 127)).mean() > 0.99


def test_a_photo_knows_no_teeth_and_a_video_has_retrieved_them():
    maker = SampleMaker(crops())
    photo, video = (maker.render(Pair("", 0, 7, bank)) for bank in ((), (5, 6, 8)))
    inside = plane(photo, "inner")[0] > 200
    assert plane(photo, "reference").max() == plane(photo, "retrieved").max() == 0
    assert plane(photo, "composite")[:, inside].mean() < 100, "dark"
    assert plane(video, "composite")[:, inside].mean() > 180, "teeth"
    assert plane(video, "retrieved")[0][inside].mean() > 200
    assert (plane(video, "reference").max(axis=0) > 0).mean() > 0.4


def test_a_drawn_photo_is_closed_and_its_bank_is_empty():
    maker, rng = SampleMaker(crops()), np.random.default_rng(0)
    photos = [maker.draw(rng, "photo") for _ in range(50)]
    assert {pair.source for pair in photos} <= {0, 1, 2}
    assert not any(pair.bank or maker.knows_mouth(pair) for pair in photos)
    for case in ("video", "poor"):
        pairs = [maker.draw(rng, case) for _ in range(50)]
        assert not any(pair.target in pair.bank for pair in pairs)
        assert any(maker.knows_mouth(pair) for pair in pairs)
    poor = [maker.openness[list(pair.bank)].max() for pair in pairs if pair.bank]
    assert max(poor) <= 0.5 * maker.openness.max()


def test_the_painter_is_trained_where_a_mouth_is_known(folder: Path):
    samples = MouthSamples.open(folder / "train")
    assert set(samples.cases) == {"smile", "video", "poor"}
    retrieved = samples.batch(np.arange(len(samples)))["reference"].amax((1, 2, 3))
    assert (retrieved > 0).all()


def test_chosen_frames_are_spread_over_openness():
    openness = np.concatenate([np.zeros(900), np.linspace(0, 10, 100)])
    chosen = openness[spread(openness, 40)]
    assert len(chosen) <= 40
    assert (chosen > 5).sum() >= 8, "half of the choice is even in openness"


def test_of_a_person_with_many_clips_each_gives_enough_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A mouth that is mostly shut: the frames chosen by openness and by rank are partly the same."""
    openness, chosen = np.concatenate([np.zeros(40), np.geomspace(0.1, 8, 35)]), []
    monkeypatch.setattr(prepare, "crop_video", lambda *job: chosen.append(len(spread(openness, job[2]))))
    clips = [LabeledVideo(tmp_path, tmp_path, str(number), "ann") for number in range(30)]
    prepare.make_crops({"ann": clips}, tmp_path / "crops", prepare.PrepareOptions())
    assert len(chosen) == 24
    assert min(chosen) >= MIN_FRAMES


def test_batches_go_through_all_samples_before_any_comes_again(folder: Path):
    samples = MouthSamples.open(folder / "train")
    rows = np.concatenate([samples.rows(step, 8, 3) for step in range(6)])
    assert sorted(rows[:24]) == sorted(rows[24:]) == list(range(24))
    assert list(rows[:24]) != list(rows[24:])
    assert set(samples.people) == {"ann", "bob"}


def test_augmentation_mirrors_and_tints_all_planes_alike(folder: Path):
    planes = MouthSamples.open(folder / "train").batch(np.arange(12))
    changed = augment(planes, np.random.default_rng(1))
    mirrored = [not torch.equal(changed["inner"][k], planes["inner"][k]) for k in range(12)]
    assert 0 < sum(mirrored) < 12
    for k, flipped in enumerate(mirrored):
        back = {name: plane[k].flip(2) if flipped else plane[k] for name, plane in changed.items()}
        assert torch.equal(back["inner"], planes["inner"][k])
        darker = planes["target"][k].max() < 0.75
        if darker:  # nothing was clipped
            gains = [(back[name] / planes[name][k].clamp_min(1e-3)).mean((1, 2)) for name in ("target", "source")]
            torch.testing.assert_close(*gains, atol=0.02, rtol=0)


def painted(image: Tensor) -> Painted:
    weights = torch.zeros_like(image)
    weights[:, 2] = 1
    return Painted(image, weights, image)


def test_losses_are_zero_for_the_truth_and_ignore_what_may_not_be_painted(folder: Path):
    planes = MouthSamples.open(folder / "train").batch(np.arange(6))
    right = reconstruction_losses(painted(planes["target"]), planes)
    assert all(value == 0 for value in right.values())
    elsewhere = planes["target"] + (planes["region"] == 0) * 0.5
    losses = reconstruction_losses(painted(elsewhere), planes)
    assert losses["pixels"] == losses["edges"] == losses["coarse"] == 0
    assert torch.equal(finished(painted(elsewhere), planes), planes["target"])


@pytest.mark.parametrize("name", ["non-saturating", "lsgan", "hinge", "wgan-gp"])
def test_the_critic_learns_to_tell_blurred_mouths_and_mouths_of_another_shape(folder: Path, name: str):
    samples, torch_steps = MouthSamples.open(folder / "train"), 12
    torch.manual_seed(0)
    recipe = CriticRecipe(name, width=8, lr=2e-3, steps=1, mismatched=1.0, paired=name != "wgan-gp")
    adversary = MouthAdversary(recipe, Engine("cpu", precision="32-true").launch())
    planes = samples.batch(np.arange(24))
    real, masks = planes["target"], condition(planes)
    blurred = torch.nn.functional.avg_pool2d(real, 5, 1, 2) * 0.9
    fake = real + planes["region"] * (blurred - real)
    for step in range(torch_steps):
        adversary.train(fake, real, masks, step, 1.0)
    with torch.no_grad():
        score = adversary.network(real, masks)
        assert (score > adversary.network(fake, masks)).float().mean() > 0.8
    before = [value.clone() for value in adversary.network.parameters()]
    moved = fake.clone().requires_grad_()
    losses = adversary.generator_losses(moved, real, masks)
    (losses["adversarial"] + losses["features"]).backward()
    assert moved.grad is not None
    assert moved.grad.abs().sum() > 0
    for old, new in zip(before, adversary.network.parameters(), strict=True):
        assert torch.equal(old, new)
        assert new.requires_grad


def test_a_projection_critic_sees_the_shape_and_batch_deviation_the_variety():
    torch.manual_seed(0)
    images, masks = torch.rand(4, 3, HEIGHT, WIDTH), torch.rand(4, 3, HEIGHT, WIDTH)
    critic = MouthCritic(8, projection=True)
    assert not torch.allclose(critic(images, masks), critic(images, 1 - masks))
    features = torch.randn(4, 5, 2, 3)
    wide = with_deviation(features)
    assert torch.equal(wide[:, :5], features)
    torch.testing.assert_close(wide[:, 5], features.std(0, unbiased=False).mean().expand(4, 2, 3))
    assert with_deviation(features[:1].expand(4, -1, -1, -1))[:, 5].max() < 2e-4, "all mouths alike"
    assert MouthCritic(8, batch_deviation=True)(images, masks).shape == (4, 1)


def test_growing_begins_at_half_the_resolution():
    recipe = PainterRecipe(steps=100, growing=0.3)
    assert [recipe.fine_share(step) for step in (0, 30, 45, 60, 99)] == pytest.approx([0, 0, 0.5, 1, 1])
    assert PainterRecipe().fine_share(0) == 1
    checks = torch.tensor([[0.0, 1], [1, 0]]).repeat(4, 4).expand(1, 3, 8, 8)
    assert torch.equal(softened(checks, 0), torch.full_like(checks, 0.5))
    torch.testing.assert_close(softened(checks, 0.25), 0.5 + 0.25 * (checks - 0.5))
    assert softened(checks, 1) is checks


def test_content_differs_with_the_picture_and_has_a_gradient():
    torch.manual_seed(0)
    content, real = ContentLoss(), torch.rand(2, 3, HEIGHT, WIDTH)
    assert content(real, real) == 0
    blurred = torch.nn.functional.avg_pool2d(real, 5, 1, 2).requires_grad_()
    loss = content(blurred, real)
    loss.backward()
    assert loss > 0
    assert blurred.grad is not None
    assert blurred.grad.abs().sum() > 0


def test_a_code_comes_from_any_number_of_mouths_of_the_same_video(folder: Path):
    samples = MouthSamples.open(folder / "train")
    rows = np.arange(12)
    planes = samples.batch(rows, others=3)
    assert planes["others"].shape == (12, 3, 4, HEIGHT, WIDTH)
    targets = samples.batch(np.arange(len(samples)))["target"]
    for row, mouths in zip(rows, planes["others"], strict=True):
        for mouth in mouths:
            found = [k for k in range(len(samples)) if torch.equal(targets[k], mouth[:3])]
            assert found
            assert samples.clips[row] in samples.clips[found]
    torch.manual_seed(0)
    encoder = PersonEncoder(6, width=4)
    once, twice = planes["others"][:, :1], planes["others"][:, :1].expand(-1, 2, -1, -1, -1)
    torch.testing.assert_close(encoder(once), encoder(twice))
    assert encoder(planes["others"]).shape == (12, 6)


def test_measures_of_a_perfect_and_of_a_blurred_painter(folder: Path):
    samples = MouthSamples.open(folder / "val")
    perfect = measure(lambda planes: painted(planes["target"]), samples)
    dull = measure(
        lambda planes: painted(planes["target"].mean((2, 3), keepdim=True).expand_as(planes["target"])), samples
    )
    for kind in ("smile", "video", "poor"):
        assert perfect[f"{kind}_after"] == 0 < perfect[f"{kind}_before"]
        assert perfect[f"{kind}_sharp"] == pytest.approx(1)
        assert perfect[f"{kind}_painted"] == pytest.approx(1, abs=0.01)
        assert dull[f"{kind}_sharp"] < 0.7


def run(folder: Path, out: Path, code: int = 0, *more: str) -> list[dict]:
    tiny = ["--network.widths", "[4,4,4]", "--network.depth", "1", "--critic.width", "4", "--critic.start", "2"]
    flags = ["--steps", "4", "--batch", "4", "--precision", "32-true", "--log-every", "1", "--validate-every", "2"]
    assert train.main([str(folder), "--out", str(out), "--accelerator", "cpu", *tiny, *flags, *more]) == code
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_a_run_writes_weights_log_and_sheets_and_resumes_exactly(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    straight = run(folder, tmp_path / "one run")
    step = train.train_step

    def interrupted(state: PainterTrainState, planes: dict[str, Tensor]) -> dict[str, Tensor]:
        if state.step == 3:
            raise KeyboardInterrupt
        return step(state, planes)

    monkeypatch.setattr(train, "train_step", interrupted)
    run(folder, tmp_path / "two", 130)
    monkeypatch.setattr(train, "train_step", step)
    again = run(folder, tmp_path / "two")
    one, two = (load_painter(tmp_path / name / "renderer.safetensors") for name in ("one run", "two"))
    for ours, theirs in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert one.config == PainterConfig((4, 4, 4), 1)
    timeless = [[{**line, "seconds": 0} for line in lines] for lines in (straight, again)]
    assert timeless[0] == timeless[1]
    logged = {name for line in straight for name in line}
    assert {"adversarial", "features", "critic", "critic_right", "smile_after", "video_after"} <= logged
    assert len(list((tmp_path / "one run").glob("sheet-*.png"))) == 2


def test_a_painter_with_a_code_is_trained_and_opened(folder: Path, tmp_path: Path):
    run(folder, tmp_path / "code", 0, "--network.code", "5", "--weights.content", "0.1", "--growing", "0.3")
    assert load_painter(tmp_path / "code" / "renderer.safetensors").config == PainterConfig((4, 4, 4), 1, 5)


def test_contradictions_are_refused_in_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    for wrong in (
        lambda: PainterRecipe(batch=1),
        lambda: PainterRecipe(ema=1.0),
        lambda: PainterRecipe(growing=0.6),
        lambda: CriticRecipe("began"),
    ):
        with pytest.raises(UsageError):
            wrong()
    assert train.main([str(tmp_path / "missing"), "--out", str(tmp_path / "out")]) == 2
    assert prepare.main([str(tmp_path), str(tmp_path), str(tmp_path / "samples")]) == 2
    error = capsys.readouterr().err
    assert "has no samples of wav2lip.renderer.prepare" in error
    assert "has labels" in error
    assert not (tmp_path / "out").exists()
