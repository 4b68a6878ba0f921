"""Motion inference: frame rates, length, silence, strength and closure; shape space and rest map."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from preprocessing.errors import UsageError
from preprocessing.faces.mesh import LIPS_INNER, lower_face, opening
from preprocessing.media.audio import load_audio
from tests.material import SPEECH
from tests.wav2lip.lip_motion.material import closed_face, opened, turning_head
from wav2lip.lip_motion.checkpoint import TrainedMotion
from wav2lip.lip_motion.model import LipMotionNet
from wav2lip.lip_motion.motion import LipMotionModel, _MirrorPadded
from wav2lip.lip_motion.motion_config import MotionConfig, close_lips, context_rows
from wav2lip.lip_motion.rest_map import RestMap
from wav2lip.lip_motion.shape_space import ShapeSpace, gain_of, personal_gain, point_weights
from wav2lip.lip_motion.speech.mel import MelEncoder
from wav2lip.lip_motion.training.losses import correlation_loss
from wav2lip.lip_motion.training.metrics import pearson

CONFIG = MotionConfig(features=80, width=16, blocks=2, components=3)


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return load_audio(SPEECH)[: 16000 * 4]


@pytest.fixture(scope="module")
def space() -> ShapeSpace:
    rng = np.random.default_rng(0)
    people = [opened(rng.uniform(0, 6, 200)) + 0.2 * rng.standard_normal((200, len(lower_face()), 3)) for _ in range(2)]
    return ShapeSpace.fit(people, [gain_of(values) for values in people], 3)


@pytest.fixture(scope="module")
def trained(space) -> TrainedMotion:
    torch.manual_seed(0)
    network = LipMotionNet(CONFIG).eval()
    network.scale.copy_(torch.from_numpy(space.deviations))
    return TrainedMotion("mel", network, space)


@pytest.fixture(scope="module")
def model(trained) -> LipMotionModel:
    return LipMotionModel.of(trained, MelEncoder())


def test_frame_rates_agree_where_their_times_do(model, speech):
    motion = model.displacements(speech)
    rates = [Fraction(25), Fraction(30000, 1001), Fraction(60)]
    frames = [motion.at_times([number / fps for number in range(round(len(motion) / 25 * fps))]) for fps in rates]
    assert frames[0][0].shape == (len(lower_face()), 3)
    assert frames[0][0].dtype == np.float32
    for values, fps in zip(frames, rates, strict=True):
        for number in (0, 5, 17, 60):
            np.testing.assert_allclose(values[number], motion.at(number / fps), atol=1e-6)
    for number in range(0, 50, 5):  # 25 and 60 fps coincide every 0.2 s
        np.testing.assert_allclose(frames[0][number], frames[2][number * 12 // 5], atol=1e-6)
    np.testing.assert_allclose(motion.at(Fraction(1001, 3000)), frames[1][10], atol=1e-6)
    halfway = (motion.at(0.4) + motion.at(0.44)) / 2
    np.testing.assert_allclose(motion.at(0.42), halfway, atol=1e-5)


def test_after_the_sound_the_face_is_at_rest(model, speech):
    motion = model.displacements(speech)
    assert np.abs(motion.at(4.5)).max() == 0
    assert np.array_equal(motion.at(1000), motion.at(4.5))
    assert np.array_equal(motion.at(-1), motion.at(0))


def test_pieces_of_a_long_sound_fit_together(model, speech, monkeypatch):
    whole = model.displacements(speech)
    monkeypatch.setattr("wav2lip.lip_motion.motion.BLOCK", 7)
    pieces = model.displacements(speech)
    np.testing.assert_allclose(pieces.coefficients, whole.coefficients, atol=1e-3)
    numbers = np.clip(np.rint(speech * 32768), -32768, 32767).astype(np.int16)
    np.testing.assert_allclose(model.displacements(numbers).coefficients, whole.coefficients, atol=0.05)


@pytest.mark.parametrize(("own", "gain"), [(0.3, 2.0), (1.0, 2 / 1.3), (2.0, 2.0), (2.42, 2.2), (9.0, 2.6)])
def test_a_persons_gain_lies_between_their_own_and_the_usual(own, gain):
    assert personal_gain(own, usual=2.0) == pytest.approx(gain)


def test_gain_and_strength_scale_what_is_not_closed(model, speech):
    plain, strong = model.displacements(speech, gain=2.0), model.displacements(speech, gain=1.0, strength=2.0)
    np.testing.assert_allclose(plain.at_times([1, 2]), strong.at_times([1, 2]), atol=1e-5)
    for wrong in ({"gain": 0.0}, {"strength": -1.0}):
        with pytest.raises(UsageError, match="above 0"):
            model.displacements(speech, **wrong)
    with pytest.raises(UsageError, match="samples"):
        model.displacements(speech[:0])


def test_sound_is_continued_by_its_mirror_image():
    padded, samples = _MirrorPadded(np.arange(100)), np.arange(100)
    edge = (len(padded) - 100) // 2
    np.testing.assert_array_equal(padded[edge : edge + 100], samples)
    np.testing.assert_array_equal(padded[edge - 3 : edge + 2], [3, 2, 1, 0, 1])
    np.testing.assert_array_equal(padded[edge + 98 : edge + 102], [98, 99, 98, 97])
    assert len(_MirrorPadded(np.arange(1))[0:5]) == 5


def test_lips_that_are_surely_closed_meet(space):
    gap = np.array([4.0, 4.0, 4.0, -1.0])
    np.testing.assert_allclose(close_lips(gap, np.array([0.9, 0.1, 0.4, 0.9])), [-4, 0, -2, 0])
    coefficients = space.opening_direction * 3
    assert coefficients @ space.opening == pytest.approx(3, rel=1e-5)


def test_a_checkpoint_keeps_the_motion(trained, model, speech, tmp_path):
    trained.save(tmp_path / "a.safetensors")
    again, expected = LipMotionModel.load(tmp_path / "a.safetensors"), model.displacements(speech).coefficients
    np.testing.assert_allclose(again.displacements(speech).coefficients, expected, atol=1e-4 * np.abs(expected).max())
    with pytest.raises(UsageError, match="does not exist"):
        LipMotionModel.load(tmp_path / "b.safetensors")


def test_the_shipped_model_speaks_and_is_silent(speech):
    model = LipMotionModel.load()
    times = np.arange(0, 2, 0.04)
    rng = np.random.default_rng(0)
    for silence in (np.zeros(32000, np.float32), 1e-3 * rng.standard_normal(32000).astype(np.float32)):
        assert model.displacements(silence).opening(times).max() < 0.5
    spoken = model.displacements(speech).opening(np.arange(0, 4, 0.04))
    assert spoken.std() > 1
    assert spoken.min() < 0.2 * spoken.max()


@pytest.mark.parametrize("lookahead", [-1, 0, 3])
def test_a_frame_depends_on_what_it_may(lookahead):
    torch.manual_seed(0)
    config = MotionConfig(features=4, width=8, blocks=2, components=2, lookahead=lookahead)
    network, rows = LipMotionNet(config).eval(), np.random.default_rng(0).standard_normal((100, 4)).astype(np.float32)

    def motion(values: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(context_rows(values, 0, 49, config))[None])[0][0].numpy()

    changed = rows.copy()
    changed[2 * 30 :] += 1
    moved = np.flatnonzero(np.abs(motion(changed) - motion(rows)).max(1) > 1e-6)
    assert motion(rows).shape == (49, 2)
    assert moved[0] == 30 - config.after - 1  # the stem sees one frame ahead
    assert config.before + config.after == 8


def test_the_space_gives_back_what_it_was_fitted_on(space):
    values, gain = opened(np.array([0.0, 3.0, 5.0])), 2.0
    coefficients = space.coefficients(values, gain)
    again = space.displacement(coefficients, gain)
    np.testing.assert_allclose(again, values, atol=0.3)
    assert np.abs(coefficients[0]).max() < 1e-6
    np.testing.assert_allclose(space.basis @ space.basis.T, np.eye(3), atol=1e-5)
    np.testing.assert_allclose(coefficients @ space.opening * gain, [0, 3, 5], atol=0.3)


def test_gain_by_hand():
    assert gain_of(2.0 / point_weights()[None]) == pytest.approx(2.0)


def test_an_open_mouth_is_mapped_to_rest_and_a_closed_one_is_left():
    rng = np.random.default_rng(0)
    rows = lower_face()
    people, rests = [], []
    for _ in range(12):
        own = closed_face()[rows] * (1 + 0.02 * rng.standard_normal())
        people.append(own + opened(rng.uniform(0, 8, 40)))
        rests.append(own)
    fitted = RestMap.fit(people, rests, components=4)
    error = np.sqrt(np.mean((people[0] + fitted.change(people[0]) - rests[0]) ** 2))
    assert error < 0.3 * np.sqrt(np.mean((people[0] - rests[0]) ** 2))
    face = closed_face()
    assert np.array_equal(fitted.rest(face), face)
    face[rows] += opened(np.array([7.0]))[0]
    rested = fitted.rest(face)
    assert opening(rested) < 0.5 < opening(face)
    assert np.array_equal(rested[np.setdiff1d(np.arange(206), rows)], face[np.setdiff1d(np.arange(206), rows)])
    assert len(LIPS_INNER) == 20
    assert turning_head(np.zeros(2)).shape == (2, 206, 3)


def test_correlations_by_hand():
    assert pearson(np.array([1.0, 2, 3]), np.array([2.0, 4, 6])) == pytest.approx(1)
    assert pearson(np.array([1.0, 2, 3]), np.zeros(3)) == 0
    curve, known = torch.tensor([[0.0, 1, 2, 50]]) * 100, torch.tensor([[1.0, 1, 1, 0]])
    assert correlation_loss(curve, -curve, known).item() == pytest.approx(2, abs=1e-4)
    assert correlation_loss(curve, curve, known).item() == pytest.approx(0, abs=1e-4)
