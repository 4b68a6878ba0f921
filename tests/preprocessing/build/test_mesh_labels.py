"""Mesh labels beside a dataset: made once, by whom is said, and read by the trainers of landmarks and lip motion."""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from preprocessing.build.mesh_labels import MediaPipeLabeler, label_files, label_sources
from preprocessing.build.sources import VideoSource
from preprocessing.errors import UsageError
from preprocessing.faces.landmarks.training.crops import make_crops, open_crops
from preprocessing.faces.landmarks.training.labels import (
    find_videos,
    has_split,
    labeled_videos,
    load_labels,
)
from tests.preprocessing.build.planted import FRAMES, REPOSITORY, Bench, Here, plant, without_workers
from tests.preprocessing.faces.landmarks.portrait import EYES, PLACES, ROWS

NAMES = ("anna/talk.mp4", "ben's/talk 1.mp4")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Here:
    return without_workers(monkeypatch)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    for name in NAMES:
        plant(bench.videos / name)
    return bench


def table(mesh: Path) -> list[dict[str, str]]:
    with (mesh / "labels.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_build_labels_its_videos_and_the_trainers_read_them(bench: Bench, here: Here, tmp_path: Path, capsys):
    mesh = tmp_path / "mesh"
    plant(bench.videos / "carl" / "nobody.mp4", [np.full((96, 96, 3), 90, np.uint8)] * FRAMES)
    assert here(bench, "--val-share", 0, "--mesh", mesh)[0] == 0
    rows = table(mesh)
    assert [(row["video"], row["speaker"], row["split"]) for row in rows] == [
        (NAMES[0], "anna", "train"),
        (NAMES[1], "ben's", "train"),
    ]
    assert [(int(row["frames"]), int(row["faces"])) for row in rows] == [(FRAMES, FRAMES)] * 2
    assert all(row["made_by"].startswith("wav2lip landmarks ") for row in rows)
    assert "2 of 2 videos have mesh labels in" in capsys.readouterr().out

    labels = load_labels(mesh / "anna" / "talk.npz")
    swaying = 3 * np.sin(np.arange(FRAMES) / 4)
    truth = ((PLACES + 0.5 - [60, 0]) / 2 - 0.5)[None] + np.stack([swaying, 0 * swaying], 1)[:, None]
    away = np.linalg.norm(labels.points[:, ROWS, :2] - truth, axis=-1) / (EYES / 2)
    assert np.median(away) < 0.06  # an eye's distance is 21 pixels here
    assert np.corrcoef(labels.points[:, ROWS, 0].mean(1), swaying)[0, 1] > 0.98
    assert labels.times[-1] == pytest.approx((FRAMES - 1) / 25, abs=1e-3)

    make_crops(bench.videos, mesh, tmp_path / "crops", 6, split="train")
    assert set(open_crops(tmp_path / "crops").persons) <= {"anna", "ben's"}
    found = find_videos(bench.videos, mesh)
    assert [(item.speaker, item.split) for item in found] == [("anna", "train"), ("ben's", "train")]
    assert len({item.name for item in found}) == 2
    assert has_split(mesh, "train")
    assert not has_split(mesh, "val")
    with pytest.raises(UsageError, match="no video of the split val"):
        labeled_videos(bench.videos, mesh, "val")


def fake_python(path: Path, failing: str = "none") -> Path:
    """A Python in whose environment MediaPipe finds one point per video, but for videos called `failing`."""
    path.write_text(f"""#!{sys.executable}
import json, sys
sys.path.insert(0, {str(REPOSITORY)!r})
from preprocessing.faces.landmarks.training import label
import numpy as np
label.maker = lambda: "MediaPipe FaceMesh 9.9"
def mesh_of(video):
    if {failing!r} in video.name:
        raise OSError("damaged")
    yield 0.5, np.full((206, 3), 7.0)
label.mesh_of = mesh_of
assert sys.argv[1] == "-I" and sys.argv[2].endswith("label.py")
sys.exit(label.main(sys.argv[3:]))
""")
    path.chmod(0o755)
    return path


def sources(bench: Bench) -> list[VideoSource]:
    return [VideoSource(bench.videos / name, name, f"id{k}", f"s{k}", "val") for k, name in enumerate(NAMES)]


def test_another_python_labels_with_mediapipe_and_only_what_is_new(bench: Bench, tmp_path: Path):
    labeler, said, mesh = MediaPipeLabeler(fake_python(tmp_path / "a python", "talk 1")), [], tmp_path / "mesh"
    assert labeler.made_by == "MediaPipe FaceMesh 9.9"
    assert label_sources(sources(bench), mesh, labeler, 2, said.append) == 1
    assert len(said) == 1
    assert "talk 1.mp4: cannot be read (damaged)" in said[0]
    (row,) = table(mesh)
    assert (row["video"], row["faces"], row["made_by"]) == (NAMES[0], "1", labeler.made_by)
    assert load_labels(mesh / row["labels"]).points[0, 0].tolist() == [6.5, 6.5, 7.0]  # from edges to centers
    before = (mesh / row["labels"]).stat().st_mtime_ns
    whole = MediaPipeLabeler(fake_python(tmp_path / "python"))
    assert label_sources(sources(bench), mesh, whole, 1, said.append) == 2
    assert (mesh / row["labels"]).stat().st_mtime_ns == before
    os.utime(bench.videos / NAMES[0], ns=(before + 10**9, before + 10**9))  # the video has changed
    assert label_sources(sources(bench), mesh, whole, 1, said.append) == 2
    assert (mesh / row["labels"]).stat().st_mtime_ns != before
    assert [item.split for item in labeled_videos(bench.videos, mesh)] == ["val", "val"]


def test_a_python_without_mediapipe_is_refused_before_the_build(bench: Bench, here: Here, tmp_path: Path, capsys):
    for python, said in ((tmp_path / "none", "cannot run"), (Path(sys.executable), "has no MediaPipe")):
        assert here(bench, "--mesh", tmp_path / "mesh", "--mesh-python", python) == (2, set())
        assert said in capsys.readouterr().err
    assert here(bench, "--mesh-python", sys.executable)[0] == 2
    assert "give their folder with --mesh" in capsys.readouterr().err
    assert not bench.clips.exists()


def test_a_labeler_that_fails_says_why(bench: Bench, here: Here, tmp_path: Path, capsys):
    python = tmp_path / "python"
    python.write_text(f"""#!{sys.executable}
import sys
print("MediaPipe FaceMesh 9.9")
sys.exit("--list" in sys.argv and "the face mesh is broken")
""")
    python.chmod(0o755)
    code, names = here(bench, "--mesh", tmp_path / "mesh", "--mesh-python", python)
    said = capsys.readouterr().err
    assert code == 1
    assert names
    assert "the face mesh is broken" in said
    assert "videos could be labeled" in said


def test_label_files_mirror_the_videos_without_collisions():
    names = ("a/talk.mp4", "a/talk.mov", "b/talk.mp4", "c.mp4")
    found = label_files([VideoSource(Path(name), name, f"id{k}", "s", "train") for k, name in enumerate(names)])
    assert found == {
        "a/talk.mp4": "a/id0.npz", "a/talk.mov": "a/id1.npz", "b/talk.mp4": "b/talk.npz", "c.mp4": "c.npz",
    }  # fmt: skip
