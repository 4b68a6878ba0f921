"""Calls from Python with anything at all, and outputs in unusual places. The engine changes nothing."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from inference.options import Options
from inference.pipeline import LipSync
from preprocessing.errors import UsageError, Wav2LipError
from preprocessing.media.video_reader import probe
from tests.material import write_photo, write_speech
from tests.media_fuzz import UnchangedEngine

JUNK = (object(), [], {}, float("nan"), float("inf"), b"x", lambda: 0, 10**400, (1,), "\0")


@pytest.fixture
def good(tmp_path: Path) -> dict[str, Any]:
    return {
        "face": write_photo(tmp_path / "face.png"),
        "audio": write_speech(tmp_path / "speech.wav", 0.2),
        "outfile": tmp_path / "out.mp4",
    }


@pytest.mark.parametrize("name", ["face", "audio", "outfile"])
def test_what_is_no_path_is_refused_by_name(good: dict[str, Any], name: str) -> None:
    model = LipSync(UnchangedEngine())  # type: ignore[arg-type]
    for junk in (5, b"x.mp4", ["x.mp4"], "a\0b.mp4"):
        with pytest.raises(UsageError, match=f"{name} must be a path, not"):
            model(**(good | {name: junk}))


@pytest.mark.parametrize("name", [item.name for item in fields(Options)])
def test_options_of_the_wrong_type_are_refused_by_name(name: str) -> None:
    refusals = [_refusal(name, junk) for junk in JUNK]
    assert all(name in refusal for refusal in refusals if refusal)
    assert sum(map(bool, refusals)) >= 7


def _refusal(name: str, value: object) -> str:
    """The message of the documented error, "" if the value is taken."""
    try:
        Options.of({name: value})
    except Wav2LipError as error:
        return str(error)
    return ""


def test_a_link_as_output_stays_a_link(good: dict[str, Any], tmp_path: Path) -> None:
    target = tmp_path / "elsewhere" / "target.mp4"
    target.parent.mkdir()
    good["outfile"].symlink_to(target)
    report = LipSync(UnchangedEngine())(**good)  # type: ignore[arg-type]
    assert good["outfile"].is_symlink()
    assert not target.is_symlink()
    assert probe(target).duration == pytest.approx(0.2, abs=0.01)
    assert report.outfile == good["outfile"]
    assert {path.name for path in tmp_path.rglob("*")} == {
        "face.png", "speech.wav", "out.mp4", "elsewhere", "target.mp4"
    }  # fmt: skip
