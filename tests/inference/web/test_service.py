"""The service as processes: progress, ranges, cancellation, killed workers, a killed service, old jobs."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import pytest

from inference.options import Options
from inference.web.command import main, parser, settings_of
from tests.inference.web.conftest import WAIT, Server, server

SLOW, STUCK, FAILING = '{"strength": 1.5}', '{"strength": 0.5}', '{"strength": 0.25}'


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with server(tmp_path_factory.mktemp("service")) as running:
        yield running


def data(served: Server) -> Path:
    return Path(served.log.name).parent / "data"


def worker_pid(served: Server) -> int:
    """The process id of the worker, once it is ready."""
    limit = time.monotonic() + WAIT
    while time.monotonic() < limit:
        with sqlite3.connect(data(served) / "queue.sqlite3") as db:
            row = db.execute("SELECT pid FROM workers WHERE state = 'ready'").fetchone()
        if row:
            return row[0]
        time.sleep(0.05)
    raise AssertionError(f"no worker: {served.log_text()}")


@contextmanager
def hurried(served: Server) -> Iterator[None]:
    """Slow jobs of the service are slow no more."""
    served.hurry.touch()
    yield
    served.hurry.unlink()


def left(served: Server, job_id: str) -> bool:
    """Whether any file of a job is there, after a moment in which it may be deleted."""
    folder = data(served) / "jobs" / job_id
    limit = time.monotonic() + 5
    while folder.exists() and time.monotonic() < limit:
        time.sleep(0.05)
    return folder.exists()


def test_a_job_from_upload_to_download(served, inputs):
    job_id = served.submit(inputs)
    with served.api.stream("GET", f"/jobs/{job_id}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: ")]
    assert events[-1]["state"] == "done"
    assert [e["progress"] for e in events] == sorted(e["progress"] for e in events)
    assert events[-1]["report"]["frames"] == 50
    whole = served.api.get(f"/jobs/{job_id}/result")
    assert whole.headers["content-type"] == "video/mp4"
    part = served.api.get(f"/jobs/{job_id}/result", headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, whole.content[100:200])
    assert part.headers["content-range"] == f"bytes 100-199/{len(whole.content)}"
    assert served.api.get(f"/jobs/{job_id}/result", headers={"Range": "bytes=99999999-"}).status_code == 416
    original = served.api.get(f"/jobs/{job_id}/original")
    assert original.content == (inputs / "face.png").read_bytes()
    assert original.headers["content-type"] == "image/png"
    assert served.api.delete(f"/jobs/{job_id}").json() is None
    assert served.api.get(f"/jobs/{job_id}/result").status_code == 404
    assert not left(served, job_id)


def test_a_failed_job_tells_why_and_keeps_nothing(served, inputs):
    job = served.until(served.submit(inputs, options=FAILING), "failed")
    assert job["error"]["detail"] == "face shows no face in any frame"
    assert not left(served, job["id"])
    assert served.api.get(f"/jobs/{job['id']}/result").status_code == 409


def test_cancelling_stops_the_work(served, inputs):
    job_id = served.submit(inputs, options=SLOW)
    served.until(job_id, "running", progress=0.02)
    assert served.api.delete(f"/jobs/{job_id}").json()["state"] == "cancelling"
    begin = time.monotonic()
    served.until(job_id, "cancelled")
    assert time.monotonic() - begin < 8, "the rest would have taken ten seconds"
    assert not left(served, job_id)
    assert not list((data(served) / "tmp").iterdir())


def test_a_killed_worker_is_replaced_and_its_job_runs_again(served, inputs):
    job_id = served.submit(inputs, options=SLOW)
    waiting = served.submit(inputs)
    served.until(job_id, "running", progress=0.02)
    os.kill(worker_pid(served), signal.SIGKILL)
    with hurried(served):
        assert served.until(waiting, "done")["finished"] >= served.until(job_id, "done")["finished"]
    with sqlite3.connect(data(served) / "queue.sqlite3") as db:
        assert db.execute("SELECT attempts FROM jobs WHERE id = ?", (job_id,)).fetchone() == (2,)


def test_a_job_that_ignores_its_cancellation_is_stopped_by_force(served, inputs):
    job_id = served.submit(inputs, options=STUCK)
    served.until(job_id, "running", progress=0.02)
    before = worker_pid(served)
    served.api.delete(f"/jobs/{job_id}")
    served.until(job_id, "cancelled")
    assert not left(served, job_id)
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)


def test_a_second_service_is_kept_out_of_the_folder(served, capsys):
    assert main(["--data", str(data(served)), "--port", "0"]) == 1
    assert "another service uses" in capsys.readouterr().err


def test_the_log_has_no_word_of_a_client(served, inputs):
    text = served.log_text()
    assert "face.png" not in text
    assert "strength" not in text


def test_a_killed_service_goes_on_where_it_was(tmp_path, inputs):
    with server(tmp_path) as first:
        running, waiting = first.submit(inputs, options=SLOW), first.submit(inputs)
        first.until(running, "running", progress=0.02)
        worker = worker_pid(first)
        first.kill()
    limit = time.monotonic() + WAIT
    while Path(f"/proc/{worker}").exists() and time.monotonic() < limit:
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}").exists(), "the worker ended with the service"
    with server(tmp_path) as second, hurried(second):
        assert second.until(running, "done")["report"]["frames"] == 50
        second.until(waiting, "done")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--host", "0.0.0.0"], "set a --token or WAV2LIP_TOKEN"),
        (["--port", "70000"], "port must be between 0 and 65535"),
        (["--device", "cuda:0,tpu"], "device must be auto"),
        (["--yunet", "no such file"], "--yunet: there is no file no such file"),
        (["--sign-cert", "nothing.pem"], "--sign-cert: there is no file nothing.pem"),
        (["--detector", "sfd"], "pass them with --s3fd"),
        (["--max-queue", "0"], "queue must be at least 1"),
        (["--nonsense"], "unrecognized arguments"),
    ],
)
def test_wrong_flags(flags, message, capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("WAV2LIP_TOKEN", raising=False)
    try:
        code = main(["--data", str(tmp_path / "data"), *flags])
    except SystemExit as error:
        code = error.code
    printed = capsys.readouterr()
    assert code == 2
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_flags_that_belong_to_the_service_reach_every_job(tmp_path, monkeypatch):
    pytest.importorskip("c2pa", reason="the extra provenance is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    settings = settings_of(vars(parser().parse_args(["--sign", "--max-queue", "3"])))
    assert settings.engine.options == {"sign": True, "detector": "center"}
    assert settings.limits.queue == 3
    assert Options.of(settings.engine.options).sign


def test_a_video_of_the_service_plays(served, inputs, tmp_path):
    job_id = served.submit(inputs)
    served.until(job_id, "done")
    (tmp_path / "out.mp4").write_bytes(served.api.get(f"/jobs/{job_id}/result").content)
    with av.open(str(tmp_path / "out.mp4")) as video:
        assert {stream.type for stream in video.streams} == {"video", "audio"}
