"""Live sessions over a WebSocket: sound comes back with frames, and every limit holds."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

import inference.web.live.host as hosting
from inference.pipeline import LipSync
from inference.web.api.app import make_app
from inference.web.live.conversation import HEADER
from inference.web.live.tts import speak
from inference.web.settings import LiveSettings, ServiceSettings
from preprocessing.errors import MediaError, UsageError
from tests.inference.live.material import RATE, noise, small_engine
from tests.material import write_photo

TTS = "import sys, wave; w = wave.open(sys.stdout.buffer, 'wb'); w.setparams((1, 2, 16000, 0, 'NONE', '')); \
w.writeframes(bytes([0, 32]) * 400 * len(sys.stdin.read()))"


@pytest.fixture(scope="module")
def engine():
    return small_engine()


@pytest.fixture
def people(tmp_path) -> Path:
    folder = tmp_path / "people"
    folder.mkdir()
    write_photo(folder / "anna ä.png")
    (folder / "notes.txt").write_text("x")
    return folder


def served(engine, people: Path, monkeypatch, token: str | None = None, **live: object) -> TestClient:
    monkeypatch.setattr(hosting.LipSync, "load", lambda: LipSync(engine))
    settings = ServiceSettings(people.parent / "data", token=token, live=LiveSettings(people, **live))
    app = make_app(settings, None)
    app._app.state.live._options = {"detector": "haar"}
    return TestClient(app, base_url="http://127.0.0.1:7860")


@pytest.fixture
def client(engine, people, monkeypatch) -> Iterator[TestClient]:
    with served(engine, people, monkeypatch, sessions=1) as made:
        yield made


ADDRESS = "/api/live/anna%20%C3%A4.png?rate=16000"


def connect(client: TestClient, address: str, **headers: str) -> WebSocketTestSession:
    return client.websocket_connect(address, headers={"host": "127.0.0.1:7860"} | headers)


def unpacked(message: bytes) -> tuple[float, bytes, np.ndarray]:
    moment, size = HEADER.unpack_from(message)
    return moment, message[HEADER.size : HEADER.size + size], np.frombuffer(message[HEADER.size + size :], "<i2")


def heard(socket, seconds: float) -> tuple[list[float], np.ndarray]:
    """Times of frames and all sound, until the frame at `seconds`."""
    times, sound = [0.0], []
    while times[-1] < seconds:
        moment, picture, samples = unpacked(socket.receive_bytes())
        assert picture.startswith(b"\xff\xd8")
        times.append(moment)
        sound.append(samples)
    return times, np.concatenate(sound)


def test_sound_comes_back_with_frames_and_leaving_frees_the_session(client):
    assert client.get("/api/live").json() == {"avatars": ["anna ä.png"], "tts": False, "sessions": 1, "free": 1}
    said = np.round(noise(0.5) * 32767).astype("<i2")
    with connect(client, ADDRESS) as socket:
        ready = socket.receive_json()
        assert (ready["width"], ready["height"], ready["rate"], ready["fps"]) == (160, 160, RATE, 25.0)
        for first in range(0, len(said), 320):
            socket.send_bytes(said[first : first + 320].tobytes())
        socket.send_text('{"type": "end"}')
        socket.send_bytes(b"odd")
        times, sound = [], []
        while True:
            message = socket.receive()
            if message.get("text"):
                assert "16-bit" in json.loads(message["text"])["detail"]
                continue
            moment, _, samples = unpacked(message["bytes"])
            times.append(moment)
            sound.append(samples)
            if len(np.flatnonzero(np.concatenate(sound))) > 7000 and not samples.any():
                break
        every = np.concatenate(sound)
        first = int(np.flatnonzero(every)[0])
        expected = said[np.flatnonzero(said)[0] :].astype(int)
        assert np.abs(every[first : first + len(expected)] - expected).max() <= 1
        assert client.get("/api/live").json()["free"] == 0
    limit = time.monotonic() + 20
    while client.get("/api/live").json()["free"] == 0 and time.monotonic() < limit:
        time.sleep(0.05)
    assert client.get("/api/live").json()["free"] == 1


def closed(client: TestClient, address: str, **headers: str) -> int:
    """The code with which the service ends a session at once."""
    try:
        with connect(client, address, **headers) as socket:
            socket.receive_json()
    except WebSocketDisconnect as error:
        return error.code
    return 0


def test_a_second_session_waits_and_only_people_of_the_folder_are_shown(client):
    with connect(client, ADDRESS) as socket:
        socket.receive_json()
        assert closed(client, ADDRESS) == 1013
    assert closed(client, "/api/live/notes.txt") == 1008


OFFER = "v=0\r\na=mid:0\r\na=candidate:1 1 udp 2113937151 0b6c-9d.local 50000 typ host generation 0\r\n"


def test_a_bad_offer_is_refused_and_holds_no_session(client):
    pytest.importorskip("aiortc", reason="the extra web is not installed: pip install -r requirements-web.txt")
    for avatar, sdp, status in (("notes.txt", OFFER, 404), ("anna ä.png", OFFER, 400), ("anna ä.png", "x", 400)):
        reply = client.post("/api/live/offer", json={"avatar": avatar, "sdp": sdp})
        assert (reply.status_code, reply.headers["content-type"]) == (status, "application/problem+json"), reply.text
        assert client.get("/api/live").json()["free"] == 1
    with connect(client, ADDRESS) as socket:
        socket.receive_json()
        assert client.post("/api/live/offer", json={"avatar": "anna ä.png", "sdp": OFFER}).status_code == 503
    other = client.post("/api/live/offer", json={}, headers={"origin": "http://evil.example"})
    assert other.status_code == 403


def test_no_name_of_an_offer_is_looked_up():
    peer = pytest.importorskip("inference.web.live.peer", reason="aiortc is not installed", exc_type=ImportError)
    assert " 192.0.2.7 50000 typ host" in peer.without_names(OFFER, "192.0.2.7")
    assert ".local" not in peer.without_names(OFFER, "192.0.2.7")
    kept = OFFER.replace("0b6c-9d.local", "192.0.2.9")
    assert peer.without_names(kept, "192.0.2.7") == kept
    assert "192.0.2.7 9 typ host" in peer.without_names("v=0\r\na=mid:0\r\n", "192.0.2.7")


@pytest.mark.parametrize("headers", [{"origin": "http://evil.example"}, {"host": "evil.example"},
                                     {"sec-fetch-site": "cross-site"}])  # fmt: skip
def test_other_sites_open_no_socket(client, headers):
    assert closed(client, ADDRESS, **headers) == 1008


def test_without_the_token_no_socket_is_opened(engine, people, monkeypatch):
    token = "0123456789abcdef"
    with served(engine, people, monkeypatch, token) as client:
        assert closed(client, ADDRESS) == 1008
        with connect(client, ADDRESS, authorization=f"Bearer {token}") as socket:
            assert socket.receive_json()["type"] == "ready"


def test_an_idle_client_and_a_long_session_are_ended(engine, people, monkeypatch):
    with served(engine, people, monkeypatch, idle=1) as client, connect(client, ADDRESS) as socket:
        socket.receive_json()
        with pytest.raises(WebSocketDisconnect):
            heard(socket, 60)


def test_a_text_is_spoken_by_the_program_and_refused_without_one(engine, people, monkeypatch):
    tts = (sys.executable, "-c", TTS)
    with served(engine, people, monkeypatch, tts=tts) as client, connect(client, ADDRESS) as socket:
        socket.receive_json()
        socket.send_text('{"type": "say", "text": "hello; $(reboot)"}')
        sound, limit = 0, time.monotonic() + 30
        while sound < 400 * 16 * 0.9 and time.monotonic() < limit:
            sound += int((unpacked(socket.receive_bytes())[2] > 8000).sum())
        assert 400 * 16 * 0.9 <= sound <= 400 * 16 * 1.1


@pytest.mark.parametrize("command", [["no such program"], [sys.executable, "-c", "print('no sound')"],
                                     [sys.executable, "-c", "raise SystemExit(3)"]])  # fmt: skip
def test_a_program_that_fails_is_a_problem(command):
    with pytest.raises(MediaError):
        speak(command, "hello")


def test_settings_that_contradict_each_other_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no folder"):
        LiveSettings(tmp_path / "none")
    with pytest.raises(UsageError, match="add --avatars"):
        LiveSettings(tts=("espeak-ng",))
    with pytest.raises(UsageError, match="at least"):
        LiveSettings(sessions=0)
