"""Sync filtering: planted offsets are found, then repaired or dropped; measurements survive; writes are atomic."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from preprocessing.build.sources import VideoSource
from preprocessing.build.video_pipeline import ClipRecipe, make_clips
from preprocessing.dataset.clips import Clip, open_clips, write_clip
from preprocessing.dataset.manifest import ClipRow, read_manifest, write_rows
from syncnet import measurements, plots
from syncnet import sync_filter as screen
from syncnet.data import WINDOW
from syncnet.measurements import OffsetMeasurements, OffsetTask
from syncnet.model import SmallSyncNet
from syncnet.offset import SyncScore
from syncnet.sync_expert import SyncExpert
from syncnet.sync_filter import FilterLimits, FilterResult, main, table
from tests.material import still_track, write_numbered_clip
from tests.processes import locking

COUNT, LEVEL, STEP = 60, 8000, 300  # frames; the sound's number n is the sample value LEVEL + STEP n


class Reader:
    """An expert that reads numbers from frames and audio, and records the clips it was asked about."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def embed(self, clip: Clip) -> tuple[np.ndarray, np.ndarray]:
        self.asked.append((clip.path.stem, clip.offset))
        windows = clip.frames - WINDOW + 1
        pictures = clip.faces(0, windows)[:, 0, 0, 0].astype(int) // 4
        sounds = np.rint((clip.audio.reshape(-1, 640).mean(axis=1)[:windows] - LEVEL) / STEP).astype(int)
        return np.eye(100)[pictures + 15], np.eye(100)[sounds + 15]


@pytest.fixture
def expert(monkeypatch, tmp_path):
    """Loads the reader in place of any expert, and records plots instead of drawing them."""
    reader, drawn = Reader(), list[tuple]()
    monkeypatch.setattr(measurements, "_load_expert", lambda path: reader)
    monkeypatch.setattr(screen, "plot_offsets", lambda *what: drawn.append(what))
    (tmp_path / "expert").write_bytes(b"one")
    return SimpleNamespace(path=tmp_path / "expert", asked=reader.asked, drawn=drawn)


def talk(path: Path, offset: int | None, count: int = COUNT) -> Path:
    """Frame k matches the audio of frame k - offset; None: no audio matches any frame."""
    faces = np.broadcast_to((4 * np.arange(count)).astype(np.uint8)[:, None, None, None], (count, 32, 32, 3))
    numbers = np.full(count, 75) if offset is None else np.arange(count) + offset
    samples = np.repeat(LEVEL + STEP * numbers, 640).astype(np.int16)
    return write_numbered_clip(path, faces, samples, margin=4, flags=np.ones(1 + count * 640 // 200, bool))


def row(name: str, count: int = COUNT, **values: object) -> ClipRow:
    return ClipRow(
        f"clips/{name}.safetensors", "a.mp4", 0, 0, 0.0, count / 25, count, "anna", "train", "en", "CC0", 24,
        audio_sha256=name, **values,
    )  # type: ignore[arg-type] # fmt: skip


PLANTED: dict[str, int | None] = {"c": 0, "a": 3, "b": -6, "e": 7, "d": -12, "f": None}


@pytest.fixture
def clips(tmp_path):
    """A dataset with planted offsets, a short clip and two clips rejected by the build."""
    folder = tmp_path / "data"
    for name, offset in PLANTED.items():
        talk(folder / "clips" / f"{name}.safetensors", offset)
    talk(folder / "clips" / "short.safetensors", 2, 34)
    rows = [row(name) for name in PLANTED] + [row("short", 34), row("yaw", reason="yaw"), ClipRow(**NOTHING)]
    write_rows(folder / "manifest.csv", rows)
    return folder


NOTHING = {"clip": "", "video": "b.mp4", "person": 0, "number": 0, "start": 0.0, "seconds": 0.4, "frames": 10,
           "speaker": "ben", "reason": "seconds"}  # fmt: skip


def run(clips: Path, expert: SimpleNamespace, *flags: str) -> int:
    return main([str(clips), "--expert", str(expert.path), *flags])


def files(clips: Path) -> set[str]:
    return {path.name for path in clips.iterdir()} - {"clips"}


def test_planted_offsets_are_found_repaired_and_dropped(clips, expert, capsys):
    before = read_manifest(clips / "manifest.csv")
    assert run(clips, expert) == 0
    rows = read_manifest(clips / "manifest.csv")
    assert [(Path(r.clip).stem, r.offset, r.sync_filter) for r in rows] == [
        ("c", 0, "pass"), ("a", 3, "pass"), ("b", -6, "pass"), ("e", 7, "offset"), ("d", -12, "offset"),
        ("f", 15, "confidence"), ("short", None, "short"), ("yaw", None, ""), ("", None, ""),
    ]  # fmt: skip
    assert [r.confidence for r in rows] == [1, 1, 1, 1, 1, 0, None, None, None]
    for old, new in zip(before, rows, strict=True):
        kept = replace(new, offset=None, confidence=None, sync_filter="")
        assert repr(kept) == repr(old)  # in which nan is like nan
    assert [(clip.path.stem, clip.offset, clip.frames) for clip in open_clips(clips)] == [
        ("a", 3, 57), ("b", -6, 54), ("c", 0, 60),
    ]  # fmt: skip
    assert "7: 3 pass, 2 of them moved; 4 dropped (1 confidence, 2 offset, 1 short)" in capsys.readouterr().out
    assert files(clips) == {"manifest.csv", "offsets.jsonl", "sync_filter.json"}


def test_what_is_left_is_measured_on_the_repaired_clips(clips, expert):
    assert run(clips, expert) == 0
    assert expert.asked == [(name, 0) for name in PLANTED] + [("a", 3), ("b", -6)]
    assert expert.drawn == [([0, 3, -6, 7, -12, 15], [0, 0, 0], clips / "sync_filter.png")]
    figures = json.loads((clips / "sync_filter.json").read_text())
    assert figures["offsets"] == {
        "before": {"-12": 1, "-6": 1, "0": 1, "3": 1, "7": 1, "15": 1}, "after": {"0": 3},
    }  # fmt: skip
    assert figures["within_1"] == {"before": 1 / 6, "after": 1}
    assert figures["minutes"] == {"before": (6 * 60 + 34) / 1500, "after": (60 + 57 + 54) / 1500}
    assert figures["speakers"] == {"anna": {"clips": 7, "passed": 3, "offset": 1.5, "confidence": 1}}
    assert (figures["max_offset"], figures["expert"]) == (6, str(expert.path))


def test_a_trial_leaves_the_data_set_as_it_is(clips, expert, capsys):
    before = (clips / "manifest.csv").read_bytes()
    assert run(clips, expert, "--dry-run") == 0
    assert (clips / "manifest.csv").read_bytes() == before
    assert files(clips) == {"manifest.csv", "offsets.jsonl"}
    assert expert.drawn == []
    trial = capsys.readouterr().out
    assert run(clips, expert) == 0
    assert capsys.readouterr().out == trial
    assert len(expert.asked) == 8  # by the first run alone


def test_other_limits_decide_anew_without_measuring_again(clips, expert):
    assert run(clips, expert) == 0
    count = len(expert.asked)
    assert run(clips, expert, "--max-offset", "2", "--min-confidence", "0") == 0
    assert [r.sync_filter for r in read_manifest(clips / "manifest.csv")[:6]] == ["pass"] + ["offset"] * 5
    assert len(expert.asked) == count
    assert run(clips, expert, "--max-offset", "12", "--min-confidence", "1") == 0
    assert [r.sync_filter for r in read_manifest(clips / "manifest.csv")[:6]] == ["pass"] * 5 + ["confidence"]
    assert expert.asked[count:] == [("e", 7), ("d", -12)]


def test_another_expert_and_other_sounds_are_measured(clips, expert):
    assert run(clips, expert) == 0
    expert.asked.clear()
    expert.path.write_bytes(b"another")
    assert run(clips, expert) == 0
    assert len(expert.asked) == 8
    expert.asked.clear()
    expert.path.write_bytes(b"one")  # the first is still remembered
    rows = read_manifest(clips / "manifest.csv")
    talk(clips / rows[1].clip, -2)
    rows[1].audio_sha256 = "new"
    write_rows(clips / "manifest.csv", rows)
    assert run(clips, expert) == 0
    assert expert.asked == [("a", 0), ("a", -2)]
    assert read_manifest(clips / "manifest.csv")[1].offset == -2


def test_a_stopped_run_goes_on_where_it_was(clips, expert, monkeypatch, capsys):
    before, embed = (clips / "manifest.csv").read_bytes(), Reader.embed

    def stop(self: Reader, clip: Clip) -> tuple[np.ndarray, np.ndarray]:
        if len(self.asked) == 3:
            raise KeyboardInterrupt
        return embed(self, clip)

    monkeypatch.setattr(Reader, "embed", stop)
    assert run(clips, expert) == 130
    assert (clips / "manifest.csv").read_bytes() == before
    assert len(capsys.readouterr().err.splitlines()) == 1
    with (clips / "offsets.jsonl").open("a") as file:
        file.write('{"expert": "a line that was being writ')
    monkeypatch.setattr(Reader, "embed", embed)
    assert run(clips, expert) == 0
    assert [name for name, _ in expert.asked] == [*PLANTED, "a", "b"]
    assert run(clips, expert) == 0
    assert len(expert.asked) == 8


@pytest.mark.parametrize("line", ["", "7", "[]", "null", '{"expert": 1}', "\x00", '{"clip": "clips/a.safetensors"}'])
def test_lines_that_are_no_measurements_are_passed_over(clips, expert, line):
    (clips / "offsets.jsonl").write_text(line)
    assert run(clips, expert) == 0
    assert len(expert.asked) == 8


def test_clips_of_an_earlier_screening_are_measured_as_they_are_stored(clips, expert):
    rows = read_manifest(clips / "manifest.csv")
    for each in rows[:6]:
        each.offset, each.confidence, each.sync_filter = 5.0, 9.0, "offset"
    write_rows(clips / "manifest.csv", rows)
    assert run(clips, expert) == 0
    assert [r.offset for r in read_manifest(clips / "manifest.csv")[:5]] == [0, 3, -6, 7, -12]


def test_limits_are_inclusive_and_checked():
    limits = FilterLimits(6, 0.5)
    scores = [(6, 0.5), (-6, 0.5), (7, 0.5), (-7, 2.0), (0, 0.49), (9, 0.49)]
    verdicts = [limits.verdict(SyncScore(offset, 0.3, confidence, 50)) for offset, confidence in scores]
    assert verdicts == ["pass", "pass", "offset", "offset", "confidence", "confidence"]
    assert limits.verdict(None) == "short"
    for wrong in ({"max_offset": 15}, {"max_offset": -1}, {"min_confidence": -0.1}, {"min_confidence": float("nan")}):
        with pytest.raises(ValueError, match="must be 0 to"):
            FilterLimits(**wrong)


def test_the_table_is_as_counted_by_hand():
    rows = [row(str(k), offset=offset, sync_filter="pass") for k, offset in enumerate([0] * 80 + [-1] * 11 + [2])]
    screening = FilterResult([*rows, row("x", sync_filter="short")], [0] * 91 + [1])
    lines = table(screening.summary()).splitlines()
    assert lines == [
        "clips     93: 92 pass, 12 of them moved; 1 dropped (1 short)",
        "minutes   3.7 before, 3.7 after",
        "within 1  98.9 % before, 100.0 % after",
        "",
        "offset in frames (positive: the audio is early)",
        "          before   after",
        "      -1      11       0  ######",
        "      +0      80      91  " + "#" * 40,
        "      +1       0       1",
        "      +2       1       0  #",
    ]


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--max-offset", "15"], 2, "max-offset must be 0 to 14 frames, not 15"),
        (["--min-confidence", "3"], 2, "min-confidence must be 0 to 2, not 3.0"),
        (["--workers", "-1"], 2, "workers must be 0 or more"),
        (["--expert", "missing.safetensors"], 2, "missing.safetensors"),
    ],
)
def test_wrong_usage_is_one_line(clips, capsys, flags, code, words):
    before = (clips / "manifest.csv").read_bytes()
    assert main([str(clips), *flags]) == code
    error = capsys.readouterr().err
    assert error.startswith("syncnet.sync_filter: error: ")
    assert words in error
    assert len(error.splitlines()) == 1
    assert (clips / "manifest.csv").read_bytes() == before
    assert files(clips) == {"manifest.csv"}


@pytest.mark.parametrize("flags", [["--offset", "3"], ["--max-offset", "far"], ["--max", "3"], ["--workers"]])
def test_flags_that_are_none_are_one_line(clips, capsys, flags):
    with pytest.raises(SystemExit) as exit_:
        main([str(clips), *flags])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("syncnet.sync_filter: error: ")
    assert len(error.splitlines()) == 1


def test_folders_that_are_no_data_set_are_refused(clips, expert, tmp_path, capsys):
    assert run(tmp_path / "missing", expert) == 2
    assert "has no manifest.csv; create it with preprocessing.build" in capsys.readouterr().err
    write_rows(clips / "manifest.csv", [row("c", reason="yaw")])
    assert run(clips, expert) == 2
    assert "no clip that passes the build's checks" in capsys.readouterr().err


def test_nothing_is_written_when_a_clip_is_damaged_or_of_another_kind(clips, expert, tmp_path, capsys):
    before = (clips / "manifest.csv").read_bytes()
    good = (clips / "clips" / "e.safetensors").read_bytes()
    box = Clip.open(clips / "clips" / "e.safetensors")
    crop = replace(box.header.crop, kind="box")
    write_clip(
        tmp_path / "box", replace(box.header, crop=crop), box.jpegs(0, COUNT), box.audio, still_track(COUNT), box.speech
    )
    other = (tmp_path / "box").read_bytes()
    for data, words in ((good[:5000], "e.safetensors is not a prepared clip"), (other, "'box'")):
        (clips / "clips" / "e.safetensors").write_bytes(data)
        assert run(clips, expert) == 2
        error = capsys.readouterr().err
        assert words in error
        assert len(error.splitlines()) == 1
        assert (clips / "manifest.csv").read_bytes() == before
    (clips / "clips" / "e.safetensors").write_bytes(good)
    assert run(clips, expert) == 0
    assert [name for name, _ in expert.asked].count("c") == 1  # what came before the damage is not measured again


def test_a_set_of_which_nothing_passes_says_so(clips, expert, capsys):
    write_rows(clips / "manifest.csv", [row("d")])
    assert run(clips, expert) == 1
    printed = capsys.readouterr()
    assert "1: 0 pass, 0 of them moved; 1 dropped (1 offset)" in printed.out
    assert "none after" in printed.out
    assert printed.err == "syncnet.sync_filter: error: no clip passes\n"
    assert read_manifest(clips / "manifest.csv")[0].sync_filter == "offset"


def test_the_histograms_are_drawn_where_they_can_be(clips, expert, capsys, monkeypatch):
    monkeypatch.setattr(screen, "plot_offsets", plots.plot_offsets)
    assert run(clips, expert) == 0
    assert cv2.imread(str(clips / "sync_filter.png")).shape[2] == 3
    (clips / "sync_filter.png").unlink()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert run(clips, expert) == 0
    assert "no sync_filter.png: plotting needs matplotlib: pip install" in capsys.readouterr().err
    assert files(clips) == {"manifest.csv", "offsets.jsonl", "sync_filter.json"}


def test_a_build_at_work_is_not_disturbed(clips, expert, capsys):
    (clips / "state").mkdir()
    with locking(clips / "state"):
        assert run(clips, expert) == 2
    assert "another build is using" in capsys.readouterr().err
    assert run(clips, expert) == 0


def random_expert(path: Path) -> Path:
    torch.manual_seed(0)
    SyncExpert(SmallSyncNet(dimension=16)).save(path)
    return path


def test_a_worker_process_finds_the_same(clips, tmp_path):
    path = random_expert(tmp_path / "random.safetensors")
    tasks = [OffsetTask.of(row(name), repaired) for name, repaired in (("c", 0), ("a", 0), ("a", 3), ("d", -5))]
    alone = OffsetMeasurements(clips, path).scores(tasks, "clip")
    (clips / "offsets.jsonl").unlink()
    workers = OffsetMeasurements(clips, path, workers=1).scores(tasks, "clip")
    assert list(workers) == tasks
    for task in tasks:
        assert asdict(workers[task]) == pytest.approx(asdict(alone[task]), abs=1e-5)
    assert OffsetMeasurements(clips, path).scores(tasks, "clip") == workers  # as they were written down


def test_the_shipped_expert_finds_and_repairs_planted_offsets(shared, tmp_path):
    """A real clip with its audio shifted by +3, -3 and +9 frames."""
    video = shared / "data" / "val" / "grid_s2__pwij3p.mp4"
    recipe = ClipRecipe(detector="yunet", yunet=shared / "weights" / "face_detection_yunet_2026may.onnx", max_faces=1)
    (made,) = make_clips(VideoSource(video, video.name, "talk-0", "s", "train"), tmp_path, recipe).rows
    clip, rows = Clip.open(tmp_path / made.clip), [made]
    for moved in (3, -3, 9):
        name = f"clips/moved{moved}.safetensors"
        sound, flags = np.roll(clip.audio, -moved * 640), np.roll(clip.speech, -round(moved * 3.2))
        write_clip(tmp_path / name, clip.header, clip.jpegs(0, clip.frames), sound, clip.track, flags)
        rows.append(replace(made, clip=name, audio_sha256=str(moved)))
    write_rows(tmp_path / "manifest.csv", rows)
    assert main([str(tmp_path)]) == 0
    found = read_manifest(tmp_path / "manifest.csv")
    assert [r.offset for r in found] == pytest.approx([0, 3, -3, 9], abs=1)
    assert [r.sync_filter for r in found] == ["pass", "pass", "pass", "offset"]
    assert json.loads((tmp_path / "sync_filter.json").read_text())["within_1"]["after"] == 1


def test_the_command_runs_as_a_module(tmp_path):
    command = [sys.executable, "-m", "syncnet.sync_filter", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("syncnet.sync_filter: error: ")
    assert len(done.stderr.splitlines()) == 1
