"""Writing that fails: one line, nothing left behind, and the old file spared."""

import os
import resource
import signal
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from preprocessing.errors import MediaError
from preprocessing.media.sound.mux import AudioSource
from preprocessing.media.video_reader import read_frames
from preprocessing.media.video_writer import VideoWriter, ffmpeg_binary
from tests.preprocessing.media.footage import photo
from tests.preprocessing.media.written import FPS, write


def test_wrong_arguments(tmp_path, clicks):
    for suffix in (".ogv", ".avi", ""):
        with pytest.raises(ValueError, match=r"must end in \.mp4, \.mov, \.mkv"):
            VideoWriter(tmp_path / f"out{suffix}", 64, 48, FPS)
    for width, fps, duration in ((0, FPS, None), (64, Fraction(0), None), (64, FPS, 0.0)):
        with pytest.raises(ValueError, match=r"must be positive|at least 2 pixels"):
            VideoWriter(tmp_path / "out.mp4", width, 48, fps, duration=duration)
    for wrong in ({"start": -1}, {"duration": 0}, {"gain": float("nan")}):
        with pytest.raises(ValueError, match="an audio source needs"):
            AudioSource(clicks, **wrong)
    with pytest.raises(ValueError, match=r"must be before the end of .*clicks\.wav at 2\.000 s, not 9"):
        VideoWriter(tmp_path / "out.mp4", 64, 48, FPS, sounds=[AudioSource(clicks, start=9)])
    with pytest.raises(ValueError, match="a frame must be"), VideoWriter(tmp_path / "out.mp4", 64, 48, FPS) as writer:
        writer.write(np.zeros((48, 64), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_sounds_are_looked_at_before_the_work(tmp_path):
    playlist = tmp_path / "list.wav"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nx.ts\n#EXT-X-ENDLIST\n")
    silent = write(tmp_path / "silent.mp4", 2)
    for path, words in (
        (tmp_path / "none.wav", "not exist"),
        (playlist, "playlist"),
        (silent, "has no audio"),
    ):
        with pytest.raises(MediaError, match=words):
            VideoWriter(tmp_path / "out.mp4", 64, 48, FPS, sounds=[AudioSource(path)])
    assert {path.name for path in tmp_path.iterdir()} == {"list.wav", "silent.mp4"}


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").touch()
    for path, words in (
        ("folder.mp4", "is a folder"),
        ("none/x.mp4", "No such file"),
        ("file/x.mp4", "Not a directory"),
    ):
        with pytest.raises(MediaError, match=words):
            VideoWriter(tmp_path / path, 64, 48, FPS)
    if os.geteuid():
        tmp_path.chmod(0o500)
        with pytest.raises(MediaError, match="Permission denied"):
            VideoWriter(tmp_path / "x.mp4", 64, 48, FPS)


def left_behind(folder):
    return [str(path) for path in folder.rglob("*")]


def test_no_frame_is_an_error(tmp_path):
    with pytest.raises(MediaError, match="no frame"):
        write(tmp_path / "out.mp4", 0)
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, GeneratorExit, RuntimeError])
def test_an_exception_leaves_nothing_and_spares_the_old_file(tmp_path, interruption):
    (tmp_path / "out.mp4").write_text("old")
    writer = VideoWriter(tmp_path / "out.mp4", 64, 48, FPS)
    writer.write(photo(64, 48))
    with pytest.raises(interruption), writer:
        raise interruption
    assert writer._encoder._process.returncode is not None  # reaped
    assert left_behind(tmp_path) == [str(tmp_path / "out.mp4")]
    assert (tmp_path / "out.mp4").read_text() == "old"


def fill(writer, count):
    for _ in range(count):
        writer.write(photo(640, 480))
    writer.close()


@pytest.mark.parametrize("more", [0, 50])  # it is missed at the end, or by the next frames
def test_a_killed_ffmpeg_is_reported(tmp_path, more):
    writer = VideoWriter(tmp_path / "out.mp4", 640, 480, FPS)
    writer.write(photo(640, 480))
    os.kill(writer._encoder._process.pid, signal.SIGKILL)
    with pytest.raises(MediaError, match=r"out\.mp4 cannot be written: ffmpeg was killed \(SIGKILL\)"):
        fill(writer, more)
    assert left_behind(tmp_path) == []


def test_ffmpegs_own_reason_is_passed_on(tmp_path, monkeypatch):
    fake = tmp_path / "bin" / "ffmpeg"
    fake.parent.mkdir()
    noise = "head -c 3000000 /dev/zero | tr '\\0' 'x' >&2; echo >&2"  # more than a pipe would hold
    fake.write_text(f"#!/bin/sh\n{noise}\necho '[out#0/mp4 @ 0x1] No space left on device' >&2\n"
                    "echo 'Conversion failed!' >&2\nexit 228\n")  # fmt: skip
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    assert ffmpeg_binary() == str(fake)
    (tmp_path / "out").mkdir()
    with pytest.raises(MediaError, match=r"out\.mp4 cannot be written: No space left on device$"):
        write(tmp_path / "out" / "out.mp4", 500)
    assert left_behind(tmp_path / "out") == []


def test_a_full_disk_leaves_nothing(tmp_path):
    script = (
        "import sys, resource, numpy as np; from fractions import Fraction\n"
        "from preprocessing.media.video_writer import VideoWriter\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "noise = np.random.default_rng(0)\n"
        "with VideoWriter(sys.argv[1], 320, 240, Fraction(25)) as writer:\n"
        "    for _ in range(20): writer.write(noise.integers(0, 256, (240, 320, 3), dtype=np.uint8))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "out.mp4")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert "MediaError" in result.stderr.splitlines()[-1]
    assert "out.mp4 cannot be written: " in result.stderr.splitlines()[-1]
    assert left_behind(tmp_path) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100_000


def test_close_twice_and_write_afterwards(tmp_path):
    writer = VideoWriter(tmp_path / "out.mp4", 64, 48, FPS)
    writer.write(photo(64, 48))
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.write(photo(64, 48))
    assert len(list(read_frames(tmp_path / "out.mp4"))) == 1


def test_two_runs_at_once_in_one_folder(tmp_path):
    threads = [threading.Thread(target=write, args=(tmp_path / "same.mp4", 25)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert left_behind(tmp_path) == [str(tmp_path / "same.mp4")]
    assert len(list(read_frames(tmp_path / "same.mp4"))) == 25
