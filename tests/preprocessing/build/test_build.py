"""End-to-end builds of test videos: the outcome of each, and what a second run does."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from preprocessing.build import command as build
from preprocessing.build import dask_runner as cluster
from preprocessing.build.sources import VideoSource
from preprocessing.build.video_pipeline import ClipRecipe, VideoOutcome, make_clips
from preprocessing.dataset.clips import Clip, open_clips
from preprocessing.dataset.manifest import write_rows
from tests.preprocessing.build.planted import FRAMES, ODD, REPOSITORY, Bench, Here, plant_all, without_workers


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The test videos, built by two workers; once, even if several processes run the tests."""
    session = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    base = tmp_path_factory.getbasetemp().parent / f"built-{session}" if session else tmp_path_factory.mktemp("built")
    base.mkdir(exist_ok=True)
    with (base / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        bench = Bench(base)
        if not bench.videos.exists():
            plant_all(bench.videos)
            with (base / "stdout").open("w") as stdout, (base / "stderr").open("w") as stderr:
                done = subprocess.run(
                    bench.command("--workers", 2), cwd=REPOSITORY, env=bench.environment(), stdout=stdout,
                    stderr=stderr, check=False, timeout=600,
                )  # fmt: skip
            (base / "code").write_text(str(done.returncode))
    return bench


def test_every_video_has_its_fate(built: Bench):
    errors = (built.root / "stderr").read_text(errors="surrogateescape")
    assert (built.root / "code").read_text() == "0", errors
    fates = built.fates()
    assert {video for video, row in fates.items() if row.fate == "made"} == {
        "anna/talk.mp4", "bob/talk.mp4", "bob/kills_once.mp4", f"odd/{ODD}", "duo/two.mp4",
    }  # fmt: skip
    expected = {
        "bad/truncated.mp4": ("rejected", "no clip passes"),
        "bad/noise.mp4": ("broken", "is not a readable video"),
        "bad/empty.mp4": ("broken", "is empty"),
        "bad/sound.mp4": ("broken", "has no video stream"),
        "bad/silent.mp4": ("broken", "has no audio track"),
        "duo/nobody.mp4": ("rejected", "no face"),
        "duo/gone.mp4": ("failed", "does not exist"),
        "carl/again.mp4": ("rejected", "duplicate"),
        "carl/raises.mp4": ("failed", "LookupError: this is a fault (sitecustomize.py:12)"),
        "carl/kills.mp4": ("failed", "its worker died 3 times: out of memory, or a crash"),
    }
    for video, (fate, reason) in expected.items():
        assert (fates[video].fate, fates[video].reason[: len(reason)]) == (fate, reason), video
    assert len(fates) == len(expected) + 5
    reported = sorted(line.split(": ")[0] for line in errors.splitlines())
    assert reported == sorted(video for video, (fate, _) in expected.items() if fate != "rejected"), (
        "and no other noise"
    )


def test_every_clip_is_whole_and_listed(built: Bench):
    rows = built.rows()
    passing = [row for row in rows if row.passes]
    assert len(passing) == 6
    assert [row.video for row in rows] == sorted(row.video for row in rows)
    assert {row.clip for row in rows if row.clip} == built.files()
    assert [row.reason for row in rows if row.video == "carl/again.mp4"] == ["duplicate"]
    for row in passing:
        clip = Clip.open(built.clips / row.clip)
        assert (clip.header.source, clip.speaker, clip.frames) == (row.video, row.speaker, row.frames)
        assert row.speaker == row.video.split("/")[0]
        assert clip.faces(row.frames - 1, 1).shape[0] == 1
    assert len(open_clips(built.clips)) == 6
    assert {row.person for row in passing if row.video == "duo/two.mp4"} == {0, 1}


def test_the_videos_count_their_clips(built: Bench):
    fates, rows = built.fates(), built.rows()
    for video, row in fates.items():
        mine = [clip for clip in rows if clip.video == video and clip.passes]
        assert (row.clips, row.clip_seconds) == (len(mine), pytest.approx(sum(clip.seconds for clip in mine)))
    assert fates["anna/talk.mp4"].seconds == pytest.approx(FRAMES / 25, abs=0.05)
    assert fates["anna/talk.mp4"].work_seconds > 0


def test_the_report_and_the_sheet_are_there_and_nothing_unfinished(built: Bench):
    names = {path.name for path in built.clips.iterdir()}
    assert names == {"manifest.csv", "videos.csv", "report.json", "contact_sheet.png", "clips", "state"}
    assert not list(built.clips.rglob(".*"))
    assert "5 made" in (built.root / "stdout").read_text()


@pytest.fixture
def copied(built: Bench, tmp_path: Path) -> Bench:
    """A copy of the folders, with file times."""
    for folder in (built.videos, built.clips):
        shutil.copytree(folder, tmp_path / folder.name, symlinks=True)
    return Bench(tmp_path)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Here:
    return without_workers(monkeypatch)


def test_a_second_run_does_what_is_left_and_repairs_what_is_broken(copied: Bench, here: Here):
    before = {row.clip: row.audio_sha256 for row in copied.rows() if row.clip}
    one, two = (next(row.clip for row in copied.rows() if row.video == f"{name}/talk.mp4") for name in ("anna", "bob"))
    (copied.clips / one).unlink()
    os.truncate(copied.clips / two, 1000)
    state = next((copied.clips / "state").glob("two-*.json"))
    state.write_text(state.read_text()[:-5])
    orphan = copied.clips / "clips" / "anna" / "old-01234567__a0000.safetensors"
    for leftover in (orphan, orphan.with_name(f".{orphan.name}.x1"), copied.clips / ".manifest.csv.x2"):
        leftover.write_bytes(b"half")
    (copied.clips / "clips" / "anna" / "notes.txt").write_text("not ours")

    code, worked = here(copied)
    failed = {"carl/kills.mp4", "carl/raises.mp4", "duo/gone.mp4"}  # retried
    assert (code, worked) == (0, {"anna/talk.mp4", "bob/talk.mp4", "duo/two.mp4"} | failed)
    assert copied.fates()["carl/kills.mp4"].fate == "made"
    after = {row.clip: row.audio_sha256 for row in copied.rows() if row.clip}
    assert before.items() < after.items()
    assert copied.files() == after.keys() | {"clips/anna/notes.txt"}
    assert all(Clip.open(copied.clips / name) for name in after)
    assert not list(copied.clips.rglob(".*"))
    assert here(copied) == (0, {"duo/gone.mp4"})


def test_files_with_the_old_column_name_are_refused_in_one_line(copied: Bench, here: Here, capsys):
    manifest, state = copied.clips / "manifest.csv", next((copied.clips / "state").glob("two-*.json"))
    table = manifest.read_bytes()
    manifest.write_bytes(table.replace(b"sync_filter", b"screen"))
    assert here(copied) == (2, set())
    error = capsys.readouterr().err
    assert "manifest.csv is not a table of ClipRow rows: it lacks the columns sync_filter" in error
    assert error.count("\n") == 1
    manifest.write_bytes(table)
    record = state.read_text()
    state.write_text(record.replace('"sync_filter"', '"screen"'))
    assert record != state.read_text()
    assert here(copied) == (2, set())
    error = capsys.readouterr().err
    assert f"{state.name} has unknown fields (screen)" in error
    assert error.count("\n") == 1
    assert copied.files() == {row.clip for row in copied.rows() if row.clip}, "no clip was deleted"


def test_screening_and_a_new_split_need_no_work(copied: Bench, here: Here):
    rows = copied.rows()
    for row in rows:
        if row.video == "anna/talk.mp4":
            row.offset, row.confidence, row.sync_filter = 3.0, 0.125, "off"
    write_rows(copied.clips / "manifest.csv", rows)
    for name in ("carl/kills.mp4", "carl/raises.mp4", "duo/gone.mp4"):
        (copied.videos / name).unlink()
    assert here(copied, "--val-share", 1) == (0, set())
    assert {row.split for row in copied.rows()} == {"val"}
    found = [(row.offset, row.confidence, row.sync_filter) for row in copied.rows() if row.video == "anna/talk.mp4"]
    assert found == [(3.0, 0.125, "off")]
    assert copied.fates()["anna/talk.mp4"].clips == 0
    for path in (copied.videos / "anna", copied.videos / "bob" / "kills_once.mp4"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    here(copied)
    assert [row.reason for row in copied.rows() if row.video == "carl/again.mp4"] == [""], "no duplicate any more"


def test_a_changed_recipe_file_or_label_is_made_anew(copied: Bench, here: Here):
    for path in sorted(copied.videos.rglob("*.mp4")):
        if path.name != "talk.mp4":
            path.unlink()
    both, kept = {"anna/talk.mp4", "bob/talk.mp4"}, {name for name in copied.files() if "/talk-" not in name}
    assert here(copied, "--size", 64) == (0, both)
    assert {(row.video, row.size) for row in copied.rows()} == {(video, 64) for video in both}
    assert kept < copied.files(), "clips of videos that are not among these stay"
    assert here(copied, "--size", 64, "--workers", 3) == (0, set())

    os.utime(copied.videos / "anna" / "talk.mp4", ns=(1, 1))
    assert here(copied, "--size", 64) == (0, {"anna/talk.mp4"})
    table = copied.root / "table.csv"
    table.write_text("file,licence\nbob/talk.mp4,CC BY 4.0\n")
    assert here(copied, "--size", 64, "--table", table) == (0, {"bob/talk.mp4"})
    assert [row.licence for row in copied.rows()] == ["", "CC BY 4.0"]
    assert here(copied, "--size", 64, "--speaker", "file") == (0, both)
    assert {row.clip.split("/")[1] for row in copied.rows()} == {"anna_talk", "bob_talk"}
    assert copied.files() == kept | {row.clip for row in copied.rows()}, "clips under the old names are gone"


def test_a_full_disk_ends_the_job_and_keeps_what_is_done(copied: Bench, here: Here, monkeypatch, capsys):
    shutil.rmtree(copied.clips)

    def full(
        client: object, sources: list[VideoSource], clips: Path, recipe: ClipRecipe
    ) -> Iterator[tuple[VideoSource, VideoOutcome]]:
        good = next(source for source in sources if source.video == "anna/talk.mp4")
        yield good, make_clips(good, clips, recipe)
        yield sources[-1], VideoOutcome(sources[-1].video, "failed", os.strerror(errno.ENOSPC), 0, [], {})
        raise AssertionError("it went on")

    monkeypatch.setattr(build, "process_all", full)
    assert here(copied)[0] == 1
    *_, left, last = capsys.readouterr().err.splitlines()
    assert left.startswith(f"{len(list(copied.videos.rglob('*.mp4'))) - 2} of ")  # the broken link counts
    assert last.startswith('preprocessing.build: error: stopped at "odd/caf')
    assert last.endswith(": No space left on device")
    assert {video: row.fate for video, row in copied.fates().items()} == {
        "anna/talk.mp4": "made", f"odd/{ODD}": "failed"
    }  # fmt: skip


def test_nothing_made_is_told(tmp_path: Path, here: Here, capsys):
    bench = Bench(tmp_path)
    bench.videos.mkdir()
    (bench.videos / "empty.mp4").touch()
    assert here(bench)[0] == 1
    output = capsys.readouterr()
    assert output.err.splitlines() == [
        "empty.mp4: is empty", "preprocessing.build: error: no clip passes; videos.csv in CLIPS says why"
    ]  # fmt: skip
    assert "1 broken" in output.out
    assert here(bench) == (1, set())


def test_a_speaker_in_two_splits_is_warned_of(tmp_path: Path, here: Here, capsys):
    bench = Bench(tmp_path)
    for name in ("train/anna__1.mp4", "val/anna__2.mp4", "val/bob__1.mp4"):
        (bench.videos / name).parent.mkdir(parents=True, exist_ok=True)
        (bench.videos / name).touch()
    here(bench, "--speaker", "name", "--split", "folder")
    assert capsys.readouterr().err.splitlines()[0] == "speakers in more than one split: anna"


def test_the_tables_are_written_while_the_job_runs(copied: Bench, here: Here, monkeypatch):
    shutil.rmtree(copied.clips)
    seen = []

    def process_all(
        client: object, sources: list[VideoSource], *arguments
    ) -> Iterator[tuple[VideoSource, VideoOutcome]]:
        for source in sources[:3]:
            yield source, VideoOutcome(source.video, "broken", "so", 0, [], {})
            seen.append(len(copied.fates()))

    monkeypatch.setattr(build, "REFRESH", 0.0)
    monkeypatch.setattr(build, "REFRESH_FACTOR", 0)
    monkeypatch.setattr(build, "process_all", process_all)
    assert here(copied)[0] == 1
    assert seen == [1, 2, 3]


def test_the_way_to_the_originals_layout_and_back(copied: Bench, here: Here, capsys):
    for name in ("carl/kills.mp4", "carl/raises.mp4", "duo/gone.mp4"):
        (copied.videos / name).unlink()
    folder, back = copied.root / "exported", copied.root / "back"
    assert here(copied, "--export-wav2lip", folder) == (0, set())
    assert len(list(folder.glob("*/*/audio.wav"))) == 6
    assert build.main(["--import-wav2lip", str(folder), str(back)]) == 0
    assert len(open_clips(back)) == 6
    assert (back / "contact_sheet.png").exists()
    assert build.main(["--export_wav2lip", str(copied.root / "third"), str(back)]) == 0
    assert len(list((copied.root / "third").glob("*/*/audio.wav"))) == 6
    capsys.readouterr()
    assert build.main([str(copied.videos), str(back), "--detector", "haar"]) == 2
    assert "holds imported clips" in capsys.readouterr().err


def test_options_may_come_from_a_file(copied: Bench, here: Here, capsys):
    (copied.root / "options.yaml").write_text("size: 64\nspeaker: name\nfilters:\n  min_side: 1000\n")
    for path in sorted(copied.videos.rglob("*.mp4")):
        if path.parent.name != "anna":
            path.unlink()
    assert here(copied, "--config", copied.root / "options.yaml") == (1, {"anna/talk.mp4"})
    assert [(row.speaker, row.reason) for row in copied.rows()] == [("talk", "side")]
    assert here(copied, "--config", copied.root / "options.yaml", "--filters.min-side=20")[0] == 0
    assert [row.size for row in copied.rows()] == [64]
    capsys.readouterr()
    with pytest.raises(SystemExit, match="0"):
        build.main(["--config", str(copied.root / "options.yaml"), "--print_config"])
    printed = capsys.readouterr().out
    assert "min_side: 1000" in printed
    assert "size: 64" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "VIDEOS and CLIPS are needed"),
        (["VIDEOS"], "VIDEOS and CLIPS are needed"),
        (["VIDEOS", "CLIPS", "--import-wav2lip", "x"], "VIDEOS and CLIPS are needed"),
        (["none", "CLIPS"], "none does not exist"),
        (["VIDEOS", "VIDEOS/a.mp4/clips"], "is not writable: Not a directory"),
        (["VIDEOS", "CLIPS", "--workers", "0"], "workers must be 1 or more, not 0"),
        (["VIDEOS", "CLIPS", "--size", "big"], 'key "size"'),
        (["VIDEOS", "CLIPS", "--size", "7"], "size must be"),
        (["VIDEOS", "CLIPS", "--filters.min_seconds", "9"], "min_seconds must be"),
        (["VIDEOS", "CLIPS", "--gates.min_seconds", "1"], "--gates.min_seconds"),
        (["VIDEOS", "CLIPS", "--config", "old.yaml"], "gates"),
        (["VIDEOS", "CLIPS", "--speaker", "face"], "'folder', 'name', 'file', 'table'"),
        (["VIDEOS", "CLIPS", "--speaker", "table"], "no table is given"),
        (["VIDEOS", "CLIPS", "--table", "none.csv"], "none.csv is not a readable table"),
        (["VIDEOS", "CLIPS", "--detector", "face"], "detector must be one of auto, center, yunet, sfd, haar"),
        (["VIDEOS", "CLIPS", "--yunet", "none.onnx"], "no YuNet model at"),
        (["VIDEOS", "CLIPS", "--s3fd", "none.pth", "--detector", "sfd"], "no S3FD weights at"),
        (["VIDEOS", "CLIPS", "--detector", "haar", "--device", "tpu"], "device must be cpu, cuda or cuda:N, not 'tpu'"),
        (["VIDEOS", "CLIPS", "--detector", "haar", "--scheduler", "tcp://127.0.0.1:1"], "no Dask scheduler responds"),
        (["VIDEOS", "CLIPS", "--config", "none.yaml"], "none.yaml"),
        (["VIDEOS", "CLIPS", "--speed", "9"], "--speed"),
    ],
)
def test_wrong_usage_is_one_line(tmp_path: Path, options: list[str], message: str, capsys, monkeypatch):
    (tmp_path / "VIDEOS").mkdir()
    (tmp_path / "VIDEOS" / "a.mp4").write_bytes(b"x")
    (tmp_path / "old.yaml").write_text("gates:\n  min_side: 1000\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cluster, "SCHEDULER_TIMEOUT", 0.5)
    assert build.main(options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("package", ["distributed", "jsonargparse"])
def test_a_missing_package_is_named_with_its_cure(tmp_path: Path, package: str, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "a.mp4").write_bytes(b"x")
    assert build.main([str(tmp_path), str(tmp_path / "clips"), "--detector", "haar"]) == 2
    assert "pip install -r requirements-train.txt" in capsys.readouterr().err
