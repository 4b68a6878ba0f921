"""Tables: any text survives, other tables are rejected, sync filter verdicts survive a rebuild of the same audio."""

from __future__ import annotations

import csv
import math
import os
from dataclasses import asdict, fields, replace

import numpy as np
import pytest

from preprocessing.dataset import manifest
from preprocessing.dataset.manifest import ClipRow, VideoRow, carry_sync_filter, read_manifest, read_videos, write_rows

NASTY = [
    "plain", "with space", 'a "quoted" name', "comma, semicolon; tab\t", "line\nfeed", "return\r", "both\r\n", "\n",
    "ends in a backslash\\", "'", '"', '""', "ünï — 日本語 🎬", "undecodable \udcff\udc80",
    "pair \udcc3\udca9 is not é", "lone \ud800", " leading and trailing ", "=1+1", "nul \x00 inside", "#", "nan",
    "None", "\ufeffmark",
]  # fmt: skip


def row(**values: object) -> ClipRow:
    defaults = {"clip": "clips/a/x__a0000.safetensors", "video": "x.mp4", "person": 0, "number": 0, "start": 0.04}
    return ClipRow(**defaults | {"seconds": 2.0, "frames": 50, "speaker": "a"} | values)  # type: ignore[arg-type]


def full_row() -> ClipRow:
    return row(
        person=1, number=12, start=61.48, split="val", language="en", licence="CC BY 4.0", size=160, side=101.5,
        sharpness=0.1 + 0.2, yaw=-12.0, roll=1e-17, missing=0.0, occluded=1.0, speech=2 / 3, level=-23.5, clipped=0.0,
        audio_sha256="ab" * 32, reason="side+yaw", offset=-1.0, confidence=7.25, sync_filter="offset",
    )  # fmt: skip


def test_every_value_comes_back_exactly(tmp_path):
    rows = [full_row(), row(offset=0.0, confidence=None)]
    write_rows(tmp_path / "manifest.csv", rows)
    first, second = read_manifest(tmp_path / "manifest.csv")
    assert first == rows[0]
    assert [type(value) for value in asdict(first).values()] == [type(value) for value in asdict(rows[0]).values()]
    assert (second.offset, second.confidence, second.sync_filter) == (0.0, None, "")
    assert all(math.isnan(getattr(second, name)) for name in ("side", "sharpness", "yaw", "speech", "level", "clipped"))


def test_numpy_numbers_are_written_as_numbers(tmp_path):
    write_rows(tmp_path / "m.csv", [row(frames=np.int64(50), side=np.float32(0.1), level=np.float64(-1 / 3))])
    back = read_manifest(tmp_path / "m.csv")[0]
    assert (back.frames, back.side, back.level) == (50, 0.1, -1 / 3)


@pytest.mark.parametrize("text", NASTY)
def test_any_text_survives_in_any_column(tmp_path, text):
    names = [field.name for field in fields(ClipRow) if field.type == "str"]
    rows = [row(**dict.fromkeys(names, text)), row(speaker=text), row(clip="", reason=text)]
    rows = [replace(r, **{f.name: 0.5 for f in fields(ClipRow) if f.type == "float"}) for r in rows]
    write_rows(tmp_path / "manifest.csv", rows)
    assert read_manifest(tmp_path / "manifest.csv") == rows
    video = VideoRow(text, text, text, text, text, 1.5, 2, 0.25, 3.0)
    write_rows(tmp_path / "videos.csv", [video, video])
    assert read_videos(tmp_path / "videos.csv") == [video, video]


def test_the_table_is_plain_csv_with_one_header(tmp_path):
    write_rows(tmp_path / "manifest.csv", [full_row()])
    with (tmp_path / "manifest.csv").open(encoding="utf-8", newline="") as file:
        (found,) = csv.DictReader(file)
    assert list(found) == [field.name for field in fields(ClipRow)]
    assert (found["clip"], found["start"], found["reason"], found["offset"]) == (
        "clips/a/x__a0000.safetensors", "61.48", "side+yaw", "-1.0",
    )  # fmt: skip


def test_an_empty_table_is_a_manifest_without_rows(tmp_path):
    write_rows(tmp_path / "manifest.csv", [])
    assert read_manifest(tmp_path / "manifest.csv") == []


def test_columns_may_be_moved_and_added_but_not_taken_away(tmp_path):
    path = tmp_path / "manifest.csv"
    names = [field.name for field in fields(ClipRow)]
    values = {**asdict(full_row()), "note": "mine"}
    for order in (["note", *reversed(names)], names[1:]):
        with path.open("w", encoding="utf-8-sig", newline="") as file:  # with the byte order mark Excel writes
            writer = csv.DictWriter(file, order, extrasaction="ignore")
            writer.writeheader()
            writer.writerow(values)
        if len(order) > len(names):
            assert read_manifest(path) == [full_row()]
        else:
            with pytest.raises(ValueError, match=r"manifest\.csv .*lacks the columns clip$"):
                read_manifest(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("61.48", "soon"), "line 2: could not convert string to float: 'soon'"),
        (lambda text: text.replace(",12,", ",,"), "line 2: invalid literal for int"),
        (lambda text: text[: text.index("CC BY")], "line 2 ends after 11 columns"),
        (lambda text: "", "lacks the columns clip, video"),
        (lambda text: text.replace(",", ";"), "lacks the columns"),
        (lambda text: text.replace("val", '"val'), "unexpected end of data"),
        (lambda text: text.replace("val", "v" * 200_000), "field larger"),
    ],
)
def test_a_damaged_table_is_refused_in_one_line_that_names_it(tmp_path, change, message):
    path = tmp_path / "manifest.csv"
    write_rows(path, [full_row()])
    path.write_bytes(change(path.read_bytes().decode()).encode())
    with pytest.raises(ValueError, match=message) as caught:
        read_manifest(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_and_a_missing_table_are_refused(tmp_path):
    (tmp_path / "m.csv").write_bytes(b"\xff\xfe\x00clip")
    for name in ("m.csv", "missing.csv"):
        with pytest.raises(ValueError, match=name):
            read_manifest(tmp_path / name)


def test_a_write_that_fails_leaves_the_old_table(tmp_path, monkeypatch):
    path = tmp_path / "manifest.csv"
    write_rows(path, [full_row()])

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(manifest.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_rows(path, [row(speaker="b")])
    assert read_manifest(path) == [full_row()]
    assert os.listdir(tmp_path) == ["manifest.csv"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(
    ("reason", "verdict", "passes"),
    [("", "", True), ("", "pass", True), ("", "offset", False), ("side", "", False), ("yaw+roll", "pass", False)],
)
def test_a_clip_passes_the_gates_and_the_expert(reason, verdict, passes):
    assert row(reason=reason, sync_filter=verdict).passes is passes


def test_screening_is_kept_where_clip_and_sound_agree():
    filtered = {"offset": 1.0, "confidence": 5.0, "sync_filter": "offset"}
    old = [
        row(clip="a", audio_sha256="1", **filtered),
        row(clip="b", audio_sha256="2", **filtered),
        row(clip="", audio_sha256="3", **filtered),
        row(clip="d", audio_sha256="4", offset=0.0, confidence=8.0, sync_filter="pass"),
    ]
    new = [row(clip=clip, audio_sha256=digest) for clip, digest in (("d", "4"), ("a", "1"), ("b", "9"), ("", "3"))]
    carry_sync_filter(new, old)
    assert [(r.offset, r.confidence, r.sync_filter) for r in new] == [
        (0.0, 8.0, "pass"), (1.0, 5.0, "offset"), (None, None, ""), (None, None, ""),
    ]  # fmt: skip
