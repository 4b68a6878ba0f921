"""Motion of sound that is still arriving: the same for any pieces, close to that of the whole, at a bounded cost."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from preprocessing.errors import UsageError
from preprocessing.media.audio import load_audio
from tests.material import SPEECH
from wav2lip.lip_motion.motion import FADE_FRAMES, LipMotionModel, MotionRange
from wav2lip.lip_motion.speech.streaming import KEPT, LEAD_ROWS, MIRRORED, REVISED, WhisperStream, step_network
from wav2lip.lip_motion.speech.whisper import load_whisper
from wav2lip.lip_motion.speech.whisper_config import EDGE_ROWS, TAPS
from wav2lip.lip_motion.streaming import MotionStream

TIMES = [Fraction(number, 25) for number in range(70)]


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return load_audio(SPEECH)[: 16000 * 3]


@pytest.fixture(scope="module")
def model() -> LipMotionModel:
    return LipMotionModel.load()


def openings(model: LipMotionModel, coefficients: np.ndarray) -> np.ndarray:
    return coefficients @ model.space.opening * model.gain


def streamed(model: LipMotionModel, samples: np.ndarray, size: int, lookahead: float = 0.2) -> np.ndarray:
    """Coefficients at `TIMES`, each asked for as soon as the look-ahead allows."""
    stream, asked, shown = MotionStream(model, MotionRange(), lookahead), 0, []
    for first in range(0, len(samples), size):
        stream.push(samples[first : first + size])
        while asked < len(TIMES) and stream.seconds_needed(TIMES[asked]) * 16000 <= stream.known:
            shown.append(stream.coefficients(TIMES[asked]))
            asked += 1
    stream.end()
    return np.concatenate([*shown, *(stream.coefficients(time) for time in TIMES[asked:])])


def test_the_motion_does_not_depend_on_the_pieces_and_follows_the_whole_recordings(model, speech):
    fine, coarse = streamed(model, speech, 80), streamed(model, speech, 16000)
    np.testing.assert_allclose(fine, coarse, atol=1e-4)
    whole = model.displacements(speech).coefficients_at(TIMES)
    assert np.corrcoef(openings(model, fine), openings(model, whole))[0, 1] > 0.95


def test_a_frame_depends_on_no_sound_beyond_the_lookahead(model, speech):
    other = speech.copy()
    other[32000:] = 0
    one, two = streamed(model, speech, 640), streamed(model, other, 640)
    unchanged = np.abs(one - two).max(axis=1) == 0
    assert unchanged[: 2 * 25 - 6].all()
    assert not unchanged[50:60].any()


def test_after_the_end_the_face_comes_to_rest(model, speech):
    stream = MotionStream(model, MotionRange(), 0.2)
    stream.push(speech[8000:24000])
    stream.end()
    last = stream.coefficients(Fraction(25, 25))
    fading = [stream.coefficients(Fraction(25 + number, 25)) for number in range(1, FADE_FRAMES + 3)]
    for number, shown in enumerate(fading, 1):
        np.testing.assert_allclose(shown, last * max(0, 1 - number / FADE_FRAMES), atol=1e-6)


def test_silence_closes_the_mouth_and_no_sound_at_all_rests(model):
    stream = MotionStream(model, MotionRange(), 0.2)
    stream.push(np.zeros(32000, np.float32))
    for time in TIMES[:40]:
        assert openings(model, stream.coefficients(time))[0] == pytest.approx(-0.1, abs=0.02)
    empty = MotionStream(model, MotionRange(), 0.2)
    empty.end()
    assert np.isfinite(empty.coefficients(Fraction(3))).all()


@pytest.mark.parametrize("revised", [10**6, 60])
def test_the_rows_are_the_encoders_own(speech, monkeypatch, revised):
    """Without frozen rows exactly; with some, those of the encoder without what was not yet known."""
    piece = speech[: 320 * 100]
    lead, mirror = np.zeros(LEAD_ROWS * 320, np.float32), piece[-2 : -2 - MIRRORED * 320 : -1]
    encoder = load_whisper()
    with torch.inference_mode():
        samples = torch.from_numpy(np.concatenate([lead, piece, mirror]))[None]
        numbers = torch.arange(samples.shape[1] // 320 + 1).float() - LEAD_ROWS
        rows, outputs = encoder.embed(samples, numbers.clamp_min(0))[EDGE_ROWS:], []
        none, mask = torch.zeros(6, 0, 64), encoder.mask(numbers[EDGE_ROWS:])
        for block in encoder.blocks:
            rows, *_ = block(rows, none, none, mask)
            outputs.append(rows)
        outputs[-1] = encoder.norm(outputs[-1])
    expected = torch.cat([outputs[tap - 1] for tap in TAPS], -1).numpy()
    monkeypatch.setattr("wav2lip.lip_motion.speech.streaming.REVISED", revised)
    stream = WhisperStream(step_network())
    stream.step(piece[:26000])
    first, rows = stream.step(piece[26000:])
    assert first == EDGE_ROWS - LEAD_ROWS
    if revised > 1000:
        np.testing.assert_allclose(rows, expected, atol=2e-3)
    else:
        assert 0.98 < np.corrcoef(rows.ravel(), expected.ravel())[0, 1] < 0.9999


def test_a_step_computes_few_rows_and_keeps_little(speech):
    shapes = []

    def run(*inputs: np.ndarray) -> list[np.ndarray]:
        shapes.append(len(inputs[-1]))
        return step_network()(*inputs)

    stream = WhisperStream(run)
    for first in range(0, len(speech), 1280):
        stream.step(speech[first : first + 1280])
    assert max(shapes) <= REVISED + MIRRORED + 12
    assert len(stream._samples) < 320 * (REVISED + 10)
    assert len(stream._features) <= KEPT


@pytest.mark.parametrize("lookahead", [-0.1, 2.5, np.inf, np.nan])
def test_a_lookahead_out_of_range_is_refused(model, lookahead):
    with pytest.raises(UsageError, match="look-ahead"):
        MotionStream(model, MotionRange(), lookahead)
