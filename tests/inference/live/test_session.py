"""Live sessions on a fake clock: sync, idle playback, interruption, and every kind of bad sound or consumer."""

from __future__ import annotations

import queue
import threading
from dataclasses import replace
from fractions import Fraction
from itertools import islice, pairwise

import numpy as np
import pytest

from inference.engine import JobInput
from inference.files.face_source import FaceSource, Framing
from inference.live.avatar import Avatar
from inference.live.session import LiveConfig
from inference.options import Options
from inference.prefetch import StageClock
from preprocessing.errors import UsageError
from tests.inference.live.material import (
    FRAME,
    RATE,
    FakeClock,
    feed,
    frames,
    noise,
    pieces,
    prepared,
    session,
    sound_of,
)
from tests.material import moving_photo, number_of, write_sound, write_video
from wav2lip.lip_motion.streaming import MotionStream
from wav2lip.renderer.inner_mouth import HARDLY_OPEN


def begin(shown: list) -> int:
    """The number of the first frame with sound."""
    return next(number for number, frame in enumerate(shown) if frame.pcm.any())


@pytest.fixture(scope="module")
def rest(engine, portrait) -> np.ndarray:
    """The portrait at rest."""
    return frames(session(engine, portrait), 1)[0].frame


def moved(shown: list, rest: np.ndarray) -> list[bool]:
    return [not np.array_equal(frame.frame, rest) for frame in shown]


def test_with_full_lookahead_every_frame_equals_the_file_pipelines(engine, avatar, video, tmp_path):
    said = np.round(noise(1.2) * 32767).astype(np.int16)
    path = write_sound(tmp_path / "said.wav", said / 32767)
    source = FaceSource(video, Framing())
    job = engine.start(JobInput(source, path, Options(detector="haar"), StageClock()))
    expected = [frame.result for frame in job.render(source.play(30, "bounce"), 30, 4)]
    job.close()
    live = session(engine, avatar, lookahead=np.inf)
    for piece in pieces(said, 700):
        live.push(piece, RATE)
    live.end()
    shown = frames(live, 30)
    assert all(np.array_equal(one.frame, other) for one, other in zip(shown, expected, strict=True))
    assert sum(not np.array_equal(one.frame, two.frame) for one, two in pairwise(shown)) == 29
    np.testing.assert_array_equal(sound_of(shown), (said / 32768).astype(np.float32))


def test_a_mouth_known_hardly_open_is_not_shown(engine, portrait):
    """The teeth are drawn, as for a person of whom no mouth is known."""

    def shown(mouths: list) -> list:
        live = session(engine, replace(portrait, mouths=mouths))
        live.push(noise(1.0), RATE)
        live.end()
        return [frame.frame for frame in frames(live, 25)]

    (smile,) = portrait.mouths
    middle = smile.ring.mean(axis=0)
    low = replace(smile, ring=middle + (smile.ring - middle) * (1, 1.5 / smile.opening), dark=np.full(3, 255.0))
    drawn, known = shown([]), shown([smile])
    assert 1 < low.opening < HARDLY_OPEN < smile.opening
    assert all(np.array_equal(one, other) for one, other in zip(shown([low]), drawn, strict=True))
    assert any(not np.array_equal(one, other) for one, other in zip(known, drawn, strict=True))


def test_without_sound_the_video_plays_forwards_and_backwards_at_the_clocks_pace(engine, avatar):
    clock = FakeClock()
    shown, times = [], []
    for frame in islice(session(engine, avatar, clock).frames(), 40):
        shown.append(number_of(frame.frame))
        times.append(clock.now())
        assert len(frame.pcm) == FRAME
        assert not frame.pcm.any()
    assert shown == [*range(16), *range(14, -1, -1), *range(1, 10)]
    np.testing.assert_allclose(times, np.arange(40) / 25)


@pytest.mark.parametrize("size", [80, 333, 20000])
def test_frames_do_not_depend_on_the_size_of_the_pieces(engine, portrait, size):
    said = noise(1.2)
    shown = {}
    for key in (size, len(said)):
        live = session(engine, portrait)
        for piece in pieces(said, key):
            live.push(piece, RATE)
        live.end()
        shown[key] = frames(live, 45)
    assert all(np.array_equal(one.frame, two.frame) for one, two in zip(*shown.values(), strict=True))
    np.testing.assert_array_equal(*(sound_of(each) for each in shown.values()))


def test_sound_that_arrives_as_it_is_spoken_looks_like_sound_known_before_and_is_late_by_a_third_of_a_second(
    engine, portrait
):
    said = noise(2)
    known = session(engine, portrait)
    known.push(said, RATE)
    expected = frames(known, 40)
    clock = FakeClock()
    live = session(engine, portrait, clock)
    feed(clock, live, said, 80)
    delays, shown = [], []
    for frame in islice(live.frames(), 48):
        shown.append(frame)
        if live.report.heard is not None:
            delays.append(clock.now() - live.report.heard)
    first = begin(shown)
    assert 0.24 <= min(delays) <= max(delays) < 0.33
    for number in range(35):
        assert np.array_equal(shown[first + number].frame, expected[number].frame)
    np.testing.assert_array_equal(sound_of(shown)[first * FRAME :], said[: (48 - first) * FRAME])


def test_44100_hz_in_pieces_is_the_same_sound_and_as_long(engine, portrait):
    time = np.arange(44100) / 44100
    tone = (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    live = session(engine, portrait)
    for piece in pieces(tone, 221):
        live.push(piece, 44100)
    live.end()
    heard = sound_of(frames(live, 27))
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    np.testing.assert_allclose(heard[400:15600], expected[400:15600], atol=2e-3)
    assert not heard[RATE + 5 :].any()


def test_stereo_int16_and_a_change_of_rate_are_one_utterance(engine, portrait):
    live = session(engine, portrait)
    live.push(np.full((1600, 2), 8192, np.int16), RATE)
    live.push(np.full(800, 0.25, np.float32), 8000)
    live.end()
    heard = sound_of(frames(live, 8))
    np.testing.assert_allclose(heard[:1500], 0.25, atol=1e-6)
    assert np.abs(heard[1700:3000] - 0.25).max() < 0.1
    assert not heard[3300:].any()


def test_samples_that_are_not_numbers_become_silence(engine, portrait):
    said = noise(1)
    said[8000::3], said[8001::3], said[8002::3] = np.nan, np.inf, -np.inf
    silent = np.concatenate([said[:8000], np.zeros(8000, np.float32)])
    shown = []
    for samples in (said, silent):
        live = session(engine, portrait)
        live.push(samples, RATE)
        live.end()
        shown.append(frames(live, 30))
    np.testing.assert_array_equal(sound_of(shown[0])[: len(silent)], silent)
    assert all(np.array_equal(one.frame, two.frame) for one, two in zip(*shown, strict=True))


@pytest.mark.parametrize(("pcm", "rate"), [(np.zeros(5, np.int32), 16000), (np.zeros((2, 2, 2)), 16000),
                                           (np.zeros(5), 100), (np.zeros(5), 16000.5), (["a"], 16000)])  # fmt: skip
def test_sound_of_another_kind_is_refused(engine, portrait, pcm, rate):
    with pytest.raises(UsageError):
        session(engine, portrait).push(pcm, rate)


def test_sound_that_stops_in_between_closes_the_mouth_and_none_of_it_is_lost(engine, portrait, rest):
    clock = FakeClock()
    live = session(engine, portrait, clock)
    said = noise(1.6)
    feed(clock, live, said[:RATE], 320)
    feed(clock, live, said[RATE:], 320, start=2.5)
    shown = frames(live, 125)
    heard = sound_of(shown)
    first = begin(shown) * FRAME
    np.testing.assert_array_equal(heard[first : first + RATE], said[:RATE])
    assert not heard[first + RATE : round(2.6 * RATE)].any()
    second = round(2.6 * RATE) + int(np.flatnonzero(heard[round(2.6 * RATE) :])[0])
    np.testing.assert_array_equal(heard[second : second + 9600], said[RATE:])
    moves = moved(shown, rest)
    assert sum(moves[first // FRAME : first // FRAME + 25]) > 20
    assert not any(moves[first // FRAME + 34 : second // FRAME - 1])


def test_a_short_sound_without_an_end_is_spoken_after_a_while(engine, portrait):
    live = session(engine, portrait)
    live.push(noise(0.1), RATE)
    shown = frames(live, 20)
    assert 0.3 <= shown[begin(shown)].timestamp <= 0.4
    np.testing.assert_array_equal(sound_of(shown)[begin(shown) * FRAME :][:1600], noise(0.1))


def test_sound_that_comes_too_fast_is_refused_but_not_lost(engine, portrait):
    live = session(engine, portrait, queue_seconds=2)
    live.push(noise(1.5), RATE, block=False)
    with pytest.raises(queue.Full):
        live.push(noise(1.5, 1), RATE, block=False)
    with pytest.raises(queue.Full):
        live.push(noise(1.5, 1), RATE, timeout=0.01)
    with pytest.raises(UsageError, match="may wait"):
        live.push(noise(3), RATE)
    assert live.waiting() == 1.5
    shown = frames(live, 30)
    live.push(noise(1.5, 1), RATE, block=False)
    shown += frames(live, 50)
    np.testing.assert_array_equal(sound_of(shown)[: 3 * RATE], np.concatenate([noise(1.5), noise(1.5, 1)]))


def test_a_waiting_push_is_released_by_room_and_by_closing(engine, portrait):
    live = session(engine, portrait, queue_seconds=2)
    live.push(noise(2), RATE)
    failed: list[Exception] = []

    def push_twice() -> None:
        live.push(noise(1), RATE)
        try:
            live.push(noise(2), RATE)
        except UsageError as error:
            failed.append(error)

    thread = threading.Thread(target=push_twice)
    thread.start()
    frames(live, 30)
    live.close()
    thread.join(5)
    assert not thread.is_alive()
    assert "closed" in str(failed[0])
    assert frames(live, 1) == []


@pytest.mark.parametrize("stall", [3.0, 0.1])
def test_a_consumer_that_stalls_loses_frames_and_stays_in_sync(engine, avatar, stall):
    clock = FakeClock()
    live = session(engine, avatar, clock)
    said = noise(6)
    live.push(said, RATE)
    shown = []
    for number, frame in enumerate(islice(live.frames(), 30)):
        shown.append(frame)
        assert frame.timestamp == live.report.heard
        np.testing.assert_array_equal(frame.pcm[-FRAME:], said[round(frame.timestamp * RATE) :][:FRAME])
        assert abs(clock.now() - frame.timestamp) <= (0.04 if number == 11 else 1e-9)
        if number == 10:
            clock.time += stall
    dropped = round((shown[11].timestamp - shown[10].timestamp) * 25) - 1
    assert live.report.dropped == dropped
    assert dropped == (74 if stall > 1 else 1)
    assert len(shown[11].pcm) == FRAME * (1 if stall > 1 else 1 + dropped)  # sound is lost only with many frames
    assert number_of(shown[11].frame) == np.array([*range(16), *range(14, 0, -1)])[(11 + dropped) % 30]


def test_after_a_long_stall_only_the_sound_around_the_next_frame_is_predicted(engine, portrait, monkeypatch):
    clock, steps = FakeClock(), []
    original = MotionStream._step
    monkeypatch.setattr(MotionStream, "_step", lambda stream: steps.append(clock.now()) or original(stream))
    live = session(engine, portrait, clock)
    live.push(noise(20), RATE)
    shown = frames(live, 10)
    clock.time += 12
    shown += frames(live, 5)
    assert sum(moment > 10 for moment in steps) <= 12  # of 150 in 12 s
    known = session(engine, portrait)
    known.push(noise(20), RATE)
    expected = {frame.timestamp: frame.frame for frame in frames(known, 320)}
    errors = [np.abs(one.frame.astype(int) - expected[one.timestamp]).mean() for one in shown[11:]]
    others = [np.abs(one.frame.astype(int) - expected[one.timestamp - 1]).mean() for one in shown[11:]]
    assert np.mean(errors) < 0.3 * np.mean(others)


def test_an_interruption_drops_the_rest_and_closes_the_mouth_within_150_ms(engine, portrait, rest):
    clock = FakeClock()
    live = session(engine, portrait, clock)
    live.push(noise(5), RATE)
    clock.at(1.005, live.interrupt)
    clock.at(2.0, lambda: live.push(noise(0.5, 3), RATE))
    shown = frames(live, 80)
    moves = moved(shown, rest)
    assert all(moves[5:25])
    assert not any(moved for frame, moved in zip(shown, moves, strict=True) if 1.155 <= frame.timestamp < 2.0)
    heard = sound_of(shown)
    assert not heard[round(1.095 * RATE) : 2 * RATE].any()  # the frame rendered before, and 10 ms of fading out
    assert live.waiting() == 0
    start = 2 * RATE + int(np.flatnonzero(heard[2 * RATE :])[0])
    np.testing.assert_array_equal(heard[start : start + 8000], noise(0.5, 3))


def test_frames_without_a_face_pass_unchanged_while_the_sound_goes_on(engine, tmp_path):
    pictures = moving_photo(24)
    for number in range(10, 16):
        pictures[number][16:] = 128
    avatar = prepared(engine, write_video(tmp_path / "gone.mp4", pictures))
    live = session(engine, avatar)
    said = noise(1)
    live.push(said, RATE)
    shown = frames(live, 25)
    for number in range(11, 15):
        assert np.array_equal(shown[number].frame, avatar.frames[number])
    assert not np.array_equal(shown[4].frame, avatar.frames[4])
    np.testing.assert_array_equal(sound_of(shown), said)
    avatar.close()


def test_sessions_share_a_person_and_do_not_disturb_each_other(engine, avatar):
    alone = session(engine, avatar)
    alone.push(noise(1), RATE)
    expected = frames(alone, 20)
    one, two = session(engine, avatar), session(engine, avatar)
    one.push(noise(1), RATE)
    two.push(noise(1, 5), RATE)
    shown = [pair[0] for pair in islice(zip(one.frames(), two.frames(), strict=False), 20)]
    assert all(np.array_equal(a.frame, b.frame) for a, b in zip(shown, expected, strict=True))


def test_other_frame_rates_keep_sound_and_picture_together(engine, video):
    source = FaceSource(video, Framing(), fps=Fraction(30000, 1001))
    avatar = Avatar.prepare(engine, source, Options(detector="haar"))
    live = session(engine, avatar)
    live.push(noise(2), RATE)
    shown = frames(live, 60)
    assert abs(len(sound_of(shown)) - 60 * RATE * 1001 / 30000) <= 1
    np.testing.assert_array_equal(sound_of(shown)[: 2 * RATE], noise(2)[: len(sound_of(shown))])
    avatar.close()


@pytest.mark.parametrize("settings", [{"lookahead": -0.1}, {"lookahead": 3}, {"lookahead": np.nan}, {"strength": 2},
                                      {"sample_rate": 10}, {"queue_seconds": 0},
                                      {"lookahead": 2, "queue_seconds": 3}])  # fmt: skip
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(UsageError):
        LiveConfig(**settings)
