"""Video writer: output is read back with PyAV; failures leave no files."""

import hashlib
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import wave
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from preprocessing.errors import MediaError
from preprocessing.media.sound.mux import AudioSource
from preprocessing.media.video_reader import VideoInfo, open_media, probe, read_frames
from preprocessing.media.video_writer import VideoWriter, ffmpeg_binary

FPS = Fraction(25)
CLICKS = (0.5, 1.0, 1.5)  # seconds


def run_ffmpeg(*arguments):
    subprocess.run([ffmpeg_binary(), "-y", "-v", "error", *map(str, arguments)], check=True, stdin=subprocess.DEVNULL)


def photo(width=128, height=96):
    return cv2.resize(astronaut()[:, :, ::-1], (width, height), interpolation=cv2.INTER_AREA)


def psnr(a, b):
    return 10 * np.log10(255**2 / max(1e-9, np.mean((a.astype(float) - b) ** 2)))


def write(path, count=25, size=(64, 48), fps=FPS, **options):
    picture = photo(*size)
    with VideoWriter(path, size[0], size[1], fps, preset="ultrafast", **options) as writer:
        for _ in range(count):
            writer.write(picture)
    return path


def save_wav(path, samples, rate=16000):
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(np.round(samples * 32767).astype("<i2").tobytes())
    return path


def decoded_sound(path):
    """(seconds from the start of the video stream, or file, to the first sample; mono samples; rate)."""
    with open_media(path) as container:
        stream, origin = container.streams.audio[0], container.start_time / 1e6
        for video in container.streams.video:
            origin = float(video.start_time * video.time_base)
        blocks = list(container.decode(stream))
        resampler = av.AudioResampler("flt", "mono", stream.rate)
        parts = [part.to_ndarray()[0] for block in blocks for part in resampler.resample(block)]
        return float(blocks[0].pts * blocks[0].time_base) - origin, np.concatenate(parts), stream.rate


def click_times(path):
    start, samples, rate = decoded_sound(path)
    loud = np.flatnonzero(np.abs(samples) > 0.4 * np.abs(samples).max())
    first_of_each = loud[np.diff(loud, prepend=-rate) > rate / 5]
    return start + first_of_each / rate


def packets_md5(path):
    digest = hashlib.md5()
    with open_media(path) as container:
        for packet in container.demux(container.streams.audio[0]):
            digest.update(bytes(packet))
    return digest.hexdigest()


def sound_codec(path):
    with open_media(path) as container:
        return container.streams.audio[0].codec_context.codec.canonical_name


@pytest.fixture(scope="module")
def clicks(tmp_path_factory):
    """Two seconds of 16 kHz with a click of 2 ms at each of CLICKS."""
    samples = np.zeros(32000)
    for time in CLICKS:
        samples[round(time * 16000) :][:32] = 0.6
    return save_wav(tmp_path_factory.mktemp("sound") / "clicks.wav", samples)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".MP4"])
def test_frames_come_back(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    pictures = [np.roll(photo(), 3 * n, axis=1) for n in range(12)]
    with VideoWriter(path, 128, 96, Fraction(30000, 1001), crf=2) as writer:
        for picture in pictures:
            writer.write(picture)
    assert probe(path).fps == Fraction(30000, 1001)
    back = list(read_frames(path))
    assert len(back) == 12
    assert min(psnr(a, b) for a, b in zip(back, pictures, strict=True)) > 31  # half-size chroma costs that much here
    assert all(abs((a.astype(float) - b).mean()) < 0.5 for a, b in zip(back, pictures, strict=True))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_strided_frame_is_written_as_it_looks(tmp_path):
    with VideoWriter(tmp_path / "out.mp4", 64, 96, FPS) as writer:
        writer.write(photo()[:, ::2])
        writer.write(photo()[:, ::-2])
    first, second = read_frames(tmp_path / "out.mp4")
    assert psnr(first, photo()[:, ::2]) > 22 > 15 > psnr(first, second)
    assert psnr(second, photo()[:, ::-2]) > 22


@pytest.mark.parametrize("size", [(321, 241), (64, 33), (33, 64)])
def test_odd_sizes_grow_by_a_repeated_row_or_column(tmp_path, size):
    picture = photo(*size)
    with VideoWriter(tmp_path / "odd.mp4", size[0], size[1], FPS, crf=0) as writer:  # 0: without loss
        writer.write(picture)
    with open_media(tmp_path / "odd.mp4") as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
    back = next(read_frames(tmp_path / "odd.mp4"))
    assert back.shape == (size[1] + size[1] % 2, size[0] + size[0] % 2, 3)
    assert psnr(back[: size[1], : size[0]], picture) > 28  # half-size chroma costs that much here
    grown = cv2.copyMakeBorder(picture, 0, size[1] % 2, 0, size[0] % 2, cv2.BORDER_REPLICATE)
    edge = max(psnr(back[-1], grown[-1]), 0), max(psnr(back[:, -1], grown[:, -1]), 0)
    assert min(edge) > 22


def test_fast_start_and_ordinary_permissions(tmp_path):
    content = write(tmp_path / "out.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    (tmp_path / "plain").touch()
    assert stat.S_IMODE((tmp_path / "out.mp4").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


@pytest.mark.parametrize("tags", ["bt709:tv", "smpte170m:tv", "smpte170m:pc", "bt2020nc:tv", "unknown:unknown"])
def test_colours_survive_the_round_trip(tmp_path, tags):
    """Lossless round trip: planes and tags stay unchanged."""
    matrix, span = tags.split(":")
    cv2.imwrite(str(tmp_path / "photo.png"), photo(256, 256))
    named = {"unknown": "bt601", "smpte170m": "bt601", "bt2020nc": "bt2020"}.get(matrix, matrix)
    scale = f"scale=out_color_matrix={named}:out_range={'pc' if span == 'pc' else 'tv'}:flags=bicubic+accurate_rnd"
    primaries = {"unknown": "unknown", "bt2020nc": "bt2020"}.get(matrix, matrix)
    chain = f"{scale},format=yuv420p,setparams=range={span}:colorspace={matrix}:color_primaries={primaries}"
    run_ffmpeg("-i", tmp_path / "photo.png", "-vf", chain, "-qp", "0", tmp_path / "source.mp4")
    source = probe(tmp_path / "source.mp4")
    assert (source.colorspace or "unknown", source.color_range or "unknown") == (matrix, span)
    frame = next(read_frames(tmp_path / "source.mp4"))
    with VideoWriter(tmp_path / "copy.mp4", 256, 256, FPS, source=source, crf=1) as writer:
        writer.write(frame)
    copy = probe(tmp_path / "copy.mp4")
    for name in ("colorspace", "color_range", "color_primaries", "color_transfer"):
        assert getattr(copy, name) == getattr(source, name), name
    before, after = planes(tmp_path / "source.mp4"), planes(tmp_path / "copy.mp4")
    for a, b in zip(before, after, strict=True):
        # Levels; swscale's fast path would be 1 to 2 off, and its full range is half a level off in any case.
        assert abs((a - b).mean()) < (0.55 if span == "pc" else 0.05)
        assert np.abs(a - b).mean() < 0.9
    assert np.abs(next(read_frames(tmp_path / "copy.mp4")).astype(float) - frame).mean() < 1.2


def planes(path):
    with open_media(path) as container:
        frame = next(container.decode(video=0))
        parts = [np.frombuffer(p, np.uint8).reshape(p.height, p.line_size)[:, : p.width] for p in frame.planes]
        return [part.astype(float) for part in parts]


def test_photos_are_written_as_hd_and_pixels_keep_their_shape(tmp_path):
    image = VideoInfo(width=64, height=48, fps=FPS, duration=1.0, is_image=True, colorspace="gbr")
    for source in (None, image):
        info = probe(write(tmp_path / "out.mp4", 2, source=source))
        tags = (info.colorspace, info.color_primaries, info.color_transfer, info.color_range)
        assert tags == ("bt709", "bt709", "bt709", "tv")
    wide = VideoInfo(width=64, height=48, fps=FPS, duration=1.0, sample_aspect_ratio=Fraction(16, 15))
    for suffix in (".mp4", ".mkv"):
        path = write(tmp_path / f"wide{suffix}", 2, source=wide, sounds=[])
        assert probe(path).sample_aspect_ratio == Fraction(16, 15)


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".m4a", "aac"), (".mp3", "libmp3lame"), (".mov", "alac"), (".ac3", "ac3")]
)
@pytest.mark.parametrize("out", [".mp4", ".mov", ".mkv"])
def test_one_whole_sound_is_copied_bit_by_bit_where_its_timing_survives(tmp_path, clicks, suffix, codec, out):
    sound = tmp_path / f"sound{suffix}"
    run_ffmpeg("-i", clicks, "-c:a", codec, sound)
    path = write(tmp_path / f"out{out}", 55, sounds=[AudioSource(sound)])
    kept = (suffix, out) not in {(".m4a", ".mkv"), (".mp3", ".mkv"), (".mov", ".mp4")}
    assert (packets_md5(path) == packets_md5(sound)) == kept
    np.testing.assert_allclose(click_times(path), click_times(sound), atol=0.001)


@pytest.mark.parametrize(
    ("name", "out", "codec"),
    [
        ("s.wav", ".mp4", "aac"),
        ("s.opus", ".mp4", "aac"),
        ("s.opus", ".mkv", "opus"),
        ("s.flac", ".mov", "aac"),
        ("s.flac", ".mkv", "flac"),
        ("s.ogg", ".mkv", "flac"),
        ("s.wav", ".mkv", "flac"),
    ],
)
def test_other_codecs_become_aac_where_the_container_wants_it(tmp_path, clicks, name, out, codec):
    run_ffmpeg("-i", clicks, tmp_path / name)
    path = write(tmp_path / f"out{out}", 50, sounds=[AudioSource(tmp_path / name)])
    assert sound_codec(path) == codec
    np.testing.assert_allclose(click_times(path), CLICKS, atol=0.002)  # encoders' priming does not shift them


@pytest.mark.parametrize(
    ("name", "out"),
    # Not AAC in Matroska: up to version 7 ffmpeg lets its priming, a packet, go before the picture there.
    [("s.wav", ".mp4"), ("s.m4a", ".mp4"), ("s.flac", ".mp4"), ("s.wav", ".mkv"), ("s.flac", ".mkv")],
)
@pytest.mark.parametrize("count", [20, 45, 75])
def test_the_sound_ends_with_the_frames(tmp_path, clicks, name, out, count):
    run_ffmpeg("-i", clicks, tmp_path / name)
    path = write(tmp_path / f"out{out}", count, sounds=[AudioSource(tmp_path / name)])
    assert len(list(read_frames(path))) == count
    assert probe(path).duration == pytest.approx(count / 25, abs=0.002)
    start, samples, rate = decoded_sound(path)
    packet = 1024 / rate if sound_codec(path) == "aac" else 0  # PyAV shows the last packet's padding
    assert abs(start) < 0.002
    assert -0.04 < len(samples) / rate - min(count / 25, 2) < 0.04 + packet


def test_duration_limits_both(tmp_path, clicks):
    path = write(tmp_path / "out.mp4", 50, sounds=[AudioSource(clicks)], duration=1.2)
    assert len(list(read_frames(path))) == 30
    assert len(decoded_sound(path)[1]) / 48000 == pytest.approx(1.2, abs=0.022)


def test_a_part_of_a_sound(tmp_path, clicks):
    path = write(tmp_path / "out.mp4", 50, sounds=[AudioSource(clicks, start=0.75, duration=0.5)])
    np.testing.assert_allclose(click_times(path), [0.25], atol=0.002)
    path = write(tmp_path / "louder.mp4", 50, sounds=[AudioSource(clicks, gain=0.5)])
    assert np.abs(decoded_sound(path)[1]).max() == pytest.approx(0.3, abs=0.08)


def test_sounds_are_added_not_averaged(tmp_path):
    time = np.arange(32000) / 16000
    low = save_wav(tmp_path / "low.wav", 0.3 * np.sin(2 * np.pi * 500 * time))
    high = save_wav(tmp_path / "high.wav", 0.3 * np.sin(2 * np.pi * 2000 * time[:16000]))
    path = write(tmp_path / "out.mp4", 50, sounds=[AudioSource(low), AudioSource(high, gain=0.5)])
    _, samples, rate = decoded_sound(path)
    for begin, strengths in ((0.2, (0.3, 0.15)), (1.2, (0.3, 0.0))):  # the second sound ends after one second
        part = samples[round(begin * rate) :][: rate // 2]
        spectrum = np.abs(np.fft.rfft(part)) * 2 / len(part)  # bins of 2 Hz
        assert (spectrum[250], spectrum[1000]) == pytest.approx(strengths, abs=0.02)


def test_one_sound_may_be_used_twice(tmp_path, clicks):
    for gain in (0.5, 0.3):
        path = write(tmp_path / "out.mp4", 50, sounds=[AudioSource(clicks, gain=0.5), AudioSource(clicks, gain=gain)])
        np.testing.assert_allclose(click_times(path), CLICKS, atol=0.002)
        assert np.abs(decoded_sound(path)[1]).max() == pytest.approx(0.6 * (0.5 + gain), abs=0.12)


def test_a_sound_that_begins_late_stays_late(tmp_path, clicks):
    video = write(tmp_path / "picture.mp4", 50)
    run_ffmpeg("-i", video, "-itsoffset", "0.4", "-i", clicks, "-c:v", "copy", "-c:a", "aac", tmp_path / "late.mp4")
    for gain in (1.0, 0.9):  # copied, encoded
        path = write(tmp_path / "out.mp4", 50, sounds=[AudioSource(tmp_path / "late.mp4", gain=gain)])
        np.testing.assert_allclose(click_times(path), [0.9, 1.4, 1.9], atol=0.002)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("with_sound", [False, True])
def test_metadata_is_read_back(tmp_path, clicks, suffix, with_sound):
    told = {"title": "A = b; 'c'", "comment": 'synthetic: "x" é 😀', "description": "two\nlines"}
    sounds = [AudioSource(clicks)] if with_sound else []
    path = write(tmp_path / f"out{suffix}", 5, metadata=told, sounds=sounds)
    with open_media(path) as container:
        kept = {name.lower(): text for name, text in container.metadata.items()}
    if suffix == ".mov":
        del told["description"]  # QuickTime's own list has no such entry
    assert told.items() <= kept.items()


@pytest.mark.parametrize(
    "name", ["with space.mp4", "-dash.mp4", "a;$(touch x)'\".mp4", "new\nline.mp4", "pipe:1.mp4", "%d.mp4"]
)
def test_any_name_is_just_a_name(tmp_path, monkeypatch, clicks, name):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    Path("out").mkdir()
    sound = Path("in", name).with_suffix(".wav")
    sound.write_bytes(clicks.read_bytes())
    monkeypatch.chdir("in")
    write(Path("../out", name), 5, sounds=[AudioSource(sound.name)])
    monkeypatch.chdir("../out")
    write(name, 5, sounds=[AudioSource(Path("../in", sound.name))])
    assert os.listdir() == [name]
    assert len(list(read_frames(name))) == 5


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


def test_a_real_clip_keeps_its_quality(shared, tmp_path):
    clip = shared / "data" / "val" / "grid_f_a__brbk7n.mp4"
    info, frames = probe(clip), list(read_frames(clip, end=1.0))
    with VideoWriter(
        tmp_path / "out.mp4", info.width, info.height, info.fps, source=info, sounds=[AudioSource(clip)]
    ) as writer:
        for frame in frames:
            writer.write(frame)
    back = list(read_frames(tmp_path / "out.mp4"))
    assert min(psnr(a, b) for a, b in zip(back, frames, strict=True)) > 40
