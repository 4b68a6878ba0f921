"""Video writer: output is read back with PyAV."""

import os
import stat
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from preprocessing.media.sound.mux import AudioSource
from preprocessing.media.video_reader import VideoInfo, open_media, probe, read_frames
from preprocessing.media.video_writer import VideoWriter
from tests.preprocessing.media.footage import photo, psnr, run_ffmpeg
from tests.preprocessing.media.written import FPS, write


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".MP4"])
def test_frames_come_back(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    pictures = [np.roll(photo(128, 96), 3 * n, axis=1) for n in range(12)]
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
        writer.write(photo(128, 96)[:, ::2])
        writer.write(photo(128, 96)[:, ::-2])
    first, second = read_frames(tmp_path / "out.mp4")
    assert psnr(first, photo(128, 96)[:, ::2]) > 22 > 15 > psnr(first, second)
    assert psnr(second, photo(128, 96)[:, ::-2]) > 22


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
