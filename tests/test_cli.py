"""The command: what it accepts, what it refuses, and that a refusal is one line and leaves nothing behind."""

from __future__ import annotations

import os
import pickle
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from material import (
    BOX, SIDE, photo, pictures_of, sound_of, write_generator, write_photo, write_sound, write_speech,
    write_video,
)  # fmt: skip
from skimage.data import brick

from inference.cli import main
from preprocessing.writer import ffmpeg_binary
from syncnet.model import SyncNet
from training.checkpoint import Checkpoint
from wav2lip.model import Generator

REPOSITORY = Path(__file__).resolve().parents[1]
BOX_FLAG = ["--box", *map(str, BOX)]


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    """A folder with face.png, face.mp4 (10 pictures, with sound), speech.wav (0.4 s) and generator.safetensors."""
    folder = tmp_path_factory.mktemp("media")
    write_photo(folder / "face.png")
    write_speech(folder / "speech.wav", 0.4)
    write_video(folder / "face.mp4", [photo()] * 10, sound=folder / "speech.wav")
    write_generator(folder / "generator.safetensors")
    return folder


@pytest.fixture
def out(tmp_path, monkeypatch) -> Path:
    """An empty folder for outputs, which is also the working directory."""
    folder = tmp_path / "out"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def command(media: Path, **flags: object) -> list[str]:
    """Flags of a job that works, but for those that are replaced."""
    chosen = {
        "face": media / "face.png", "audio": media / "speech.wav", "outfile": "out.mp4",
        "checkpoint_path": media / "generator.safetensors", "backend": "torch", "device": "cpu", "detector": "haar",
    } | flags  # fmt: skip
    return [part for name, value in chosen.items() if value is not None for part in (f"--{name}", str(value))]


def run(argv: list[str]) -> int:
    try:
        return main(argv)
    except SystemExit as error:
        return int(error.code or 0)


def one_line(text: str) -> str:
    assert text.startswith("inference.py: error: ")
    assert text.endswith("\n")
    assert text.count("\n") == 1
    assert "Traceback" not in text
    return text


@pytest.fixture
def refuse(capsys, out) -> Callable[..., str]:
    """Runs the command in process, which must refuse with that code; gives back its one line."""

    def check(code: int, argv: list[str], left: tuple[str, ...] = ()) -> str:
        assert run(argv) == code
        told = capsys.readouterr()
        assert told.out == ""
        assert sorted(p.name for p in out.iterdir()) == sorted(left)
        return one_line(told.err)

    return check


# What is wrong with a file ------------------------------------------------------------------------------------------


def grey_png(side: int) -> bytes:
    """A valid square of black pixels, one bit each."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = zlib.compress((b"\0" + bytes((side + 7) // 8)) * side)
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def without_index(path: Path) -> Path:
    """An mp4 whose index (moov) lies at its end and is cut off."""
    with av.open(str(path), "w", options={"movflags": ""}) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        for _ in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(photo(), format="bgr24")))
        container.mux(stream.encode(None))
    data = path.read_bytes()
    assert data.index(b"moov") > data.index(b"mdat")
    path.write_bytes(data[: len(data) * 6 // 10])
    return path


def test_missing_file(refuse, media):
    assert "nowhere.mp4 does not exist" in refuse(1, command(media, face="nowhere.mp4"))
    assert "nowhere.wav does not exist" in refuse(1, command(media, audio="nowhere.wav"))


def test_folder(refuse, media, tmp_path):
    assert "is a folder" in refuse(1, command(media, face=media))
    assert "is a folder" in refuse(1, command(media, audio=media))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"just some text, as long as one likes\n" * 50, "is not a video, photo or sound"),
        (os.urandom(5000), "is not a video, photo or sound"),
        (b"ffconcat version 1.0\nfile 'face.mp4'\n", "playlist"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nface.mp4\n#EXT-X-ENDLIST\n", "playlist"),
        (b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n", "playlist"),
    ],
    ids=["empty", "text", "noise", "ffconcat", "m3u8", "sdp"],
)
def test_no_medium_inside(refuse, media, tmp_path, content, message):
    video = tmp_path / "video.mp4"
    video.write_bytes(content)
    write_video(tmp_path / "face.mp4", [photo()] * 3)  # what the playlists name is really there
    assert message in refuse(1, command(media, face=video))
    assert message in refuse(1, command(media, audio=video))


def test_video_without_index(refuse, media, tmp_path):
    assert "damaged" in refuse(1, command(media, face=without_index(tmp_path / "cut.mp4")))


def test_video_that_ends_early_works_with_what_is_there(media, tmp_path, out, capsys):
    noise = np.random.default_rng(0).integers(0, 60, (40, SIDE, SIDE, 3), np.uint8)
    whole = write_video(tmp_path / "whole.mp4", [photo() // 2 + grain for grain in noise])
    data = whole.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 6 // 10])
    argv = command(media, face=tmp_path / "cut.mp4", audio=write_speech(tmp_path / "long.wav", 1.6), sync_mode="cut")
    assert run([*argv, *BOX_FLAG]) == 0
    assert 10 <= len(pictures_of(out / "out.mp4")) < 40


def test_video_without_pictures(refuse, media):
    assert "has no video stream" in refuse(1, command(media, face=media / "speech.wav"))


def test_sound_without_samples(refuse, media, tmp_path):
    assert "without samples" in refuse(1, command(media, audio=write_sound(tmp_path / "none.wav", np.zeros(0))))


def test_sound_from_a_silent_film(refuse, media, tmp_path):
    assert "has no sound" in refuse(1, command(media, audio=write_video(tmp_path / "silent.mp4", [photo()] * 3)))
    assert "has no sound" in refuse(1, command(media, audio=media / "face.png"))


def test_too_little_sound(refuse, media, tmp_path):
    short = write_speech(tmp_path / "short.wav", 0.05)
    assert "lasts 0.05 s: at least 0.1 s of speech are needed" in refuse(1, command(media, audio=short))


@pytest.mark.parametrize(("side", "message"), [(1, "1x1: each side must have at least"), (8000, "8000x8000: at most")])
def test_sizes_that_cannot_be_worked_on(refuse, media, tmp_path, side, message):
    (tmp_path / "square.png").write_bytes(grey_png(side))
    assert message in refuse(1, command(media, face=tmp_path / "square.png"))


def test_no_face_anywhere(refuse, media, tmp_path):
    wall = cv2.resize(cv2.cvtColor(brick(), cv2.COLOR_GRAY2BGR), (SIDE, SIDE))
    (tmp_path / "wall.png").write_bytes(cv2.imencode(".png", wall)[1].tobytes())
    assert "shows no face" in refuse(1, command(media, face=tmp_path / "wall.png", preview=2, save_track="track.json"))
    video = write_video(tmp_path / "wall.mp4", [wall] * 12)
    assert "shows no face" in refuse(1, command(media, face=video))


# What is wrong with a flag ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--box 0 500 0 100", "does not lie inside the picture of 160x160"),
        ("--box -5 100 0 100", "does not lie inside"),
        ("--box 100 20 10 90", "does not lie inside"),
        ("--box 20 100 90 10", "does not lie inside"),
        ("--box 20 100 20", "--box"),
        ("--box a b c d", "--box"),
        ("--crop 0 500 0 -1", "does not lie inside"),
        ("--nonsense", "unrecognized arguments: --nonsense"),
        ("--preview", "--preview"),
        ("--sync-mode backwards", "choose from"),
        ("--fps 1/0", "'1/0' is no number such as 25"),
        ("--fps nan", "is no number"),
        ("--fps 0", "fps lies between 1 and 240"),
        ("--batch-size 0", "batch_size lies between"),
        ("--crf 60", "crf lies between 0 and 51"),
        ("--start nan", "start lies between"),
        ("--end nan", "end lies between"),
        ("--start 3 --end 2", "end must lie after start (3 s)"),
        ("--face-id -1", "face_id lies between"),
        ("--select somebody", "select is one of largest"),
        ("--keep-audio=-1", "keep_audio lies between"),
        ("--resize-factor 0", "resize_factor lies between"),
        ("--load-track nothing.json", "no face track at nothing.json"),
    ],
)
def test_wrong_flag(refuse, media, flags, message):
    assert message in refuse(2, [*command(media), *flags.split()])


def test_start_after_the_end(refuse, media):
    assert "after the video's end" in refuse(2, command(media, face=media / "face.mp4", start=7))


def test_nothing_asked_for(refuse):
    assert "required: --face, --audio" in refuse(2, [])


# What is wrong with the output --------------------------------------------------------------------------------------


def test_folder_that_is_missing_or_a_file(refuse, media, tmp_path):
    (tmp_path / "file").write_text("kept")
    assert "nowhere does not exist" in refuse(1, command(media, outfile="nowhere/out.mp4"))
    assert "file is not a folder" in refuse(1, command(media, outfile=tmp_path / "file/out.mp4"))
    assert "cannot be written" in refuse(1, command(media, save_track="nowhere/track.json"))
    assert (tmp_path / "file").read_text() == "kept"


def test_output_that_is_no_file(refuse, media, out):
    assert "/dev/full is not a regular file" in refuse(1, command(media, outfile="/dev/full"))
    (out / "link.mp4").symlink_to("/dev/full")
    assert "not a regular file" in refuse(1, command(media, outfile="link.mp4"), ("link.mp4",))
    (out / "folder.mp4").mkdir()
    assert "is a folder" in refuse(1, command(media, outfile="folder.mp4"), ("link.mp4", "folder.mp4"))


def test_container_that_is_not_offered(refuse, media):
    assert "must end in .mp4, .mov, .mkv" in refuse(2, command(media, outfile="out.avi"))


def test_output_that_is_an_input(refuse, media, tmp_path, out):
    face = write_video(out / "face.mp4", [photo()] * 3)
    before = face.read_bytes()
    (out / "symlink.mp4").symlink_to(face)
    os.link(face, out / "hardlink.mp4")
    names = ("face.mp4", "symlink.mp4", "hardlink.mp4")
    for name in (*names, "../out/face.mp4"):
        assert "is also an input" in refuse(2, command(media, face=face, outfile=name), names)
        assert "is also an input" in refuse(2, command(media, audio=face, outfile=name), names)
    assert "is also an input" in refuse(2, command(media, face=face, save_track="hardlink.mp4"), names)
    assert face.read_bytes() == before


def test_other_outputs_do_not_replace_inputs_or_each_other(refuse, media, out):
    sheet = write_photo(out / "out.preview.png")
    argv = command(media, face=sheet, preview=2)
    assert "out.preview.png is also an input" in refuse(2, argv, ("out.preview.png",))
    sheet.unlink()
    assert "two outputs" in refuse(2, command(media, save_track="out.mp4"))
    weights = write_generator(out / "g.safetensors")
    argv = command(media, checkpoint_path=weights, save_track="g.safetensors")
    assert "is also an input" in refuse(2, argv, ("g.safetensors",))


@pytest.mark.parametrize("stage", ["picture", "joined"])
def test_full_disk(refuse, media, tmp_path, monkeypatch, stage):
    """An ffmpeg that may write no more than a few hundred bytes, while it encodes or while it joins the sound."""
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "ffmpeg"
    limit = f'trap "" XFSZ\ncase "$*" in *{stage}.mp4*) ulimit -f 1;; esac\n'
    script.write_text(f'#!/bin/sh\n{limit}exec "{ffmpeg_binary()}" "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    argv = command(media, preview=2, save_track="track.json")
    assert "out.mp4 cannot be written" in refuse(1, argv)


def test_failure_takes_the_default_folder_away_again(refuse, media):
    refuse(1, command(media, outfile=None, face="nowhere.mp4"))


def test_an_older_output_survives_a_failure(refuse, media, out):
    (out / "out.mp4").write_bytes(b"an earlier result")
    refuse(2, [*command(media), "--box", "0", "500", "0", "10"], ("out.mp4",))
    assert (out / "out.mp4").read_bytes() == b"an earlier result"


# What is wrong with the checkpoint ----------------------------------------------------------------------------------


class Malice:
    """Makes a folder while it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_malicious_pickle_is_not_run(refuse, media, tmp_path):
    mark = tmp_path / "the-pickle-was-run"
    with open(tmp_path / "old.pth", "wb") as file:
        pickle.dump({"state_dict": Malice(mark)}, file)
    torch.save({"state_dict": {"x": torch.zeros(1)}, "global_step": Malice(mark)}, tmp_path / "new.pth")
    for name in ("old.pth", "new.pth"):
        assert "refused" in refuse(1, command(media, checkpoint_path=tmp_path / name))
        assert not mark.exists()
    pickle.loads((tmp_path / "old.pth").read_bytes())
    assert mark.exists()  # it would have done so


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"no weights here " * 99, "is no PyTorch file"), (b"<!DOCTYPE html><html>", "is HTML")],
)
def test_file_that_is_no_checkpoint(refuse, media, tmp_path, content, message):
    (tmp_path / "weights.pth").write_bytes(content)
    assert message in refuse(1, command(media, checkpoint_path=tmp_path / "weights.pth"))


def test_checkpoint_that_is_absent_or_a_folder(refuse, media):
    assert "cannot be opened" in refuse(1, command(media, checkpoint_path="nowhere.pth"))
    assert "cannot be opened" in refuse(1, command(media, checkpoint_path=media))


def test_truncated_checkpoint(refuse, media, tmp_path):
    data = (media / "generator.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: len(data) // 2])
    assert "truncated" in refuse(1, command(media, checkpoint_path=tmp_path / "cut.safetensors"))
    torch.save({"state_dict": {"output_block.0.weight": torch.zeros(5000)}}, tmp_path / "whole.pth")
    data = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(data[: len(data) // 2])
    assert "truncated or damaged" in refuse(1, command(media, checkpoint_path=tmp_path / "cut.pth"))


def test_expert_instead_of_a_generator(refuse, media, tmp_path):
    torch.save({"state_dict": SyncNet().state_dict()}, tmp_path / "expert.pth")
    told = refuse(1, command(media, checkpoint_path=tmp_path / "expert.pth"))
    assert "holds a SyncNet expert, not a generator" in told
    Checkpoint("syncnet", {}, {}, {}, {"x": torch.zeros(1)}).save(tmp_path / "expert.safetensors")
    told = refuse(1, command(media, checkpoint_path=tmp_path / "expert.safetensors"))
    assert "'syncnet', where 'generator' is needed" in told


def test_released_generator_works_with_the_detectors_box(media, tmp_path, out, capsys):
    torch.manual_seed(0)
    torch.save({"state_dict": Generator().state_dict(), "global_step": 7}, tmp_path / "wav2lip.pth")
    speech_file = write_speech(tmp_path / "short.wav", 0.16)
    pads = ["--pads", "0", "0", "0", "0", "--blend", "none", "--crf", "4"]
    argv = command(media, checkpoint_path=tmp_path / "wav2lip.pth", audio=speech_file)
    assert run([*argv, *BOX_FLAG, *pads]) == 0
    made = pictures_of(out / "out.mp4")
    assert len(made) == 4
    change = np.abs(made[2].astype(float) - photo()).max(axis=2)
    top, bottom, left, right = BOX
    inside = np.zeros_like(change, bool)
    inside[top:bottom, left:right] = True
    assert change[~inside].max() < 40  # what the coding blurs over the box's edge
    assert np.percentile(change[~inside], 99) < 8
    assert (change[inside] > 30).mean() > 0.2


# What works ---------------------------------------------------------------------------------------------------------


def test_original_flags(media, out, capsys):
    """The original's spellings, with a box that means none, into the default folder."""
    argv = command(media, outfile=None, face=media / "face.mp4")
    argv += "--face_det_batch_size 4 --wav2lip_batch_size 16 --resize_factor 1 --nosmooth --static --fps 25".split()
    argv += "--pads 0 10 0 0 --crop 0 -1 0 -1 --box -1 -1 -1 -1 --rotate".split()
    top = photo()
    upright = cv2.rotate(top, cv2.ROTATE_90_COUNTERCLOCKWISE)  # --rotate turns it upright again
    argv[argv.index("--face") + 1] = str(write_video(out / "lying.mp4", [upright] * 3))
    assert run(argv) == 0
    made = out / "results" / "result_voice.mp4"
    assert len(pictures_of(made)) == 10
    told = capsys.readouterr()
    assert told.out.startswith("results/result_voice.mp4: 10 frames, 0.40 s")
    assert told.err == ""


@pytest.mark.parametrize(
    "name", ["two words", "it's \"quoted\"", "a; rm -rf $(pwd) `id` & |x", "%d%s{}*?[a]", "-dash", "😀 émoji", "new\nline"]
)
def test_strange_names(media, out, capsys, name):
    """The names of every file, inputs and outputs; relative, so that a leading dash really leads."""
    (out / f"{name}.png").write_bytes((media / "face.png").read_bytes())
    (out / f"{name}.wav").write_bytes((media / "speech.wav").read_bytes())
    (out / f"{name}.safetensors").write_bytes((media / "generator.safetensors").read_bytes())
    argv = [
        f"--face={name}.png", f"--audio={name}.wav", f"--outfile={name}.mp4", f"--checkpoint-path={name}.safetensors",
        f"--save-track={name}.json", "--preview=1", "--backend=torch", "--device=cpu", *BOX_FLAG,
    ]  # fmt: skip
    assert run(argv) == 0
    assert len(pictures_of(out / f"{name}.mp4")) == 10
    endings = (".png", ".wav", ".safetensors", ".mp4", ".json", ".preview.png")
    assert {p.name for p in out.iterdir()} == {name + ending for ending in endings}
    assert capsys.readouterr().out.count("\n") == 3


def test_dash_after_a_folder(media, out, capsys):
    (out / "-x.png").write_bytes((media / "face.png").read_bytes())
    assert run([*command(media, face="./-x.png", outfile="./-y.mkv"), *BOX_FLAG]) == 0
    assert len(pictures_of(out / "-y.mkv")) == 10


def test_pictures_without_a_face_are_counted(media, out, capsys):
    """A wall for most of the video: its pictures stay as they are, and the summary says how many."""
    wall = cv2.resize(cv2.cvtColor(brick(), cv2.COLOR_GRAY2BGR), (SIDE, SIDE))
    video = write_video(out / "in.mp4", [photo()] * 10 + [wall] * 10)
    audio = write_speech(out / "in.wav", 0.8)
    assert run(command(media, face=video, audio=audio)) == 0
    assert "10 of them show no face" in capsys.readouterr().out


# As a process of its own --------------------------------------------------------------------------------------------


def start(argv: list[str], folder: Path) -> subprocess.Popen[str]:
    """The real command, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "inference.py"), *argv], cwd=folder, text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_help_is_a_manual_page_and_imports_no_engine():
    code = "import sys; sys.argv[0] = 'inference.py'; from inference.cli import main\ntry: main(['--help'])\n"
    code += "except SystemExit: print('torch' in sys.modules, 'cv2' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert told.stdout.endswith("False False\n")
    for part in ("usage: inference.py", "examples:", "exit codes:", "--checkpoint-path FILE", "--keep-audio [LEVEL]"):
        assert part in told.stdout
    assert "--checkpoint_path" not in told.stdout  # the other spelling would double every line
    assert all(len(line) < 110 for line in told.stdout.splitlines())


def test_a_refusal_through_the_real_command(media, out):
    for code, argv in ((1, command(media, face="nowhere.mp4")), (2, ["--what"])):
        process = start(argv, out)
        told = process.communicate(timeout=60)
        assert (process.returncode, told[0]) == (code, "")
        one_line(told[1])
    assert list(out.iterdir()) == []


@pytest.fixture(scope="module")
def long_speech(tmp_path_factory) -> Path:
    """Twenty minutes: a job that does not end before it is ended."""
    return write_speech(tmp_path_factory.mktemp("long") / "long.wav", 1200)


@pytest.fixture
def working(media, long_speech, out) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The real command at work on a long job, and its ffmpeg's process number."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("needs /proc to find the command's children")
    argv = command(media, audio=long_speech, preview=2, save_track="track.json")
    process = start([*argv, *BOX_FLAG], out)
    try:
        yield process, wait_for_child(process, "ffmpeg")
    finally:
        process.kill()
        process.wait()


def wait_for_child(process: subprocess.Popen[str], name: str) -> int:
    """The number of the child whose program has that name, once its video has begun to grow."""
    for _ in range(1200):
        assert process.poll() is None, process.communicate()
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                program, _, fields = stat.read_text().partition("(")[2].rpartition(")")
            except OSError:
                continue
            if int(fields.split()[1]) == process.pid and program.startswith(name):
                time.sleep(0.3)
                return int(stat.parent.name)
        time.sleep(0.05)
    raise AssertionError(f"no {name} was started")


def test_encoder_killed_in_the_middle(working, out):
    process, encoder = working
    os.kill(encoder, signal.SIGKILL)
    told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "ffmpeg was killed (SIGKILL)" in one_line(told[1])
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("how", ["Ctrl-C", "terminate"])
def test_interrupted_in_the_middle(working, out, how):
    process, encoder = working
    if how == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)  # a terminal tells the whole group
    else:
        process.terminate()
    told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "interrupted: no output was written" in one_line(told[1])
    assert list(out.iterdir()) == []
    assert not Path(f"/proc/{encoder}").exists()


def test_runs_at_the_same_moment_in_one_folder(media, out, tmp_path):
    """Two for the same output, one for another; the files are whole and nothing else is there."""
    sounds = [write_speech(tmp_path / f"{k}.wav", seconds) for k, seconds in enumerate((0.4, 0.8, 0.6))]
    names = ("same.mp4", "same.mp4", "other.mp4")
    jobs = [command(media, audio=sound, outfile=name, preview=1) for sound, name in zip(sounds, names, strict=True)]
    processes = [start([*argv, *BOX_FLAG], out) for argv in jobs]
    for process in processes:
        told = process.communicate(timeout=120)
        assert (process.returncode, told[1]) == (0, "")
    assert len(pictures_of(out / "same.mp4")) in (10, 20)
    assert len(pictures_of(out / "other.mp4")) == 15
    assert abs(len(sound_of(out / "other.mp4")) / 16000 - 0.6) < 0.04
    assert {p.name for p in out.iterdir()} == {*names, "same.preview.png", "other.preview.png"}
