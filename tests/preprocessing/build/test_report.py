"""The build report: figures computed by hand, the table, and mouth marks on the contact sheet."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import cv2
import numpy as np
import pytest

from preprocessing.build import report
from preprocessing.build.report import contact_sheet, mouth_corners, mouth_region, summary, table, write_report
from preprocessing.dataset.clips import ClipHeader, encode, write_clip
from preprocessing.dataset.manifest import ClipRow, VideoRow
from preprocessing.faces.crops import CropGeometry, crop
from preprocessing.faces.detectors import load_detector
from preprocessing.faces.face_track import FaceTrack, estimate_points
from tests.material import BOX, SIDE, photo

ROWS = [
    ClipRow("a.safetensors", "1.mp4", 0, 0, 0.0, 6.0, 150, "anna", "train", licence="A"),
    ClipRow("b.safetensors", "1.mp4", 0, 1, 6.0, 3.0, 75, "anna", "train", licence="B", sync_filter="pass"),
    ClipRow("c.safetensors", "2.mp4", 0, 0, 0.0, 3.0, 75, "ben", "train", licence="A"),
    ClipRow("d.safetensors", "3.mp4", 0, 0, 0.0, 1.2, 30, "cleo", "val", licence="A"),
    ClipRow("", "3.mp4", 0, 1, 2.0, 2.0, 50, "cleo", "val", reason="side+yaw"),
    ClipRow("", "3.mp4", 0, 2, 4.0, 2.0, 50, "cleo", "val", reason="yaw"),
    ClipRow("e.safetensors", "3.mp4", 0, 3, 6.0, 2.0, 50, "cleo", "val", sync_filter="offset 9"),
]
VIDEOS = [
    VideoRow("1.mp4", "anna", "train", "made", "", 10.0, 2, 9.0, 20.0),
    VideoRow("2.mp4", "ben", "train", "made", "", 4.0, 1, 3.0, 5.0),
    VideoRow("3.mp4", "cleo", "val", "made", "", 8.0, 1, 1.2, 5.0),
    VideoRow("x/4: a.mp4", "dora", "val", "rejected", "no clip passes: side 3, yaw 1", 8.0, 0, 0.0, 9.0),
    VideoRow("5.mp4", "dora", "val", "rejected", "no clip passes: side 1", 0.0),
    VideoRow("x/4: a.mp4", "", "", "broken", "/data/x/4: a.mp4 is empty"),
    VideoRow("6\n.mp4", "", "", "broken", r"'/data/6\n.mp4' is empty"),
    VideoRow("7.mp4", "", "", "failed", "/data/7.mp4: Permission denied", work_seconds=1.0),
]


def test_the_figures_are_those_counted_by_hand():
    figures = summary(ROWS, VIDEOS, {"probe": 1.5, "track": 20.25})
    assert figures["videos"] == {"total": 8, "made": 3, "rejected": 2, "broken": 2, "failed": 1}
    assert (figures["video_seconds"], figures["work_seconds"], figures["speed"]) == (30.0, 40.0, 0.75)
    clips = {"passed": 4, "rejected": 3, "shortest": 1.2, "median": 3.0, "longest": 6.0}
    assert figures["clips"] == clips | {"minutes": pytest.approx(13.2 / 60)}
    assert figures["splits"] == {
        "train": {"clips": 3, "minutes": 0.2, "people": 2},
        "val": {"clips": 1, "minutes": pytest.approx(0.02), "people": 1},
    }
    assert {name: group["clips"] for name, group in figures["licences"].items()} == {"A": 3, "B": 1}
    assert list(figures["rejected"].items()) == [("yaw", 2), ("side", 1), ("sync_filter: offset 9", 1)]
    assert figures["reasons"] == {"is empty": 2, "no clip passes": 2, "Permission denied": 1}
    assert figures["stages"] == {"probe": 1.5, "track": 20.25}


def test_the_table_shows_them():
    text = table(summary(ROWS, VIDEOS, {"probe": 1.5, "track": 3661.25}))
    lines = {line.split("  ")[0]: " ".join(line.split()[1:]) for line in text.splitlines() if line}
    assert lines["videos"] == "8: 3 made, 2 rejected, 2 broken, 1 failed"
    assert lines["clips"] == "4 passed, 3 rejected"
    assert lines["work"] == "0:00:40 for 0:00:30 of video: 0.75 s of video per second"
    assert lines["train"] == "3 0.2 2"
    assert lines["yaw"] == "2"
    assert lines["is empty"] == "empty 2"
    assert lines["track"] == "3661.2"
    assert max(map(len, text.splitlines())) <= 100
    assert not text.endswith("\n")


def test_a_job_without_anything_has_a_report_too(tmp_path):
    figures = summary([], [], {})
    assert figures["speed"] is None
    assert table(figures).splitlines()[1:3] == ["clips     0 passed, 0 rejected", "minutes   0.0"]
    write_report(tmp_path / "report.json", figures)
    assert json.loads((tmp_path / "report.json").read_text())["clips"]["longest"] == 0


def test_the_report_is_whole_or_not_there(tmp_path, monkeypatch):
    figures = summary([replace(ROWS[0], licence="\udcff ä\n", split="\"'")], VIDEOS, {})
    write_report(tmp_path / "report.json", figures)
    assert json.loads((tmp_path / "report.json").read_bytes()) == figures
    before = (tmp_path / "report.json").read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(report.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(tmp_path / "report.json", summary([], [], {}))
    assert (tmp_path / "report.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def face_clip(
    folder, row: ClipRow, frames: int = 7, kind: str = "points", size: int = 120, margin: int = 15
) -> ClipRow:
    """A clip of the portrait, cropped by estimated landmarks."""
    top, bottom, left, right = BOX
    box = np.array([left, top, right, bottom], np.float32)
    points, geometry = estimate_points(box), CropGeometry(kind, size)
    matrix = geometry.matrix(box, points, (SIDE, SIDE))
    matrix[:, 2] += margin
    jpegs = [encode(crop(photo(), matrix, size + 2 * margin))] * frames
    stack = [np.repeat(x[None], frames, axis=0) for x in (box, points)]
    track = FaceTrack(*stack, np.ones(frames, bool), np.zeros(frames, np.int32), (SIDE, SIDE), "25")
    header = ClipHeader(row.video, "", 0.0, frames, speaker=row.speaker, crop=geometry, margin=margin)
    write_clip(folder / row.clip, header, jpegs, np.zeros(frames * 640, np.int16), track, np.zeros(99, bool))
    return replace(row, frames=frames, size=size)


def test_the_mouths_region_is_the_experts_square():
    assert mouth_region(CropGeometry("points", 96)).tolist() == [16, 28, 80, 92]
    assert mouth_region(CropGeometry("points", 144)).tolist() == [24, 42, 120, 138]
    assert mouth_region(CropGeometry("box", 96)).tolist() == [0, 48, 96, 96]


def test_corners_are_mapped_as_the_picture_was_cut():
    box, points = np.array([10, 20, 58, 68.0]), np.zeros((5, 2))
    points[3:] = [[21.5, 55.5], [45.5, 55.5]]
    # A 48-pixel box to 96: scale 2; pixel center 21.5 is 12 pixels from the box edge at 10, hence at 24.
    found = mouth_corners(CropGeometry("box", 96, (0, 0, 0, 0)), box, points, (200, 100))
    assert found == pytest.approx(np.array([[23.5, 71.5], [71.5, 71.5]]))
    template = np.array([[29, 12], [67, 12], [48, 35], [30, 60], [66, 60]]) * 2 + [30, 40]
    found = mouth_corners(CropGeometry("points", 96), box, template - 0.5, None)
    assert found == pytest.approx(np.array([[29.5, 59.5], [65.5, 59.5]]), abs=1e-6)


@pytest.mark.parametrize(("size", "margin"), [(120, 15), (96, 0), (200, 25)])
def test_the_marks_lie_on_the_mouth(tmp_path, shared, size, margin):
    row = face_clip(tmp_path, ROWS[0], size=size, margin=margin)
    path = tmp_path / "sheet.png"
    contact_sheet(tmp_path, [row], path)
    tile = cv2.imread(str(path))[: report.TILE, : report.TILE].astype(int)
    scale = report.TILE / (size + 2 * margin)
    green = np.argwhere(np.abs(tile - report.GREEN).max(axis=2) < 12)
    low, high = (margin + np.array([28, 16]) * size / 96) * scale, (margin + np.array([92, 80]) * size / 96) * scale
    assert green.min(axis=0) == pytest.approx(low, abs=1)
    assert green.max(axis=0) == pytest.approx(high, abs=1.5)
    yellow = np.argwhere(np.abs(tile - report.YELLOW).max(axis=2) < 12)[:, ::-1]
    yunet = load_detector("yunet", yunet=shared / "weights" / "face_detection_yunet_2026may.onnx")
    clean = report.Clip.open(tmp_path / row.clip).faces(0, 1)[0]
    mouth = yunet([clean])[0][0].points[3:] * scale
    sides = [yellow[yellow[:, 0] < mouth[:, 0].mean()], yellow[yellow[:, 0] >= mouth[:, 0].mean()]]
    for marks, corner in zip(sides, mouth, strict=True):
        assert (
            np.linalg.norm(marks.mean(axis=0) - corner) < 0.1 * report.TILE
        )  # the estimated position, not this face's own


def test_a_sheet_has_a_bounded_size_and_the_same_seed_gives_the_same(tmp_path):
    rows = [face_clip(tmp_path, replace(ROWS[0], clip=f"{k}.safetensors", speaker=f"s{k % 3} ü")) for k in range(7)]
    sizes = {1: (1, 1), 2: (1, 2), 3: (1, 3), 5: (2, 3), 99: (3, 3)}
    for count, (down, across) in sizes.items():
        contact_sheet(tmp_path, rows, tmp_path / "a.png", count)
        height, width = cv2.imread(str(tmp_path / "a.png")).shape[:2]
        expected = (down * (report.TILE + report.CAPTION), across * (5 * report.TILE + 8))
        assert (height, width) == expected
    contact_sheet(tmp_path, rows, tmp_path / "b.png", 99)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    many = [rows[k % 7] for k in range(report.MAX_CLIPS + 50)]
    contact_sheet(tmp_path, many, tmp_path / "a.png", 10**9)
    assert cv2.imread(str(tmp_path / "a.png")).shape[0] == report.MAX_CLIPS / 3 * (report.TILE + report.CAPTION)


def test_as_many_speakers_as_possible_are_drawn():
    rows = [replace(ROWS[0], clip=str(k), speaker="many" if k < 90 else f"s{k}") for k in range(100)]
    drawn = [report._choose(rows, 11, seed) for seed in range(5)]
    assert all(len({row.speaker for row in choice}) == 11 for choice in drawn)
    assert len({row.clip for choice in drawn for row in choice if row.speaker == "many"}) > 1
    assert len(report._choose(rows, 30, 0)) == 30
    assert len({row.clip for row in report._choose(rows, 100, 0)}) == 100


def test_only_clips_that_pass_are_drawn(tmp_path):
    rows = [face_clip(tmp_path, row) if row.clip else row for row in ROWS]
    drawn = report._choose([row for row in rows if row.passes], 9, 0)
    assert {row.clip for row in drawn} == {f"{k}.safetensors" for k in "abcd"}
    contact_sheet(tmp_path, rows[4:], tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()


def test_without_clips_there_is_no_sheet_and_no_old_one(tmp_path):
    path = tmp_path / "sheet.png"
    for rows, count in (([], 24), (ROWS, 0)):
        path.write_bytes(b"old")
        contact_sheet(tmp_path, rows, path, count)
        assert not path.exists()
    with pytest.raises(ValueError, match="count must be 0 or more clips, not -1"):
        contact_sheet(tmp_path, [], path, -1)


def test_a_missing_clip_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"a\.safetensors is not a prepared clip"):
        contact_sheet(tmp_path, ROWS[:1], tmp_path / "sheet.png")


def test_names_of_any_length_and_script_fit(tmp_path):
    row = replace(ROWS[0], speaker="ŁódŹ\n" * 100, clip="x" * 100 + ".safetensors")
    contact_sheet(tmp_path, [face_clip(tmp_path, row)], tmp_path / "sheet.png")
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    caption = sheet[report.TILE :].max(axis=(0, 2))
    assert caption[:500].max() > 200
    assert caption[-4:].max() == 0


def test_boxes_of_other_programs_and_faces_not_found_are_drawn(tmp_path):
    row = face_clip(tmp_path, ROWS[0], kind="box", margin=0, size=96)
    contact_sheet(tmp_path, [row], tmp_path / "sheet.png")
    tile = cv2.imread(str(tmp_path / "sheet.png"))[: report.TILE, : report.TILE].astype(int)
    green = np.argwhere(np.abs(tile - report.GREEN).max(axis=2) < 12)
    assert green.min(axis=0).tolist() == [report.TILE // 2, 0]
    nowhere = FaceTrack(np.full((7, 4), math.nan), np.full((7, 5, 2), math.nan), np.zeros(7, bool), np.zeros(7, int))
    header = ClipHeader("a", "", 0.0, 7, crop=CropGeometry("points", 48))
    black = encode(np.zeros((48, 48, 3), np.uint8))
    write_clip(tmp_path / row.clip, header, [black] * 7, np.zeros(9), nowhere, np.zeros(9))
    contact_sheet(tmp_path, [row], tmp_path / "sheet.png")
    assert not (np.abs(cv2.imread(str(tmp_path / "sheet.png")).astype(int) - report.YELLOW).max(axis=2) < 12).any()
