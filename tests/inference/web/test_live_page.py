"""The live page in Chromium, with a microphone that plays a file: frames and sound arrive, and arrive together."""

from __future__ import annotations

import base64
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import httpx2
import numpy as np
import pytest

from tests.inference.web.conftest import Server, server
from tests.material import write_photo, write_speech

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if BROWSER is None:
    pytest.skip("no Chromium: tests/browser.sh installs it", allow_module_level=True)
pytest.importorskip("websockets", reason="the extra web is not installed: pip install -r requirements-web.txt")
pytest.importorskip("aiortc", reason="the extra web is not installed: pip install -r requirements-web.txt")
TIMEOUT = 90.0  # seconds, on a busy machine
FRAME = 0.04  # seconds
RECORD = """async (seconds) => {
  const recorder = new MediaRecorder(document.getElementById("video").srcObject), parts = [];
  recorder.ondataavailable = ({ data }) => parts.push(data);
  const done = new Promise((resolve) => { recorder.onstop = resolve; });
  recorder.start();
  setTimeout(() => recorder.stop(), 1000 * seconds);
  await done;
  const bytes = new Uint8Array(await new Blob(parts).arrayBuffer());
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}"""


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("live")
    (folder / "people").mkdir()
    for name in ("anna", "flash"):
        write_photo(folder / "people" / f"{name}.png")
    flags = ("--avatars", str(folder / "people"), "--detector", "haar", "--max-live", "1")
    with server(folder, *flags, stub="stub_live") as running:
        yield running


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[playwright.Browser]:
    sound = write_speech(tmp_path_factory.mktemp("said") / "said.wav", 5.0)
    flags = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
             f"--use-file-for-fake-audio-capture={sound}", "--autoplay-policy=no-user-gesture-required"]  # fmt: skip
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=BROWSER, args=flags)
        yield running
        running.close()


@pytest.fixture
def page(browser, served) -> Iterator[playwright.Page]:
    """A tab; whatever happens in it, its session is free at the end."""
    context = browser.new_context(permissions=["microphone"])
    context.set_default_timeout(1000 * TIMEOUT)
    tab, errors = context.new_page(), []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    yield tab
    context.close()
    until(lambda: free(served) == 1)
    assert errors == []


def until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.1)


def free(served: Server) -> int:
    return httpx2.get(f"{served.url}/api/live", timeout=TIMEOUT).json()["free"]


def begin(page: playwright.Page, address: str, person: str) -> None:
    page.goto(address)
    page.select_option("#avatar", person)
    page.click("#start")
    page.wait_for_selector("#stage:not([hidden])")


def recorded(page: playwright.Page, path: Path, seconds: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the page receives: times of its frames, their mean gray, and its sound from time 0 at 48 kHz."""
    path.write_bytes(base64.b64decode(page.evaluate(RECORD, seconds)))
    times, gray, sound = [], [], np.zeros(round(48000 * (seconds + 2)), np.float32)
    with av.open(str(path)) as file:
        for frame in file.decode(audio=0, video=0):
            if isinstance(frame, av.VideoFrame):
                times.append(frame.time)
                gray.append(frame.to_ndarray(format="gray").mean())
            else:
                samples, first = frame.to_ndarray()[0], round(frame.time * 48000)
                sound[first : first + len(samples)] = samples[: max(0, len(sound) - first)]
    return np.array(times), np.array(gray), sound


def test_the_face_speaks_what_the_microphone_hears_and_closing_the_tab_frees_the_session(page, served, tmp_path):
    begin(page, f"{served.url}/live", "anna.png")
    assert free(served) == 0
    page.click("#microphone")
    page.wait_for_timeout(500)
    times, gray, sound = recorded(page, tmp_path / "seen.webm", 2.0)
    assert len(times) > 10
    assert gray.max() > 20
    assert np.abs(sound).max() > 0.02
    page.close()
    until(lambda: free(served) == 1)


def test_picture_and_sound_arrive_together_from_the_start(page, served, tmp_path):
    """On a busy machine the browser may at times need some seconds to align the two; then it is tried again."""
    seen: list[list[float]] = []

    def aligned() -> bool:
        begin(page, f"{served.url}/live", "flash.png")
        seen.append(offsets(*recorded(page, tmp_path / "seen.webm", 4.5)))
        page.click("#stop")
        until(lambda: free(served) == 1)
        return len(seen[-1]) >= 3 and bool(np.abs(seen[-1]).max() <= FRAME)

    until(aligned)


def offsets(times: np.ndarray, gray: np.ndarray, sound: np.ndarray) -> list[float]:
    """Seconds by which each flash follows the nearest tone; one at the end may have lost its tone."""
    flashes = times[1:][(gray[1:] > 128) & (gray[:-1] <= 128) & (times[1:] < times[-1] - 0.3)]
    loud = np.convolve(np.abs(sound), np.full(240, 1 / 240), "same") > 0.1
    tones = np.flatnonzero(loud[1:] & ~loud[:-1]) / 48000
    return [float(flash - tones[np.abs(tones - flash).argmin()]) for flash in flashes] if len(tones) else []


def test_without_webrtc_the_page_uses_a_socket(page, served):
    begin(page, f"{served.url}/live#socket", "anna.png")
    page.click("#microphone")
    until(lambda: page.evaluate("() => livePlayer.heard") > 0)
    until(lambda: page.evaluate("() => livePlayer.shown") > 5)
    pixels = page.evaluate("() => [...picture.getContext('2d').getImageData(80, 80, 1, 1).data]")
    assert sum(pixels[:3]) > 0
    page.click("#stop")
    until(lambda: free(served) == 1)
