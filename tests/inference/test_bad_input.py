"""Bad input: one-line error, exit code, and no files left behind."""

from __future__ import annotations

import os
import pickle
import struct
import zlib
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from skimage.data import brick

from preprocessing.media.video_writer import ffmpeg_binary
from syncnet.model import SyncNet
from tests.inference.command import BOX_FLAG, command, run
from tests.material import (
    SIDE,
    photo,
    pictures_of,
    write_generator,
    write_photo,
    write_sound,
    write_speech,
    write_video,
)
from training.checkpoint import Checkpoint

pytest_plugins = ["tests.inference.bench"]


# Input files --------------------------------------------------------------------------------------------------------


def black_png(side: int) -> bytes:
    """A valid black square, one bit per pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = zlib.compress((b"\0" + bytes((side + 7) // 8)) * side)
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def without_index(path: Path) -> Path:
    """An mp4 whose index (moov) is at the end and cut off."""
    with av.open(str(path), "w") as container:
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
        (b"just some text, as long as one likes\n" * 50, "is not a readable video, photo or audio file"),
        (os.urandom(5000), "is not a readable video, photo or audio file"),
        (b"ffconcat version 1.0\nfile 'face.mp4'\n", "playlist"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nface.mp4\n#EXT-X-ENDLIST\n", "playlist"),
        (b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n", "playlist"),
    ],
    ids=["empty", "text", "noise", "ffconcat", "m3u8", "sdp"],
)
def test_no_medium_inside(refuse, media, tmp_path, content, message):
    video = tmp_path / "video.mp4"
    video.write_bytes(content)
    write_video(tmp_path / "face.mp4", [photo()] * 3)  # the file named in the playlists exists
    assert message in refuse(1, command(media, face=video))
    assert message in refuse(1, command(media, audio=video))


def test_video_without_index(refuse, media, tmp_path):
    assert "damaged" in refuse(1, command(media, face=without_index(tmp_path / "cut.mp4")))


def test_video_that_ends_early_works_with_what_is_there(media, tmp_path, out, capfd):
    noise = np.random.default_rng(0).integers(0, 60, (40, SIDE, SIDE, 3), np.uint8)
    whole = write_video(tmp_path / "whole.mp4", [photo() // 2 + grain for grain in noise])
    data = whole.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 6 // 10])
    argv = command(media, face=tmp_path / "cut.mp4", audio=write_speech(tmp_path / "long.wav", 1.6), sync_mode="cut")
    assert run([*argv, *BOX_FLAG]) == 0
    assert 10 <= len(pictures_of(out / "out.mp4")) < 40


def test_damaged_photo(refuse, media, tmp_path):
    for ending in (".jpg", ".png", ".webp"):
        data = cv2.imencode(ending, photo())[1].tobytes()
        (tmp_path / f"cut{ending}").write_bytes(data[:20])
        refuse(1, command(media, face=tmp_path / f"cut{ending}"))


def test_video_without_frames(refuse, media):
    assert "has no video stream" in refuse(1, command(media, face=media / "speech.wav"))


def test_audio_without_samples(refuse, media, tmp_path):
    assert "empty audio track" in refuse(1, command(media, audio=write_sound(tmp_path / "none.wav", np.zeros(0))))


def test_audio_from_a_silent_film(refuse, media, tmp_path):
    assert "has no audio" in refuse(1, command(media, audio=write_video(tmp_path / "silent.mp4", [photo()] * 3)))
    assert "has no audio" in refuse(1, command(media, audio=media / "face.png"))


def test_too_little_audio(refuse, media, tmp_path):
    short = write_speech(tmp_path / "short.wav", 0.05)
    assert "is 0.05 s long: at least 0.1 s of speech are needed" in refuse(1, command(media, audio=short))


@pytest.mark.parametrize(("side", "message"), [(1, "1x1: each side must have at least"), (8000, "8000x8000: at most")])
def test_sizes_that_cannot_be_worked_on(refuse, media, tmp_path, side, message):
    (tmp_path / "square.png").write_bytes(black_png(side))
    assert message in refuse(1, command(media, face=tmp_path / "square.png"))


def test_no_face_anywhere(refuse, media, tmp_path):
    wall = cv2.resize(cv2.cvtColor(brick(), cv2.COLOR_GRAY2BGR), (SIDE, SIDE))
    (tmp_path / "wall.png").write_bytes(cv2.imencode(".png", wall)[1].tobytes())
    assert "shows no face" in refuse(1, command(media, face=tmp_path / "wall.png", preview=2, save_track="track.json"))
    video = write_video(tmp_path / "wall.mp4", [wall] * 12)
    assert "shows no face" in refuse(1, command(media, face=video))


# Flags --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--box 0 500 0 100", "is not inside the frame of 160x160"),
        ("--box -5 100 0 100", "is not inside"),
        ("--box 100 20 10 90", "is not inside"),
        ("--box 20 100 90 10", "is not inside"),
        ("--box 20 100 20", "--box"),
        ("--box a b c d", "--box"),
        ("--crop 0 500 0 -1", "is not inside"),
        ("--nonsense", "unrecognized arguments: --nonsense"),
        ("--preview", "--preview"),
        ("--sync-mode backwards", "choose from"),
        ("--fps 1/0", "'1/0' is not a number (examples: 25"),
        ("--fps nan", "is not a number"),
        ("--fps 0", "fps must be between 1 and 240"),
        ("--batch-size 0", "batch_size must be between"),
        ("--crf 60", "crf must be between 0 and 51"),
        ("--start nan", "start must be between"),
        ("--end nan", "end must be between"),
        ("--start 3 --end 2", "end must be after start (3 s)"),
        ("--face-id -1", "face_id must be between"),
        ("--select somebody", "select must be one of largest"),
        ("--keep-audio=-1", "keep_audio must be between"),
        ("--resize-factor 0", "resize_factor must be between"),
        ("--load-track nothing.json", "no face track at nothing.json"),
    ],
)
def test_wrong_flag(refuse, media, flags, message):
    assert message in refuse(2, [*command(media), *flags.split()])


def test_start_after_the_end(refuse, media):
    assert "after the video's end" in refuse(2, command(media, face=media / "face.mp4", start=7))


def test_nothing_asked_for(refuse):
    assert "required: --face, --audio" in refuse(2, [])


# Output files -------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("stage", ["video", "joined"])
def test_full_disk(refuse, media, tmp_path, monkeypatch, stage):
    """An ffmpeg limited to a few hundred bytes of output, while encoding or while muxing the audio."""
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


# Checkpoints --------------------------------------------------------------------------------------------------------


class MaliciousObject:
    """Creates a folder when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_malicious_pickle_is_not_run(refuse, media, tmp_path):
    marker = tmp_path / "pickle-executed"
    with open(tmp_path / "old.pth", "wb") as file:
        pickle.dump({"state_dict": MaliciousObject(marker)}, file)
    torch.save({"state_dict": {"x": torch.zeros(1)}, "global_step": MaliciousObject(marker)}, tmp_path / "new.pth")
    for name in ("old.pth", "new.pth"):
        assert "rejected" in refuse(1, command(media, checkpoint_path=tmp_path / name))
        assert not marker.exists()
    pickle.loads((tmp_path / "old.pth").read_bytes())
    assert marker.exists()  # the payload does work


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"no weights here " * 99, "is not a PyTorch file"), (b"<!DOCTYPE html><html>", "is HTML")],
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
    error = refuse(1, command(media, checkpoint_path=tmp_path / "expert.pth"))
    assert "holds a SyncNet expert, not a generator" in error
    Checkpoint("syncnet", {}, {}, {}, {"x": torch.zeros(1)}).save(tmp_path / "expert.safetensors")
    error = refuse(1, command(media, checkpoint_path=tmp_path / "expert.safetensors"))
    assert "of kind 'syncnet'; 'generator'" in error
