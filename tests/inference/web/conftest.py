"""Fixtures of the service's tests. Its packages are an extra; without them these tests are skipped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

pytest.importorskip("fastapi", reason="the extra web is not installed: pip install -r requirements-web.txt")

import httpx2
from fastapi.testclient import TestClient

from inference.web.api.app import make_app
from inference.web.settings import Limits, ServiceSettings
from tests.material import moving_photo, write_photo, write_speech, write_video

WAIT = 60.0  # seconds that anything may take on a busy machine


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Path:
    """A folder with face.png, face.mp4 (2 s, with sound) and speech.wav (2 s)."""
    folder = tmp_path_factory.mktemp("inputs")
    write_photo(folder / "face.png")
    write_speech(folder / "speech.wav", 2.0)
    write_video(folder / "face.mp4", moving_photo(48), sound=folder / "speech.wav")
    return folder


@pytest.fixture
def client(tmp_path) -> TestClient:
    """The service in this process, without workers: jobs stay in the queue."""
    return local(tmp_path)


def local(folder: Path, token: str | None = None, **limits: float) -> TestClient:
    """A client of a service in this process with some limits and no workers; files lie under `folder`/data."""
    settings = ServiceSettings(folder / "data", token=token, limits=Limits(**limits))
    app = make_app(settings, None)
    return TestClient(app, base_url="http://127.0.0.1:7860", raise_server_exceptions=False)


def job_form(inputs: Path, face: str = "face.png", **fields: str) -> dict:
    """Arguments of a POST of a valid job."""
    files = {"face": (face, (inputs / face).read_bytes()), "audio": ("a.wav", (inputs / "speech.wav").read_bytes())}
    return {"files": files, "data": fields}


class Server:
    """A service in a process of its own, with the stub engine."""

    def __init__(self, data: Path, *flags: str, stub: str = "stub_service") -> None:
        command = [sys.executable, "-m", f"tests.inference.web.{stub}", "--data", data, "--port", "0", *flags]
        self.hurry = data.parent / "hurry"  # once it exists, the stub's slow jobs are quick
        environment = os.environ | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(data.parent / "no cache")}
        environment |= {"STUB_HURRY": str(self.hurry)}
        self.log = open(data.parent / "log.txt", "a+")  # noqa: SIM115  closed by stop()
        self.process = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("Serving on http"), self.log_text()
        self.url = line.split()[2]
        self.api = httpx2.Client(base_url=f"{self.url}/api", timeout=WAIT)

    def log_text(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def submit(self, inputs: Path, **fields: str) -> str:
        """Sends a job; returns its id."""
        reply = self.api.post("/jobs", **job_form(inputs, **fields))
        assert reply.status_code == 201, reply.text
        return reply.json()["id"]

    def until(self, job_id: str, *states: str, progress: float = 0.0) -> dict:
        """Waits for a job to be in one of the states, with at least this progress."""
        limit = time.monotonic() + WAIT
        while time.monotonic() < limit:
            job = self.api.get(f"/jobs/{job_id}").json()
            if job["state"] in states and job["progress"] >= progress:
                return job
            assert job["state"] in ("queued", "running", "cancelling"), job
            time.sleep(0.05)
        raise AssertionError(f"job {job_id} is {job}; log: {self.log_text()}")

    def kill(self) -> None:
        """Kills the service as if the machine had lost power; its workers end by themselves."""
        self.process.kill()
        self._close()

    def stop(self) -> None:
        """Stops the service as Ctrl-C does."""
        self.process.send_signal(signal.SIGTERM)
        self._close()

    def _close(self) -> None:
        self.process.wait(30)
        self.api.close()
        self.process.stdout.close()
        self.log.close()


@contextmanager
def server(folder: Path, *flags: str, stub: str = "stub_service") -> Iterator[Server]:
    """A service whose data lie in `folder`/data; stopped at the end."""
    running = Server(folder / "data", *flags, stub=stub)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.stop()
