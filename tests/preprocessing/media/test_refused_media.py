"""Files that are cut off, no media, or name other files: what is read of them, and what is refused in one line."""

import subprocess
from pathlib import Path

import av
import numpy as np
import pytest

from preprocessing.errors import MediaError
from preprocessing.media.video_reader import probe, read_frames, read_image
from preprocessing.media.video_writer import ffmpeg_binary
from tests.preprocessing.media.footage import numbered_video, run_ffmpeg


def test_a_video_cut_off_yields_what_decodes(tmp_path):
    path = tmp_path / "whole.mp4"
    run_ffmpeg("-f", "lavfi", "-i", "testsrc2=s=96x64:r=25:d=4", "-g", "10", "-movflags", "+faststart", path)
    whole, content = list(read_frames(path)), path.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
    got = list(read_frames(tmp_path / "cut.mp4"))
    assert 20 < len(got) < 70
    assert all(np.array_equal(a, b) for a, b in zip(got[:20], whole, strict=False))
    (tmp_path / "head.mp4").write_bytes(content[: content.index(b"mdat") + 8])
    with pytest.raises(MediaError, match=r"head\.mp4"):
        list(read_frames(tmp_path / "head.mp4"))


def test_lengths_and_rates_that_headers_do_not_give(tmp_path):
    for name, codec in (("live.webm", "libvpx"), ("live.flv", "flv1")):
        source = ["-f", "lavfi", "-i", "testsrc2=s=64x64:r=25:d=1.6"]
        command = [ffmpeg_binary(), "-v", "error", *source, "-c:v", codec, "-f", name[5:], "pipe:"]
        (tmp_path / name).write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
        assert probe(tmp_path / name).duration == pytest.approx(1.6, abs=0.041)
        assert abs(len(list(read_frames(tmp_path / name))) - 40) <= 1
    slideshow = numbered_video(tmp_path / "slides.mp4", [0, 3, 6], rate=1)
    assert probe(slideshow).fps == 25


def not_media(folder):
    """Name, content and expected words of the error message."""
    video = folder / "secret.ts"
    run_ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x64:d=0.4", video)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{video}\n#EXT-X-ENDLIST\n"
    sdp = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    return {
        "text.mp4": b"hello, this is no video\n" * 200,
        "words.srt": b"1\n00:00:00,000 --> 00:00:02,000\nhello\n\n" * 5,
        "noise.mp4": np.random.default_rng(0).bytes(100_000),
        "playlist.mp4": playlist.encode(),
        "playlist.m3u8": playlist.encode(),
        "concat.mp4": f"ffconcat version 1.0\nfile '{video}'\n".encode(),
        "call.sdp": sdp.encode(),
        "vector.mp4": b"<svg xmlns='http://www.w3.org/2000/svg' width='64' height='64'></svg>",
    }


def test_what_is_no_media_or_names_other_files_is_refused(tmp_path):
    for name, content in not_media(tmp_path).items():
        (tmp_path / name).write_bytes(content)
        for reader in (probe, read_image, lambda path: next(read_frames(path))):
            with pytest.raises(MediaError) as refusal:
                reader(tmp_path / name)
            assert name in str(refusal.value)
            assert "\n" not in str(refusal.value)
    assert probe(tmp_path / "secret.ts").width == 64  # what they point to could be read
    with av.open(str(tmp_path / "playlist.m3u8")) as container:  # and FFmpeg itself would have followed
        assert container.format.name == "hls"


def referring(content, target):
    """The .mp4 `content` with its samples replaced by an alias to the file `target`, which has them."""
    name = str(target).encode() + bytes(len(str(target)) % 2)
    alias = b"alis" + bytes(4) + bytes(150) + b"\x00\x02" + len(name).to_bytes(2, "big") + name + b"\xff\xff\x00\x00"
    at = content.index(b"url \x00\x00\x00\x01") - 4  # 12 bytes that say: the samples are in this file
    patched = bytearray(content[:at] + (len(alias) + 4).to_bytes(4, "big") + alias + content[at + 12 :])
    for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        size = patched.index(box) - 4
        patched[size : size + 4] = (int.from_bytes(patched[size : size + 4], "big") + len(alias) - 8).to_bytes(4, "big")
    start, end = patched.index(b"mdat") + 4, patched.index(b"moov") - 4
    patched[start:end] = bytes(end - start)
    return bytes(patched)


def test_a_quicktime_reference_is_not_followed(tmp_path, steady):
    path = tmp_path / "reference.mov"
    path.write_bytes(referring(steady.read_bytes(), steady))
    with av.open(str(path), options={"enable_drefs": "1", "use_absolute_path": "1"}) as container:
        assert sum(1 for _ in container.decode(video=0)) == 25  # FFmpeg would follow it when told to
    with pytest.raises(MediaError, match=r"reference\.mov has no decodable video frame"):
        list(read_frames(path))


def test_plain_mistakes_get_one_clear_line(tmp_path, tone):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder.mp4").mkdir()
    cases = {
        tmp_path / "nowhere.mp4": "does not exist",
        tmp_path / "empty.mp4": "is empty",
        tmp_path / "folder.mp4": "is a folder",
        Path("/dev/null"): "is not a regular file",
        tone: "has no video stream",
        "http://example.org/x.mp4": "does not exist",
        "nul\0l": "cannot be opened",
    }
    for path, words in cases.items():
        with pytest.raises(MediaError, match=words):
            probe(path)
