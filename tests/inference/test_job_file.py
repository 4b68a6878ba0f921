"""Job files: what they may say, and the one line for what they may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference.job import Job, read_config
from inference.options import Options
from inference.parts import Part
from preprocessing.errors import MediaError, UsageError

GOOD = """
face: talk.mp4
out: sub/out.mp4
keep-audio: 0.2
crf: 18
yunet: /models/yunet.onnx
parts:
  - {person: 1, audio: a.wav, from: 3.2, to: 9.0}
  - {person: speaking, audio: b.wav, from: 1:10}
  - {person: [2, 5], audio: /sounds/c.wav, keep_audio: 0.5}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_job_file_means_its_own_folder(tmp_path):
    job = Job.of(read_config(written(tmp_path, GOOD)))
    assert (job.face, job.outfile, job.audio) == (tmp_path / "talk.mp4", tmp_path / "sub/out.mp4", None)
    assert job.options == Options(keep_audio=0.2, crf=18, yunet=Path("/models/yunet.onnx"))
    assert job.parts == (
        Part(tmp_path / "a.wav", 1, 3.2, 9.0),
        Part(tmp_path / "b.wav", "speaking", 70.0),
        Part(Path("/sounds/c.wav"), (2, 5), keep_audio=0.5),
    )


def test_json_is_a_job_file_too(tmp_path):
    text = '{"face": "a.mp4", "audio": "b.wav", "outfile": "c.mp4", "box": [1, 2, 3, 4], "rest": false}'
    job = Job.of(read_config(written(tmp_path, text)))
    assert (job.audio, job.options.box, job.options.rest) == (tmp_path / "b.wav", (1, 2, 3, 4), False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("just words", "must hold names and values"),
        ("face: [", "job.yaml, line 1"),
        ("parts: []", "parts must be a list of 1 to 200"),
        ("parts: [{person: 0, audio: a}]", "part 1: person must be a number from 1"),
        ("parts: [{person: 1.5, audio: a}]", "part 1: person must be a number from 1"),
        ("parts: [{person: true, audio: a}]", "part 1: person must be a number from 1"),
        ("parts: [{person: somebody, audio: a}]", "part 1: select must be one of"),
        ("parts: [{person: 1, audio: a}, {person: 1}]", "part 2: audio is missing"),
        ("parts: [{person: 1, audio: a, til: 3}]", "part 1: unknown entry 'til'; known: person, audio, from, to"),
        ("parts: [{person: 1, audio: a, from: 3, to: 2}]", "not 3 to 2"),
        ("parts: [{person: 1, audio: a, from: -1}]", "not -1"),
        ("parts: [{person: 1, audio: a, from: soon}]", "part 1: from must be a number, not 'soon'"),
        ("parts: [left]", "part 1: a part must have person, audio"),
        ("a: &a [x, x]\nb: [*a, *a]", "aliases"),
        ("face: !!python/object/apply:os.system [id]", "could not determine a constructor"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, text, message):
    with pytest.raises(UsageError) as error:
        read_config(written(tmp_path, text))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(MediaError, match=r"none.yaml cannot be read: No such file"):
        read_config(tmp_path / "none.yaml")
    (tmp_path / "job.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="YAML"):
        read_config(tmp_path / "job.yaml")


PART = Part(Path("a.wav"), 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"face": "a", "outfile": "b"}, "audio is missing"),
        ({"face": "a", "outfile": "b", "audio": "c", "parts": (PART,)}, "either audio"),
        ({"face": "a", "outfile": "b", "parts": (PART,), "select": "left"}, "select is for one sound"),
        ({"face": "a", "outfile": "b", "parts": (PART,), "save_track": "t"}, "save_track is for one face"),
        ({"outfile": "b", "audio": "c"}, "face is missing"),
        ({"face": "a", "outfile": "b", "audio": "c", "colour": 1}, "unknown option 'colour'"),
        ({"face": "a", "outfile": "b", "audio": "c", "load_track": "t", "select": "left"}, "already says which face"),
        ({"face": "a", "outfile": "b", "audio": "c", "load_track": "t", "face_id": 1}, "already says which face"),
        ({"face": "a", "outfile": "b", "audio": "c", "box": [1, 2, 3, 4], "select": "all"}, "already says which face"),
        ({"face": "a", "outfile": "b", "audio": "c", "face_id": 1, "select": "left"}, "both say which face"),
    ],
)
def test_contradictions(values, message):
    with pytest.raises(UsageError, match=message):
        Job.of(values)
