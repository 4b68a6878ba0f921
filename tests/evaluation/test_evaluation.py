"""End-to-end evaluation of a tiny generator on a real face: every system and every failure has its row."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from evaluation.__main__ import _parse_named_path, _stress_trials, _systems, _two_people, main
from evaluation.protocols.pairs import Pair
from evaluation.report.results import BASELINES, OURS
from preprocessing.faces.detectors import load_detector
from tests.material import swaying_photo, write_generator, write_speech, write_talk, write_video

FRAMES = 25


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """(exit code, report folder) for three faces: two talking videos and one file that is not a video."""
    folder = tmp_path_factory.mktemp("evaluation")
    one = write_talk(folder / "anna__a talk.mp4", swaying_photo(FRAMES))
    two = write_talk(folder / "bob__talk.mp4", [picture[:, ::-1] for picture in swaying_photo(FRAMES)])
    (folder / "carl__text.mp4").write_text("no video")
    pairs = folder / "pairs.csv"
    with pairs.open("w", newline="") as file:
        names = [one.name, two.name, "carl__text.mp4"]
        csv.writer(file).writerows([["face", "audio"], *([name, name] for name in names)])
    generator = write_generator(folder / "tiny.safetensors")
    made = folder / "theirs" / "matched"
    made.mkdir(parents=True)
    shutil.copy(one, made / "anna__a_talk.mp4")
    flags = ["--checkpoint", generator, "--made", f"others={made.parent}", "--detector", "haar", "--seconds", "1"]
    code = main(list(map(str, [pairs, "--out", folder / "report", *flags])))
    return code, folder / "report"


@pytest.fixture(scope="module")
def rows(report):
    with (report[1] / "clips.csv").open(newline="") as file:
        return {(row["pair"], row["protocol"], row["system"]): row for row in csv.DictReader(file)}


def test_every_take_has_a_row_for_every_system_that_takes_part(report, rows):
    code, folder = report
    systems = {*BASELINES, OURS, "others"}
    parts = {
        "matched": systems, "swapped": systems, "silent": systems - {"unsynced"}, "stills": {OURS, "others"},
    }  # fmt: skip
    pairs = ("anna__a_talk", "bob__talk", "carl__text")
    assert set(rows) == {(pair, protocol, name) for pair in pairs for protocol, some in parts.items() for name in some}
    assert code == 1
    for name in ("report.html", "report.json"):
        assert (folder / name).stat().st_size > 1000


def test_what_cannot_be_measured_is_counted_with_its_reason(report, rows):
    assert all("carl__text.mp4" in row["reason"] for key, row in rows.items() if key[0] == "carl__text")
    assert rows["bob__talk", "matched", "others"]["reason"] == "no video provided"
    counted = json.loads((report[1] / "report.json").read_text())["counts"]
    assert counted["failed"] == sum(bool(row["reason"]) for row in rows.values())
    assert sum(counted["reasons"].values()) == counted["failed"]
    assert counted["measured"] + counted["failed"] == len(rows)


def test_baselines_get_what_they_must(rows):
    for pair in ("anna__a_talk", "bob__talk"):
        real, copy = rows[pair, "matched", "real"], rows[pair, "matched", "copy"]
        figures = set(real) - {"system", "video"}
        assert {key: real[key] for key in figures} == {key: copy[key] for key in figures}
        assert float(real["psnr"]) > 38
        assert float(real["opening_r"]) == pytest.approx(1, abs=0.05)
        assert float(rows[pair, "silent", "static"]["moving"]) == 0
        assert float(rows[pair, "swapped", "copy"]["response"]) == pytest.approx(0, abs=0.01)
        unsynced, copied = rows[pair, "swapped", "unsynced"], rows[pair, "swapped", "copy"]
        assert unsynced["offset"] == copied["offset"]
        assert unsynced["confidence"] == copied["confidence"]


def test_a_video_of_somebody_else_is_measured_like_ours(rows, report):
    theirs, real = (rows["anna__a_talk", "matched", name] for name in ("others", "real"))
    assert float(theirs["psnr"]) > float(real["psnr"])  # the source itself, not re-encoded
    # A still face that sways is in sync at no offset: what encoding changes moves the best one, but not how good it is.
    assert float(theirs["cosine"]) == pytest.approx(float(real["cosine"]), abs=0.05)
    assert float(theirs["confidence"]) == pytest.approx(float(real["confidence"]), abs=0.05)
    assert theirs["video"].endswith("theirs/matched/anna__a_talk.mp4")


def test_a_generator_is_measured_in_every_protocol(rows):
    for pair in ("anna__a_talk", "bob__talk"):
        assert {"psnr", "ssim", "sharpness", "seam_colour", "identity", "cosine"} <= filled(rows[pair, "matched", OURS])
        assert {"cosine", "response", "sharpness"} <= filled(rows[pair, "swapped", OURS])
        assert "ssim" not in filled(rows[pair, "swapped", OURS])
        assert "moving" in filled(rows[pair, "silent", OURS])
        assert rows[pair, "stills", OURS]["video"] == f"videos/stills/{pair}/ours-a.mp4"


def filled(row):
    return {key for key, value in row.items() if value}


def test_the_settings_say_what_the_figures_were_found_with(report):
    settings = json.loads((report[1] / "report.json").read_text())["settings"]
    assert len(settings["pairs_sha256"]) == 64
    assert settings["seconds"] == 1
    assert "tiny.safetensors, SHA-256 " in settings["tiny of ours"]
    assert settings["judge"].startswith("judge.safetensors, SHA-256 ")


def test_systems_have_names(tmp_path):
    folder, file = tmp_path / "made=here", tmp_path / "b.safetensors"
    folder.mkdir()
    assert _systems([], []) == _systems(["default"], []) == ({OURS: None}, {})
    assert _systems(["a.pth", "new=default"], []) == ({OURS: Path("a.pth"), "new": None}, {})
    assert _systems([], [f"x={folder}"]) == ({}, {"x": folder})
    assert _systems(["a.pth", "b=c/d.pth"], [f"x={folder}"]) == (
        {OURS: Path("a.pth"), "b": Path("c/d.pth")}, {"x": folder},
    )  # fmt: skip
    assert _parse_named_path(str(folder), "") == ("made=here", folder)
    assert _parse_named_path(str(file), "") == ("b", file)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--checkpoint", "real=a.pth"], "invalid system name 'real'"),
        (["--checkpoint", "a=b.pth", "a=c.pth"], "two systems are named 'a'"),
        (["--made", "none"], "--made none is not a folder"),
        (["--list", "lrs2"], "--list lrs2 requires --data-root"),
        (["--seconds", "0.5"], "must be 1 or more"),
        (["--syncnet", "none.model"], "none.model"),
        (["--checkpoint", "none.pth"], "none.pth"),
    ],
)
def test_a_wrong_flag_is_one_line_and_leaves_nothing(tmp_path, capsys, flags, message):
    video = write_video(tmp_path / "a__a.mp4", swaying_photo(2), sound=write_speech(tmp_path / "s.wav", 0.1))
    shutil.copy(video, tmp_path / "b__b.mp4")
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("a__a.mp4 a__a.mp4\nb__b.mp4 b__b.mp4\n")
    before = set(tmp_path.iterdir())
    code = main([str(pairs), "--out", str(tmp_path / "out"), "--detector", "haar", *flags])
    captured = capsys.readouterr()
    assert code in (1, 2)
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert set(tmp_path.iterdir()) == before


def test_a_stress_list_that_cannot_be_made_costs_no_report(tmp_path):
    pairs = [Pair(name, tmp_path / f"{name}.mp4", tmp_path / f"{name}.mp4", name) for name in ("a", "b")]
    (trial,) = _stress_trials(tmp_path, _two_people(pairs), {OURS: None}, load_detector("haar"), {})
    assert (trial.system, trial.passed) == (OURS, False)
    assert "cannot make hard inputs" in trial.reason
    assert "a.mp4" in trial.reason


def test_hard_inputs_are_made_of_two_people_if_there_are_two(tmp_path):
    a, again, b = (Pair(name, Path(f"{name}.mp4"), Path("s.wav"), name[0]) for name in ("a1", "a2", "b1"))
    assert _two_people([a, again, b]) == (a, b)
    assert _two_people([a, again]) == (a, again)
    with pytest.raises(ValueError, match="--stress requires two faces"):
        _two_people([a, a])


def test_a_wrong_list_is_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "none.txt"), "--out", str(tmp_path / "out")]) == 2
    assert "cannot read" in capsys.readouterr().err


def test_quiet_frames_are_those_far_from_speech():
    from evaluation.protocols.measure import _quiet

    samples = np.zeros(3 * 16000, np.int16)
    samples[16000:32000] = np.random.default_rng(0).integers(-8000, 8000, 16000)
    quiet = _quiet(samples, 10, 60)
    assert quiet[:8].all()
    assert not quiet[13:42].any()
    assert quiet[47:].all()
    assert _quiet(np.zeros(0, np.int16), 0, 5).all()
