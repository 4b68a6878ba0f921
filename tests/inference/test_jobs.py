"""Running jobs: batching, concurrency, cleanup after failures, and memory use."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import cv2
import numpy as np
import pytest

from inference import pipeline
from inference.files.face_source import Framing
from inference.generator import compositing
from inference.generator.face_track_buffer import FaceTrackBuffer
from inference.pipeline import LipSync
from preprocessing.errors import CancelledError
from tests.inference.stub import StubDetector, loud_mouth, stub
from tests.material import moving_photo, pictures_of, write_speech, write_video

pytest_plugins = ["tests.inference.bench"]


# The network --------------------------------------------------------------------------------------------------------


def test_the_size_of_the_batch_changes_nothing(job, media):
    model = LipSync.load(media / "generator.safetensors", "cpu", "torch")
    result = [pictures_of(job(model=model, face=media / "swaying.mp4", batch_size=n).outfile) for n in (1, 8)]
    assert max(np.abs(a.astype(int) - b).max() for a, b in zip(*result, strict=True)) <= 1


def test_batches_are_as_large_as_asked_for_and_the_last_smaller(job):
    sizes = []

    def run(mel, faces):
        assert mel.shape[1:] == (1, 80, 16)
        assert faces.shape[1:] == (6, 96, 96)
        assert not faces[:, :3, 48:].any()
        sizes.append(len(mel))
        return loud_mouth(mel, faces)

    job(model=stub(run), batch_size=6)
    assert sizes == [6, 6, 6, 2]


def run_at_once(*jobs: Callable) -> list:
    """Runs each job in its own thread and returns the results; errors are re-raised."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        return [future.result() for future in [pool.submit(job) for job in jobs]]


def test_two_models_at_once_with_one_output(job, media, tmp_path):
    """Either may finish last; the file is complete, and the same as from a single job."""
    models = [LipSync.load(media / "generator.safetensors", "cpu", "torch") for _ in range(2)]
    single = pictures_of(job(model=models[0], face=media / "swaying.mp4", outfile=tmp_path / "single.mp4").outfile)
    run_at_once(*(partial(job, model=model, face=media / "swaying.mp4", preview=2) for model in models))
    result = pictures_of(tmp_path / "out.mp4")
    assert max(np.abs(a.astype(int) - b).max() for a, b in zip(result, single, strict=True)) <= 1
    assert {p.name for p in tmp_path.iterdir()} == {"single.mp4", "out.mp4", "out.preview.png"}


def test_one_model_computes_for_one_of_its_jobs_at_a_time(job, media, tmp_path):
    running = threading.Lock()

    def run(mel, faces):
        assert running.acquire(blocking=False), "concurrent calls"
        time.sleep(0.02)
        running.release()
        return loud_mouth(mel, faces)

    model, outfiles = stub(run), [tmp_path / "one.mp4", tmp_path / "other.mp4"]
    reports = run_at_once(*(partial(job, model=model, outfile=outfile) for outfile in outfiles))
    assert [report.frames for report in reports] == [len(pictures_of(outfile)) for outfile in outfiles] == [20, 20]


# Failure ------------------------------------------------------------------------------------------------------------


class BreakdownError(Exception):
    """An unexpected error."""


def breaks_at(count: int, real: Callable) -> Callable:
    """Wraps a function so that its `count`-th call fails."""
    calls = []

    def broken(*args, **kwargs):
        calls.append(None)
        if len(calls) == count:
            raise BreakdownError
        return real(*args, **kwargs)

    return broken


STAGES = ["detect", "decode", "generate", "composite", "encode", "progress", "preview", "track"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_failure_anywhere_leaves_no_file_and_no_thread(job, detector, media, tmp_path, monkeypatch, stage):
    failures = {
        "detect": (StubDetector, "__call__", 2), "decode": (Framing, "apply", 25),
        "composite": (compositing, "composite", 6), "encode": (pipeline.VideoWriter, "write", 6),
        "preview": (pipeline.Preview, "save", 1), "track": (FaceTrackBuffer, "track", 1),
    }  # fmt: skip
    options = {"progress": lambda *_: None, "model": stub()}
    if stage in failures:
        owner, name, count = failures[stage]
        monkeypatch.setattr(owner, name, breaks_at(count, getattr(owner, name)))
    elif stage == "progress":
        options["progress"] = breaks_at(6, options["progress"])
    else:
        options["model"] = stub(breaks_at(3, loud_mouth))
    threads, files = set(threading.enumerate()), {p.name for p in tmp_path.iterdir()}
    with pytest.raises(BreakdownError):
        job(
            face=media / "swaying.mp4", detector="auto", batch_size=4, preview=3, save_track=tmp_path / "track.json",
            **options,
        )  # fmt: skip
    assert set(threading.enumerate()) == threads
    assert {p.name for p in tmp_path.iterdir()} == files


def test_unknown_and_wrong_options(job, media, tmp_path):
    with pytest.raises(ValueError, match="unknown option 'color'; known: audio_track, background"):
        job(color="red")
    with pytest.raises(ValueError, match="tail must be one of cut, keep, not 'both'"):
        job(tail="both")
    with pytest.raises(ValueError, match="batch_size must be between 1 and 4096, not 0"):
        job(batch_size=0)
    with pytest.raises(ValueError, match="box must be four integers"):
        job(box=(1, 2, 3))
    assert not (tmp_path / "out.mp4").exists()


# Memory -------------------------------------------------------------------------------------------------------------


def test_a_bounded_number_of_frames_is_alive(job, detector, tmp_path, monkeypatch):
    """Frames are counted where they enter the pipeline, while its last stage stalls so that all queues fill up."""
    monkeypatch.setattr(pipeline, "QUEUE_BYTES", 1)  # the shortest possible queues
    video = write_video(tmp_path / "in.mp4", [cv2.resize(p, (96, 96)) for p in moving_photo(40)] * 5)
    lock, alive, most = threading.Lock(), 0, 0
    real = Framing.apply

    def released() -> None:
        nonlocal alive
        with lock:
            alive -= 1

    def counted(self, frame):
        nonlocal alive, most
        image = real(self, frame).copy()
        with lock:
            alive += 1
            most = max(most, alive)
        weakref.finalize(image, released)
        return image

    monkeypatch.setattr(Framing, "apply", counted)
    report = job(
        face=video, audio=write_speech(tmp_path / "s.wav", 8), detector="auto", crf=40,
        progress=lambda done, _: time.sleep(0.4 if done in (20, 100) else 0),
    )  # fmt: skip
    assert report.frames == 200
    assert 5 <= most <= 30


# Cancelling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", [1, 12, 27])
def test_a_cancelled_job_stops_and_leaves_nothing(job, detector, media, tmp_path, when):
    """Cancelled at the first frame, later, and at the end of the 30 frames."""
    asked = []

    def cancelled() -> bool:
        asked.append(None)
        return len(asked) >= when

    threads = set(threading.enumerate())
    with pytest.raises(CancelledError, match="cancelled"):
        job(face=media / "swaying.mp4", detector="auto", tail="keep", cancelled=cancelled)
    assert len(asked) == when
    assert set(threading.enumerate()) == threads
    assert list(tmp_path.iterdir()) == []
