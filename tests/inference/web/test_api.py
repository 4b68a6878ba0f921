"""The API without workers: jobs, options, uploads from strangers, problem details, the description."""

from __future__ import annotations

import json
import os
import struct
from contextlib import chdir
from pathlib import Path

import pytest

from inference.options import PATH_OPTIONS
from inference.web.api.schemas import job_progress
from inference.web.jobs.files import JobFiles, is_id
from inference.web.jobs.inspection import audio_seconds, look_at_job, look_at_people
from inference.web.jobs.options import client_options, parse_options
from inference.web.jobs.queue import JobQueue
from preprocessing.errors import MediaError, UsageError, Wav2LipError
from tests.inference.web.conftest import job_form, local
from tests.inference.web.test_gate import problem
from tests.material import write_speech


def stored(folder: Path) -> list[str]:
    """Everything in the folders of jobs and uploads."""
    return sorted(
        path.relative_to(folder / "data").as_posix()
        for parent in ("jobs", "uploads")
        for path in (folder / "data" / parent).rglob("*")
    )


def test_a_job_waits_in_the_queue(client, inputs, tmp_path):
    reply = client.post("/api/jobs", **job_form(inputs, options='{"strength": 0.8, "sync-mode": "loop"}'))
    assert reply.status_code == 201, reply.text
    job = reply.json()
    assert is_id(job["id"])
    assert reply.headers["location"] == f"/api/jobs/{job['id']}"
    assert (job["state"], job["position"], job["progress"], job["eta"]) == ("queued", 0, 0.0, None)
    assert job["options"] == {"strength": 0.8, "sync_mode": "loop"}
    assert job["original"] == {"width": 160, "height": 160, "photo": True, "seconds": None, "type": "image/png",
                               "people_known": False}  # fmt: skip
    assert client.get(f"/api/jobs/{job['id']}").json() == job
    assert stored(tmp_path) == [f"jobs/{job['id']}{name}" for name in ("", "/audio", "/face")]
    for path in (tmp_path / "data", tmp_path / "data/jobs" / job["id"]):
        assert path.stat().st_mode & 0o077 == 0, "others can read it"
    assert "no result: it is queued" in problem(client.get(f"/api/jobs/{job['id']}/result"), 409)
    left = client.delete(f"/api/jobs/{job['id']}").json()
    assert left["state"] == "cancelled"
    assert stored(tmp_path) == []
    assert client.delete(f"/api/jobs/{job['id']}").json() is None
    assert "no such job" in problem(client.get(f"/api/jobs/{job['id']}"), 404)


def test_limits_of_queue_and_length(tmp_path, inputs):
    client = local(tmp_path, queue=1, seconds=2.5)
    assert client.post("/api/jobs", **job_form(inputs)).status_code == 201
    full = client.post("/api/jobs", **job_form(inputs))
    assert "waiting already" in problem(full, 503)
    assert full.headers["retry-after"] == "60"
    assert len(stored(tmp_path)) == 3, "the refused upload is gone"
    form = job_form(inputs)
    form["files"]["audio"] = ("long.wav", write_speech(tmp_path / "long.wav", 3.0).read_bytes())
    assert "longer than this service takes: 2.5 s" in problem(client.post("/api/jobs", **form), 422)


@pytest.mark.parametrize(
    ("options", "stages"),
    [
        ({}, ["analysis", "render"]),
        ({"face_id": 2}, ["people", "analysis", "render"]),
        ({"select": "speaking"}, ["people", "speakers", "analysis", "render"]),
    ],
)
def test_progress_never_goes_back(tmp_path, options, stages):
    queue = JobQueue(tmp_path / "queue.sqlite3")
    queue.add("a", options, {}, 1)
    job, told = queue.claim("w"), []
    for stage in stages:
        for done in range(5):
            queue.progress(job, stage, done, 4)
            told.append(job_progress(queue.get("a")))
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0, pytest.approx(1))


@pytest.mark.parametrize("missing", ["face", "audio"])
def test_missing_parts(client, inputs, missing, tmp_path):
    form = job_form(inputs)
    del form["files"][missing]
    assert missing in problem(client.post("/api/jobs", **form), 422 if missing == "audio" else 400)
    assert stored(tmp_path) == []


@pytest.mark.parametrize(
    "job_id", ["x", "../../etc/passwd", "..%2f..%2fqueue.sqlite3", "0" * 32, "A" * 32, "%00", "é" * 32]
)
def test_ids_that_are_not_ours(client, job_id, tmp_path):
    for path in (f"/api/jobs/{job_id}", f"/api/jobs/{job_id}/result", f"/api/jobs/{job_id}/events"):
        assert client.get(path).status_code == 404
    assert client.delete(f"/api/jobs/{job_id}").status_code in (404, 405)  # 405: the client resolved the dots itself


@pytest.mark.parametrize("path", ["/../settings.py", "/%2e%2e/settings.py", "/..%2fcommand.py", "/docs/%2e%2e/main.py"])
def test_only_the_page_s_own_files_are_served(client, path):
    assert client.get(path).status_code == 404


# Options ------------------------------------------------------------------------------------------------------------


def test_no_client_names_a_file():
    offered = client_options()
    assert {"strength", "sync_mode", "face_id", "start", "rest"} <= set(offered)
    assert not PATH_OPTIONS & set(offered)
    assert not {"detector", "sign", "batch_size", "preview"} & set(offered)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "must be a JSON object"),
        ("{", "must be a JSON object"),
        ('{"strength": NaN}', "must be a JSON object"),
        ("[" * 5000, "must be a JSON object"),
        ("{" + " " * 20_000 + "}", "at most 10000 characters"),
        ('{"yunet": "/etc/passwd"}', "'yunet' is not an option of this service; known: fps,"),
        ('{"save-track": "x"}', "'save_track' is not an option of this service"),
        ('{"sign": true}', "'sign' is not an option of this service"),
        ('{"\\u001b[2J\\n": 1}', "is not an option"),
        ('{"strength": 2}', "strength must be between 0 and 1.5, not 2"),
        ('{"strength": [1]}', "strength must be a number"),
        ('{"crop": [1, 2]}', "crop must be four integers"),
        ('{"select": "x; rm -rf /"}', "select must be one of largest"),
        ('{"start": 3, "end": 2}', "end must be after start"),
    ],
)
def test_wrong_options(text, message):
    with pytest.raises(UsageError) as error:
        parse_options(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert "\x1b" not in str(error.value)


def test_wrong_options_are_a_problem(client, inputs, tmp_path):
    reply = client.post("/api/jobs", **job_form(inputs, options='{"strength": 2}'))
    assert problem(reply, 400) == "strength must be between 0 and 1.5, not 2"
    assert stored(tmp_path) == []


# Uploads from strangers ---------------------------------------------------------------------------------------------


def box(kind: bytes, size: int, data: bytes = b"") -> bytes:
    return struct.pack(">I", size) + kind + data


MP4 = box(b"ftyp", 20, b"isom\0\0\2\0isom")
HOSTILE = {
    "a script": (b"#!/bin/sh\nrm -rf /\n" * 20, "not a readable video"),
    "an empty file": (b"", "is empty"),
    "a 2 GB header": (MP4 + box(b"moov", 2**31 - 1, os.urandom(3000)), "has no "),
    "a 2 GB table": (
        MP4
        + box(b"moov", 60, box(b"trak", 52, box(b"stts", 44, b"\0\0\0\0" + struct.pack(">I", 2**31 - 1) + bytes(28)))),
        "not a readable video",
    ),
    "a playlist": (b"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", "a playlist"),
    "a concatenation": (b"ffconcat version 1.0\nfile '/etc/passwd'\n", "a playlist"),
    "a page": (b"<!doctype html><script>alert(1)</script>" * 30, "not a readable video"),
    "a drawing": (
        b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://evil.example/"/></svg>',
        "not a readable",
    ),
}


@pytest.fixture
def folder(tmp_path, inputs):
    """A job's folder with valid files, as working directory."""
    (tmp_path / "face").write_bytes((inputs / "face.png").read_bytes())
    (tmp_path / "audio").write_bytes((inputs / "speech.wav").read_bytes())
    with chdir(tmp_path):
        yield tmp_path


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("part", ["face", "audio"])
def test_hostile_upload(folder, name, part):
    data, message = HOSTILE[name]
    (folder / part).write_bytes(data)
    with pytest.raises(Wav2LipError) as error:
        look_at_job({}, 600)
    text = str(error.value)
    assert message in text
    assert text.startswith(f"{part} "), "the message names the part, and no path of the service"
    assert str(folder) not in text


@pytest.mark.parametrize(
    "name", ["../../../../tmp/pwned", "-i /etc/passwd", "a\r\nX-Evil: 1.mp4", "C:\\x.mp4", "\x1b[31m"]
)
def test_a_file_name_is_never_used(client, inputs, tmp_path, name, caplog):
    form = job_form(inputs)
    form["files"]["face"] = (name, b"#!/bin/sh\n" * 100)
    reply = client.post("/api/jobs", **form)
    detail = problem(reply, 422)
    assert "not a readable video" in detail
    assert detail.startswith("face ")
    assert "pwned" not in detail + caplog.text
    assert "\x1b" not in detail + caplog.text
    assert stored(tmp_path) == []
    assert not Path("/tmp/pwned").exists()


def test_a_crash_of_the_inspection_is_a_message(client, inputs, monkeypatch, tmp_path):
    monkeypatch.setattr("inference.web.jobs.inspection._environment", lambda: {"PYTHONPATH": "/nowhere"})
    assert "limits of memory and time" in problem(client.post("/api/jobs", **job_form(inputs)), 422)
    assert stored(tmp_path) == []


def test_length_is_measured_by_packets_not_by_the_header(folder):
    samples = bytearray((folder / "audio").read_bytes())
    at = samples.index(b"data") + 4
    assert audio_seconds(folder / "audio", 600) == pytest.approx(2.0, abs=0.1)
    samples[at : at + 4] = struct.pack("<I", 2000)  # the header promises 0.05 s; the samples go on
    (folder / "audio").write_bytes(samples)
    assert audio_seconds(folder / "audio", 600) < 2.1
    assert audio_seconds(folder / "audio", 0.5) < 1.0, "it stops counting"


# Faces --------------------------------------------------------------------------------------------------------------


def test_people_of_an_upload(folder):
    found = look_at_people({"detector": "haar"}, 600)
    assert found["original"]["photo"]
    (person,) = found["people"]
    assert person["share"] == 1
    assert person["thumbnail"].startswith("data:image/jpeg;base64,/9j/")


def test_no_face(folder):
    from skimage import data, io

    io.imsave(folder / "wall.png", data.brick())
    (folder / "wall.png").rename(folder / "face")
    with pytest.raises(MediaError, match="face shows no face"):
        look_at_people({"detector": "haar"}, 600)


def test_an_uploaded_face_is_used_by_its_name(client, inputs, tmp_path):
    files = JobFiles(tmp_path / "data")
    upload = files.new(files.uploads)
    (upload / "face").write_bytes((inputs / "face.png").read_bytes())
    form = job_form(inputs, upload=upload.name)
    assert "either a face file or the upload" in problem(client.post("/api/jobs", **form), 400)
    del form["files"]["face"]
    found = client.post("/api/faces", data={"upload": upload.name, "options": '{"rotate": true}'})
    assert "shows no face" in problem(found, 422), "it lies on its side"
    job = client.post("/api/jobs", **form).json()
    assert job["original"]["type"] == "image/png"
    assert "strength must be" in problem(
        client.post("/api/faces", data={"upload": upload.name, "options": '{"strength": 9}'}), 400
    )
    for unknown in ("0" * 32, "../jobs", ""):
        form["data"]["upload"] = unknown
        assert client.post("/api/jobs", **form).status_code in (400, 404)


# Age ----------------------------------------------------------------------------------------------------------------


def test_old_uploads_and_folders_of_no_job_are_swept(tmp_path):
    files = JobFiles(tmp_path / "data")
    files.create()
    old, young = files.new(files.uploads), files.new(files.uploads)
    known, lost = files.new(files.jobs), files.new(files.jobs)
    for path in (old, known, lost):
        os.utime(path, (0, 0))
    files.sweep([known.name])
    assert [path.exists() for path in (old, young, known, lost)] == [False, True, True, False]


def test_what_was_spooled_before_a_crash_is_removed(tmp_path):
    files = JobFiles(tmp_path / "data")
    files.create()
    (files.temporary / "left").write_bytes(b"0")
    files.create()
    assert not (files.temporary / "left").exists()
    with pytest.raises(ValueError, match="not an id"):
        files.job("../x")


# Description --------------------------------------------------------------------------------------------------------


def test_health_and_description(client, tmp_path):
    health = client.get("/api/health").json()
    assert health["status"] == "starting", "no worker runs"
    assert health["limits"]["upload_mb"] == 500
    assert health["options"]["strength"] == 1.0
    JobQueue(tmp_path / "data/queue.sqlite3").report_worker("w", "failed", "g.pth is not a generator")
    broken = client.get("/api/health").json()
    assert (broken["status"], broken["detail"]) == ("failed", "g.pth is not a generator")
    paths = client.get("/openapi.json").json()["paths"]
    assert {
        "/api/jobs",
        "/api/jobs/{job_id}",
        "/api/jobs/{job_id}/events",
        "/api/jobs/{job_id}/result",
        "/api/faces",
    } <= set(paths)
    assert "Problem" in json.dumps(paths)
    docs = client.get("/docs")
    assert "swagger-ui-bundle.js" in docs.text
    assert client.get("/docs/swagger-ui-bundle.js").status_code == 200
    assert "http" not in docs.text.replace("http-equiv", "")


def test_wrong_method_and_path(client):
    problem(client.put("/api/jobs"), 405)
    problem(client.get("/api/nothing"), 404)
