"""The page in a real browser, Debian's Chromium: every door a user takes, without a request to any other host."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from tests.inference.web.conftest import Server, server
from tests.material import photo, write_video

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if BROWSER is None:
    pytest.skip("no Chromium: tests/browser.sh installs it", allow_module_level=True)

Page, expect = playwright.Page, playwright.expect
TIMEOUT = 60_000  # milliseconds, on a busy machine
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1100, "height": 900}


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("service"), "--max-upload", "5") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    flags = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(
            executable_path=BROWSER, args=[*flags, "--autoplay-policy=no-user-gesture-required"]
        )
        yield running
        running.close()


@pytest.fixture
def page(browser, served) -> Iterator[Page]:
    """The page; the test fails if it asks another host for anything, or if the browser reports an error."""
    context = browser.new_context(viewport=DESKTOP, permissions=["microphone"])
    context.set_default_timeout(TIMEOUT)
    expect.set_options(timeout=TIMEOUT)
    tab, asked, complaints = context.new_page(), [], []
    context.on("request", lambda request: asked.append(request.url))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    tab.goto(served.url)
    yield tab
    context.close()
    assert asked
    assert [url for url in asked if not url.startswith((served.url, "blob:", "data:"))] == []
    refused = "Failed to load resource: the server responded with a status of"  # a tested refusal
    assert [text for text in complaints if not text.startswith(refused)] == []


@pytest.fixture(scope="module")
def two_people(tmp_path_factory, inputs) -> Path:
    """A video, 0.8 s, of a face and its mirror image side by side."""
    import numpy as np

    frame = np.hstack([photo(), photo()[:, ::-1]])
    return write_video(tmp_path_factory.mktemp("two") / "two.mp4", [np.ascontiguousarray(frame)] * 20)


def give(page: Page, face: Path, audio: Path) -> None:
    """Chooses both files and waits for the service to look at the face."""
    page.set_input_files("#face", face)
    page.set_input_files("#audio", audio)
    expect(page.locator("#go")).to_be_enabled()


def wait(page: Page, condition: str) -> None:
    """Waits for a JavaScript expression to be true. Playwright's own way evaluates a string, which the page forbids."""
    limit = time.monotonic() + TIMEOUT / 1000
    while not page.evaluate(condition):
        assert time.monotonic() < limit, condition
        page.wait_for_timeout(50)


def serious_faults(page: Page) -> list[str]:
    """What axe-core finds wrong, of serious or critical impact, in what is shown now."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found = axe.Axe().run(page).response["violations"]
    return [f"{item['id']}: {item['nodes'][0]['html']}" for item in found if item["impact"] in ("serious", "critical")]


def test_from_two_files_to_a_download(page, served, two_people, inputs, tmp_path):
    expect(page.locator("#go")).to_be_disabled()
    assert serious_faults(page) == []
    give(page, two_people, inputs / "speech.wav")
    people = page.locator(".person")
    expect(people).to_have_count(3)
    expect(people.nth(2)).to_contain_text("Everyone")
    expect(people.first.locator("input")).to_be_checked()
    page.locator("summary").click()
    page.locator("[name=start]").fill("0.9")
    page.keyboard.press("Tab")
    expect(page.locator("#face-message")).to_contain_text("is after the video's end")
    expect(page.locator("#go")).to_be_disabled()
    page.locator("[name=start]").fill("0.2")
    page.keyboard.press("Tab")
    expect(page.locator("#go")).to_be_enabled()
    second = people.nth(1).locator("input").input_value()
    people.nth(1).click()
    page.locator("#strength").fill("0.9")
    page.locator("[name=sync_mode]").select_option("loop")
    assert serious_faults(page) == []
    page.locator("#go").click()
    expect(page.locator("#result")).to_be_visible()
    job = served.api.get(f"/jobs/{page.url.split('#')[1]}").json()
    assert job["options"] == {"face_id": int(second), "strength": 0.9, "sync_mode": "loop", "start": 0.2}
    check_playing(page)
    expect(page.locator(".mark")).to_be_visible()
    expect(page.locator(".mark-note")).to_contain_text("Marked as AI-generated in the file's metadata")
    assert serious_faults(page) == []
    with page.expect_download() as started:
        page.locator("#download").click()
    started.value.save_as(tmp_path / "out.mp4")
    assert started.value.suggested_filename.endswith(".mp4")
    with av.open(str(tmp_path / "out.mp4")) as video:
        assert video.duration / 1e6 == pytest.approx(2.0, abs=0.1)
    page.reload()  # the address names the job
    expect(page.locator("#result")).to_be_visible()
    page.locator("#delete").click()
    expect(page.locator("#start-message")).to_contain_text("deleted")
    assert served.api.get(f"/jobs/{job['id']}").status_code == 404


def check_playing(page: Page) -> None:
    """One button plays the result and the original, which stay together."""
    wait(page, "document.querySelector('#video').readyState >= 2")
    duration = page.evaluate("document.querySelector('#video').duration")
    assert duration == pytest.approx(2.0, abs=0.1)
    page.locator("#play").click()
    wait(page, "document.querySelector('#video').currentTime > 0.1")
    wait(page, "document.querySelector('#video').ended")
    assert page.evaluate("document.querySelector('#original').currentTime") > 0.1
    expect(page.locator("#play")).to_have_text("Play")
    assert page.evaluate("document.querySelector('#original').muted")


def test_progress_and_cancel(page, served, two_people, inputs):
    give(page, two_people, inputs / "speech.wav")
    page.locator(".person", has_text="Everyone").click()
    page.locator("summary").click()
    page.locator("#strength").fill("1.5")  # the stub takes ten seconds
    page.locator("#go").click()
    expect(page.locator("#progress-title")).to_have_text("Following the face")
    wait(page, "document.querySelector('#bar').value > 0.05")
    expect(page.locator("#eta")).to_contain_text("left")
    assert serious_faults(page) == []
    job_id = page.url.split("#")[1]
    page.locator("#cancel").click()
    expect(page.locator("#start-message")).to_have_text("Cancelled.")
    job = served.api.get(f"/jobs/{job_id}").json()
    assert (job["state"], job["options"]["select"]) == ("cancelled", "all")
    assert job["original"]["people_known"]
    expect(page.locator("#go")).to_be_enabled()


def test_keyboard_only(page, inputs):
    """Everything can be reached by Tab, in the order of the page, and used with the keyboard."""
    give(page, inputs / "face.png", inputs / "speech.wav")
    reached = []
    page.locator("body").press("Tab")
    for _ in range(12):
        name = page.evaluate("document.activeElement.id || document.activeElement.tagName")
        reached.append(name)
        if name == "go":
            break
        page.keyboard.press("Tab")
    assert [name for name in reached if name in ("face", "audio", "record", "SUMMARY", "go")] == [
        "face", "audio", "record", "SUMMARY", "go",
    ]  # fmt: skip
    page.keyboard.press("Enter")
    expect(page.locator("#result")).to_be_visible()
    assert page.evaluate("document.activeElement.id") == "result-title"


def test_a_recording_from_the_microphone(page, inputs):
    page.locator("#record").click()
    expect(page.locator("#record-text")).to_have_text("Stop (0:01)")
    page.locator("#record").click()
    expect(page.locator("#audio-name")).to_contain_text("Recording of 0:0")
    page.set_input_files("#face", inputs / "face.png")
    page.locator("#go").click()
    expect(page.locator("#result")).to_be_visible()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"#!/bin/sh\nrm -rf /\n" * 9, "is not a readable video, photo or audio file"),
        (b"#EXTM3U\n#EXTINF:4,\nfile:///etc/passwd\n", "a playlist"),
        (b"0" * 5_000_001, "this service takes at most 5 MB"),
    ],
    ids=["script", "playlist", "too large"],
)
def test_a_bad_file_gets_its_message(page, tmp_path, data, message):
    bad = tmp_path / "<img src=x onerror=alert(1)>.mp4"
    bad.write_bytes(data)
    page.set_input_files("#face", bad)
    expect(page.locator("#face-message")).to_contain_text(message)
    expect(page.locator("#face-message")).to_have_class("message error")
    expect(page.locator("#go")).to_be_disabled()
    assert page.locator("#face-drop img[src=x]").count() == 0


def test_a_failed_job_says_why(page, inputs):
    give(page, inputs / "face.png", inputs / "speech.wav")
    page.evaluate("document.querySelector('#strength').step = 0.05")
    page.locator("#strength").evaluate("(range) => { range.value = 0.25; }")  # the stub fails
    page.locator("#go").click()
    expect(page.locator("#start-message")).to_contain_text("This did not work: face shows no face")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_width_and_contrast(page, scheme):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size(PHONE)
    page.locator("summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert serious_faults(page) == []


def test_the_api_s_description_asks_no_other_host(page, served):
    page.goto(f"{served.url}/docs")
    expect(page.locator(".opblock").first).to_be_visible()


def test_token(browser, tmp_path):
    with server(tmp_path, "--token", "a token of the tests") as running:
        page = browser.new_page()
        page.set_default_timeout(TIMEOUT)
        page.goto(running.url)
        page.locator("#token").fill("wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#login-message")).to_contain_text("not the service's token")
        page.locator("#token").fill("a token of the tests")
        page.keyboard.press("Enter")
        expect(page.locator("#login")).to_be_hidden()
        assert page.evaluate("fetch('api/health').then(reply => reply.status)") == 200
        page.close()
