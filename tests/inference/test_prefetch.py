"""Prefetching in threads, and face tracks that are read while they are computed."""

import threading
import time

import numpy as np
import pytest

from inference.generator.face_track_buffer import FADE, FaceTrackBuffer, constant_track, loaded_track
from inference.prefetch import Prefetcher, StageClock
from preprocessing.faces.face_track import FaceTrack, TrackedFace


def face(index: int, found: bool = True, shot: int = 0) -> TrackedFace:
    value = 1.0 if found else np.nan
    box = np.array([1, 1, 2, 2], np.float32)
    return TrackedFace(index, value * box, np.full((5, 2), value, np.float32), found, shot)


def test_order_is_kept_and_depth_is_bounded():
    produced: list[int] = []

    def items():
        for k in range(50):
            produced.append(k)
            yield k

    prefetcher = Prefetcher(items(), 3)
    time.sleep(0.3)
    assert len(produced) <= 5  # three queued, one being put, one being produced
    assert list(prefetcher) == list(range(50))


def test_an_error_comes_where_its_item_would_have_come():
    def items():
        yield 1
        raise OSError("broken")

    prefetcher = Prefetcher(items(), 4)
    assert next(prefetcher) == 1
    with pytest.raises(OSError, match="broken"):
        next(prefetcher)


def test_closing_ends_the_thread_and_the_generator():
    closed = threading.Event()

    def items():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    prefetcher = Prefetcher(items(), 2)
    assert next(prefetcher) == 0
    prefetcher.close()
    assert closed.is_set()
    assert not prefetcher._thread.is_alive()


def test_clock_counts_the_making_of_items():
    clock = StageClock()

    def items():
        for k in range(3):
            time.sleep(0.02)
            yield k

    for _ in clock.iterate("make", items()):
        time.sleep(0.05)
    assert 0.06 <= clock.seconds["make"] < 0.15


def test_asking_waits_for_the_tracker():
    gate = threading.Event()

    def faces():
        yield face(0)
        gate.wait()
        yield face(1)

    buffer = FaceTrackBuffer(faces(), (8, 8))
    assert buffer.face(0).index == 0
    threading.Timer(0.1, gate.set).start()
    assert buffer.face(1).index == 1
    assert buffer.face(2) is None
    assert len(buffer.track()) == 2


def test_nested_stages_are_timed_apart_and_cpu_seconds_only_when_asked(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("inference.prefetch.time.perf_counter", lambda: now[0])
    monkeypatch.setattr("inference.prefetch.time.process_time", lambda: now[0] / 2)

    def passes(seconds):
        now[0] += seconds

    for profile in (False, True):
        clock = StageClock(profile)
        with clock("outer"):
            passes(1)
            for _ in clock.iterate("inner", (passes(10) for _ in range(5))):
                passes(100)
            assert clock.timed("call", lambda x, *, y: passes(1000) or x + y)(1, y=2) == 3
            passes(1)
        assert clock.seconds == {"outer": 502, "inner": 50, "call": 1000}
        assert clock.cpu == ({"outer": 251, "inner": 25, "call": 500} if profile else {})


def test_when_profiling_items_come_from_the_consumers_thread_and_are_closed():
    closed = []

    def items():
        try:
            while True:
                yield threading.get_ident()
        finally:
            closed.append(True)

    for profile in (False, True):
        found = StageClock(profile).prefetched(items(), 2)
        assert (next(found) == threading.get_ident()) == profile
        found.close()
    assert closed == [True, True]


def test_the_trackers_error_is_raised_where_it_is_asked_for():
    def faces():
        yield face(0)
        raise ValueError("no detector")

    buffer = FaceTrackBuffer(faces(), (8, 8))
    assert buffer.face(0).found
    with pytest.raises(ValueError, match="no detector"):
        buffer.face(1)


def test_first_found_and_none():
    assert FaceTrackBuffer(iter([face(0, False), face(1)]), (8, 8)).first_found().index == 1
    assert FaceTrackBuffer(iter([face(0, False), face(1, False)]), (8, 8)).first_found() is None


def test_presence_fades_within_a_shot_and_not_at_a_cut():
    faces = [face(k) for k in range(8)] + [face(8, False)] + [face(9 + k, shot=1) for k in range(4)]
    buffer = FaceTrackBuffer(iter(faces), (8, 8))
    assert [buffer.presence(k) for k in range(13)] == [1, 1, 1, 1, 1, 3 / FADE, 2 / FADE, 1 / FADE, 0, 1, 1, 1, 1]


def test_constant_box_is_top_bottom_left_right():
    first = next(constant_track((10, 60, 20, 80), 3))
    assert first.box.tolist() == [20, 10, 80, 60]
    assert first.found


def test_a_saved_path_comes_back_and_a_foreign_one_is_refused(tmp_path):
    buffer = FaceTrackBuffer(iter([face(0), face(1, False), face(2)]), (64, 48))
    buffer.track().save(tmp_path / "track.json")
    loaded = list(loaded_track(tmp_path / "track.json", (64, 48), 3))
    assert [f.found for f in loaded] == [True, False, True]
    with pytest.raises(ValueError, match="64x48"):
        loaded_track(tmp_path / "track.json", (32, 48), 3)
    with pytest.raises(ValueError, match="has 3 frames, but 9"):
        loaded_track(tmp_path / "track.json", (64, 48), 9)
    assert isinstance(FaceTrack.load(tmp_path / "track.json"), FaceTrack)
