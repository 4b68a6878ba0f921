"""The live page in Chromium, with a microphone that plays a file: frames and sound arrive together."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.inference.web.conftest import Server, server
from tests.material import write_photo, write_speech

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if BROWSER is None:
    pytest.skip("no Chromium: tests/browser.sh installs it", allow_module_level=True)
pytest.importorskip("websockets", reason="the extra web is not installed: pip install -r requirements-web.txt")
TIMEOUT = 90.0  # seconds, on a busy machine


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("live")
    (folder / "people").mkdir()
    write_photo(folder / "people" / "anna.png")
    with server(folder, "--avatars", str(folder / "people"), "--detector", "haar", "--max-live", "1") as running:
        yield running


@pytest.fixture
def page(tmp_path, served) -> Iterator[playwright.Page]:
    sound = write_speech(tmp_path / "said.wav", 5.0)
    flags = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
             f"--use-file-for-fake-audio-capture={sound}", "--autoplay-policy=no-user-gesture-required"]  # fmt: skip
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=flags)
        tab = browser.new_context(permissions=["microphone"]).new_page()
        tab.set_default_timeout(1000 * TIMEOUT)
        tab.on("pageerror", lambda error: pytest.fail(str(error)))
        tab.goto(f"{served.url}/live")
        yield tab
        browser.close()


def until(condition) -> None:
    limit = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.1)


def free(served: Server) -> int:
    return httpx2.get(f"{served.url}/api/live", timeout=TIMEOUT).json()["free"]


def test_the_face_speaks_what_the_microphone_hears_and_closing_the_tab_frees_the_session(page, served, tmp_path: Path):
    page.click("#start")
    page.wait_for_selector("#stage:not([hidden])")
    assert free(served) == 0
    page.click("#microphone")
    until(lambda: page.evaluate("() => liveState.heard") > 0)
    until(lambda: page.evaluate("() => liveState.shown") > 5)
    assert abs(page.evaluate("() => liveState.offset")) < 1  # of the last drawn frame; a busy machine draws late
    pixels = page.evaluate("() => [...picture.getContext('2d').getImageData(80, 80, 1, 1).data]")
    assert sum(pixels[:3]) > 0
    page.close()
    until(lambda: free(served) == 1)
