"""Video reader: every supported kind of input, generated with ffmpeg, PyAV and a real photograph."""

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from preprocessing.errors import MediaError
from preprocessing.media.color_conversion import LUMA, yuv_to_bgr
from preprocessing.media.video_reader import open_media, probe, read_frames, read_image
from tests.preprocessing.media.footage import SIDE, numbered_video, photo, psnr, run_ffmpeg


def number_of(frame):
    return round((float(frame.mean()) - 20) / 8)


def numbers(path, **options):
    return [number_of(frame) for frame in read_frames(path, **options)]


def test_probe_and_frames_of_a_plain_file(steady):
    info = probe(steady)
    assert (info.width, info.height, info.fps, info.duration) == (SIDE, SIDE, Fraction(25), 1.0)
    assert (info.rotation, info.has_audio, info.is_image) == (0, False, False)
    frames = list(read_frames(steady))
    assert frames[0].shape == (SIDE, SIDE, 3)
    assert frames[0].dtype == np.uint8
    assert [number_of(frame) for frame in frames] == list(range(25))


def test_ntsc_rate_stays_an_exact_fraction(tmp_path):
    for suffix in (".mp4", ".mkv"):  # Matroska rounds time stamps to milliseconds
        path = tmp_path / f"ntsc{suffix}"
        run_ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x64:r=30000/1001:d=2.002", path)
        assert probe(path).fps == Fraction(30000, 1001)
        assert len(list(read_frames(path))) == 60


def test_variable_rate_is_made_constant_by_time_stamps(tmp_path):
    path = numbered_video(tmp_path / "vfr.mp4", [0, 0.04, 0.20, 0.24, 0.40, 0.44, 0.48])
    # On the grid of 40 ms: frame 1 is held for 0.04..0.16, frame 3 for 0.24..0.36.
    assert numbers(path, fps=Fraction(25))[:13] == [0, 1, 1, 1, 1, 2, 3, 3, 3, 3, 4, 5, 6]
    # At 12.5 fps (80 ms) stamps round to slots 0, 1 (0.04 s, half up), 3, 3, 5, 6, 6; of two the later wins.
    assert numbers(path, fps=Fraction(25, 2)) == [0, 1, 1, 3, 3, 4]


def test_held_frames_are_separate_arrays(tmp_path):
    path = numbered_video(tmp_path / "slow.mp4", [0, 0.5, 0.54])
    frames = read_frames(path, fps=Fraction(25))
    next(frames)[:] = 255
    assert number_of(next(frames)) == 0


def test_other_rates_drop_and_repeat(steady):
    assert numbers(steady, fps=Fraction(50)) == [n for n in range(25) for _ in range(2)]
    assert len(numbers(steady, fps=Fraction(10))) == 10
    assert len(numbers(steady, fps=Fraction(30000, 1001))) == 30


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_late_video_stream_is_led_in_by_its_first_frame(tmp_path, steady, tone, suffix):
    path = tmp_path / f"late{suffix}"
    run_ffmpeg("-itsoffset", "0.2", "-i", steady, "-i", tone, "-c:v", "copy", "-c:a", "aac", path)
    assert probe(path).duration == pytest.approx(1.2, abs=0.03)
    assert numbers(path)[:7] == [0, 0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".avi", ".flv"])
def test_start_and_end_cut_the_same_frames_out(tmp_path, suffix):
    path = tmp_path / f"long{suffix}"
    options = ["-c:v", "flv1" if suffix == ".flv" else "mpeg4", "-g", "12", "-q:v", "3"]
    run_ffmpeg("-f", "lavfi", "-i", "testsrc2=s=96x64:r=25:d=3", *options, path)
    whole = list(read_frames(path))
    part = list(read_frames(path, start=2.0, end=2.4))
    assert len(part) == 10
    assert all(np.array_equal(a, b) for a, b in zip(part, whole[50:60], strict=True))


def test_start_without_an_index_reads_from_the_beginning(tmp_path):
    path = tmp_path / "bare.h264"
    run_ffmpeg("-f", "lavfi", "-i", "testsrc2=s=96x64:r=25:d=3", "-g", "250", path)
    whole = list(read_frames(path))
    assert len(whole) == 75
    assert np.array_equal(next(read_frames(path, start=2.0)), whole[50])


@pytest.mark.parametrize(
    "request_", [{"fps": Fraction(0)}, {"start": -1.0}, {"start": 1.0, "end": 0.5}, {"start": 9.0}, {"max_side": 0}]
)
def test_impossible_requests(steady, request_):
    with pytest.raises(ValueError, match=r"must be"):
        next(read_frames(steady, **request_))


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_rotation_tag_is_applied(tmp_path, turn):
    flat, path = tmp_path / "flat.mp4", tmp_path / "turned.mp4"
    cv2.imwrite(str(tmp_path / "photo.png"), photo())
    run_ffmpeg("-i", tmp_path / "photo.png", "-qp", "1", "-pix_fmt", "yuv444p", flat)
    run_ffmpeg("-display_rotation", turn, "-i", flat, "-c", "copy", path)
    info = probe(path)
    assert info.rotation == turn
    assert (info.width, info.height) == ((160, 120) if turn == 180 else (120, 160))
    # The ffmpeg program turns by the same tag: its picture is the oracle.
    run_ffmpeg("-i", path, tmp_path / "oracle.png")
    frame = next(read_frames(path))
    assert psnr(frame, cv2.imread(str(tmp_path / "oracle.png"))) > 38
    assert psnr(frame, np.rot90(photo(), turn // 90)) > 38


@pytest.mark.parametrize(
    ("pixels", "codec"),
    [
        ("yuv420p10le", "ffv1"),
        ("yuv422p", "ffv1"),
        ("yuv444p", "ffv1"),
        ("nv12", "rawvideo"),
        ("gray", "ffv1"),
        ("bgr0", "ffv1"),
        ("rgb24", "png"),
        ("rgba", "png"),
        ("pal8", "png"),
        ("yuva420p", "ffv1"),
        ("yuvj420p", "mjpeg"),
    ],
)
def test_pixel_formats(tmp_path, pixels, codec):
    picture = photo(161, 121) if pixels != "nv12" else photo()
    cv2.imwrite(str(tmp_path / "photo.png"), picture)
    path = tmp_path / "video.nut"
    run_ffmpeg("-i", tmp_path / "photo.png", "-pix_fmt", pixels, "-c:v", codec, "-q:v", "1", path)
    frame = next(read_frames(path))
    assert frame.shape == picture.shape  # odd sides are kept
    if pixels == "gray":
        picture = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    assert psnr(frame, picture) > (21 if pixels == "pal8" else 33)  # what 256 fixed colours or half-size chroma cost
    assert abs(frame.mean() - picture.mean()) < 1
    run_ffmpeg("-i", path, tmp_path / "oracle.png")
    assert psnr(frame, cv2.imread(str(tmp_path / "oracle.png"))) > 36


def test_transparency_shows_the_background(tmp_path):
    alpha = np.tile(np.linspace(0, 255, 160).round().astype(np.uint8), (120, 1))
    cv2.imwrite(str(tmp_path / "glass.png"), np.dstack([photo(), alpha]))
    run_ffmpeg("-i", tmp_path / "glass.png", "-c:v", "png", "-pix_fmt", "rgba", tmp_path / "glass.mov")
    for background in ((0, 0, 0), (10, 200, 90)):
        share = alpha[:, :, None] / 255
        expected = photo() * share + np.array(background) * (1 - share)
        assert np.abs(read_image(tmp_path / "glass.png", background) - expected).max() <= 0.51
        assert np.abs(next(read_frames(tmp_path / "glass.mov", background=background)) - expected).max() <= 0.51


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", ["bt709", "smpte170m", "bt2020nc", None])
def test_colours_by_matrix_and_range(tmp_path, matrix, full, odd):
    # Y 81, Cb 90, Cr 240; blue, green, red worked out from H.273 by hand.
    expected = {
        ("smpte170m", False): (0, 0, 254),
        ("smpte170m", True): (14, 14, 238),
        ("bt709", False): (0, 24, 255),
        ("bt709", True): (10, 36, 255),
        ("bt2020nc", False): (0, 10, 255),
        ("bt2020nc", True): (9, 24, 246),
    }[matrix or "smpte170m", full]
    side = 33 if odd else 32
    half = (side + 1) // 2
    planes = [np.full(side * side, 81), np.full(half * half, 90), np.full(half * half, 240)]
    (tmp_path / "raw").write_bytes(np.concatenate(planes).astype(np.uint8).tobytes())
    tags = f"range={'pc' if full else 'tv'}:colorspace={matrix or 'unknown'}"
    raw = ["-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", f"{side}x{side}", "-i", tmp_path / "raw"]
    run_ffmpeg(*raw, "-vf", f"setparams={tags}", "-c:v", "libvpx-vp9", "-lossless", "1", tmp_path / "flat.mkv")
    info = probe(tmp_path / "flat.mkv")
    assert (info.colorspace, info.color_range) == (matrix, "pc" if full else "tv")
    np.testing.assert_allclose(next(read_frames(tmp_path / "flat.mkv"))[5, 5], expected, atol=1)


def test_the_yuv_matrix_is_the_inverse_of_its_definition():
    for name, (red, blue) in LUMA.items():
        turn = yuv_to_bgr(name, False)
        b, g, r = turn @ [126, 110, 150, 1]
        luma = red * r + blue * b + (1 - red - blue) * g
        assert 16 + 219 / 255 * luma == pytest.approx(126)
        assert 128 + 224 / 255 * (b - luma) / (2 * (1 - blue)) == pytest.approx(110)
        assert 128 + 224 / 255 * (r - luma) / (2 * (1 - red)) == pytest.approx(150)


def test_max_side_shrinks_and_never_enlarges(tmp_path):
    cv2.imwrite(str(tmp_path / "photo.png"), photo())
    run_ffmpeg("-i", tmp_path / "photo.png", "-pix_fmt", "yuv420p", tmp_path / "video.mp4")
    for path in (tmp_path / "photo.png", tmp_path / "video.mp4"):
        small = next(read_frames(path, max_side=80))
        assert small.shape == (60, 80, 3)
        assert psnr(small, photo(80, 60)) > 28
        assert next(read_frames(path, max_side=1000)).shape == (120, 160, 3)


def test_non_square_pixels_are_reported_and_kept(tmp_path):
    run_ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:d=0.2", "-vf", "setsar=4/3", tmp_path / "wide.mp4")
    info = probe(tmp_path / "wide.mp4")
    assert (info.width, info.height, info.sample_aspect_ratio) == (64, 48, Fraction(4, 3))


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_photos_are_known_by_content(tmp_path, kind):
    cv2.imwrite(str(tmp_path / f"photo.{kind}"), photo())
    path = (tmp_path / f"photo.{kind}").rename(tmp_path / "photo %03d.mp4")
    info = probe(path)
    assert info.is_image
    assert (info.width, info.height) == (160, 120)
    frames = list(read_frames(path))
    assert len(frames) == 1
    assert psnr(frames[0], photo()) > 30
    assert np.array_equal(frames[0], read_image(path))


def test_a_photo_is_turned_by_its_exif_tag(tmp_path):
    jpeg = cv2.imencode(".jpg", photo())[1].tobytes()
    # APP1 with one TIFF entry: orientation (0x0112), SHORT, count 1, value 6 = turn a quarter clockwise.
    entry = b"\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00"
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00" + entry + b"\x00\x00\x00\x00"
    tagged = jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
    (tmp_path / "phone.jpg").write_bytes(tagged)
    assert (probe(tmp_path / "phone.jpg").width, probe(tmp_path / "phone.jpg").height) == (120, 160)
    assert psnr(read_image(tmp_path / "phone.jpg"), np.rot90(photo(), -1)) > 30


def test_photo_sizes_have_limits(tmp_path):
    cv2.imwrite(str(tmp_path / "huge.png"), np.zeros((8000, 8000), np.uint8), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    cv2.imwrite(str(tmp_path / "tiny.png"), np.zeros((15, 40), np.uint8))
    for name, words in (("huge.png", "8000x8000: at most 50 megapixels"), ("tiny.png", "40x15: each side .* 16")):
        for reader in (probe, read_image):
            with pytest.raises(MediaError, match=rf"{name} is {words}"):
                reader(tmp_path / name)


def test_a_cover_picture_is_no_video(tmp_path, tone):
    cv2.imwrite(str(tmp_path / "cover.jpg"), photo())
    song = tmp_path / "song.m4a"
    maps = ["-map", "0", "-map", "1", "-c:v", "copy", "-disposition:v", "attached_pic"]
    run_ffmpeg("-i", tone, "-i", tmp_path / "cover.jpg", *maps, song)
    with pytest.raises(MediaError, match="has no video stream"):
        probe(song)
    with open_media(song) as container:
        assert len(container.streams.audio) == 1


@pytest.mark.parametrize(
    "name",
    [
        "with space.mp4",
        "-dash.mp4",
        "q'uo\"te.mp4",
        "a;$(touch x)`y`.mp4",
        "new\nline.mp4",
        "😀.mp4",
        "p:x.mp4",
        "%03d.mp4",
    ],
)
def test_any_name_is_just_a_name(tmp_path, monkeypatch, steady, name):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(steady.read_bytes())
    assert numbers(name, end=0.08) == [0, 1]
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with pytest.raises(MediaError) as refusal:
        probe(name + ".missing")
    assert "\n" not in str(refusal.value)


def test_real_clips_give_as_many_frames_as_their_length_says(shared):
    for clip in sorted((shared / "data" / "val").glob("*.mp4"))[::20]:
        info = probe(clip)
        count = sum(1 for _ in read_frames(clip, max_side=64, end=2.0))
        assert count == round(min(2.0, info.duration) * info.fps)
        assert info.has_audio
