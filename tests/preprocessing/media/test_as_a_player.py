"""Files of phones, cameras and editors are read as a player shows and plays them."""

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import skimage.data
from PIL import Image

from preprocessing.errors import MediaError
from preprocessing.media.audio import load_audio
from preprocessing.media.reading.orientation import EXIF, Orientation, from_matrix
from preprocessing.media.video_reader import probe, read_frames, read_image
from tests.preprocessing.media.footage import (
    SIDE,
    click_times,
    flash_times,
    flashes_and_clicks,
    heic,
    noise,
    photo,
    psnr,
    run_ffmpeg,
    save_wav,
)


def encoded(path, pictures, *, rate=25, pixels="yuv420p", codec="libx264", options=None, tags=()):
    """Encodes (T, H, W, 3) BGR or planes given by `pixels`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {"crf": "12"})
        stream.height, stream.width, stream.pix_fmt = *pictures[0].shape[:2], pixels
        for name, value in tags:
            setattr(stream.codec_context, name, value)
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode(None))
    return path


# Orientation ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [2, 4, 5, 7])  # test_video_reader has those that do not mirror
def test_mirrored_orientations_of_a_video(tmp_path, number):
    encoded(tmp_path / "flat.mp4", [photo()], options={"qp": "1"}, pixels="yuv444p")
    turn = EXIF[number]
    flags = ["-display_rotation", turn.rotation] + (["-display_hflip"] if turn.mirrored else [])
    run_ffmpeg(*flags, "-i", tmp_path / "flat.mp4", "-c", "copy", tmp_path / "turned.mp4")
    run_ffmpeg("-i", tmp_path / "turned.mp4", tmp_path / "oracle.png")  # the ffmpeg program's view
    oracle = cv2.imread(str(tmp_path / "oracle.png"))
    info, frame = probe(tmp_path / "turned.mp4"), next(read_frames(tmp_path / "turned.mp4"))
    assert frame.shape == oracle.shape == (info.height, info.width, 3)
    assert psnr(frame, oracle) > 36
    shrunk = next(read_frames(tmp_path / "turned.mp4", max_side=80))
    assert psnr(shrunk, cv2.resize(oracle, shrunk.shape[1::-1], interpolation=cv2.INTER_AREA)) > 25


def test_a_display_matrix_is_a_rotation_then_mirroring():
    # x' = a x + c y, y' = b x + d y with y down: this one sends the right (1, 0) down (0, 1).
    assert from_matrix(np.array([0, 1, 0, -1, 0, 0, 0, 0, 1])) == Orientation(270)
    assert from_matrix(np.array([-1, 0, 0, 0, 1, 0, 0, 0, 1])) == Orientation(0, True)
    assert from_matrix(np.array([1, 0, 0, 0, -1, 0, 0, 0, 1])) == Orientation(180, True)


@pytest.mark.parametrize("number", range(1, 9))
def test_all_eight_orientations_of_a_photo(tmp_path, number):
    jpeg = cv2.imencode(".jpg", photo())[1].tobytes()
    entry = b"\x12\x01\x03\x00\x01\x00\x00\x00" + bytes([number, 0, 0, 0])
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00" + entry + bytes(4)
    path = tmp_path / "phone.jpg"
    path.write_bytes(jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:])
    expected = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)  # OpenCV turns by the tag
    assert np.array_equal(read_image(path), expected)
    assert (probe(path).height, probe(path).width) == expected.shape[:2]


# Photos --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bmp", "tiff", "jp2", "ppm", "pgm", "png16", "tiff16", "avif"])
def test_photos_of_editors(tmp_path, kind):
    path, picture = tmp_path / f"photo.{kind.removesuffix('16')}", photo()
    if kind.endswith("16"):
        picture = picture.astype(np.uint16) * 257
    elif kind == "pgm":
        picture = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    if kind == "avif":
        image = pytest.importorskip("PIL.Image")
        image.fromarray(np.ascontiguousarray(picture[:, :, ::-1])).save(path, quality=95)
    else:
        assert cv2.imwrite(str(path), picture)
    info = probe(path)
    assert (info.is_image, info.width, info.height) == (True, 160, 120)
    frames = list(read_frames(path))
    assert len(frames) == 1
    expected = photo() if kind != "pgm" else cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
    assert psnr(frames[0], expected) > (30 if kind in ("avif", "jp2") else 45)


def test_an_animated_webp_names_the_cure(tmp_path):
    frames = [Image.fromarray(np.full((64, 64, 3), 80 * n, np.uint8)) for n in range(3)]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:])
    with pytest.raises(MediaError, match=r"moving\.webp is an animated WebP, which cannot be read: convert it to mp4"):
        probe(tmp_path / "moving.webp")
    frames[0].save(tmp_path / "still.webp")
    assert probe(tmp_path / "still.webp").is_image


@pytest.mark.parametrize("tile", [None, 128])
@pytest.mark.parametrize("turns", [0, 1])
def test_heic_of_phones_with_all_its_tiles(tmp_path, tile, turns):
    pytest.importorskip("pi_heif")
    path, picture = tmp_path / "photo.heic", photo(256, 192)
    heic(path, picture, tile, turns)
    info = probe(path)
    assert info.is_image
    assert (info.width, info.height) == ((256, 192), (192, 256))[turns]
    assert psnr(read_image(path), np.rot90(picture, turns)) > 25  # half-size chroma
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(MediaError, match=r"photo\.heic is a damaged HEIC photo"):
        read_image(path)


def test_heic_of_another_encoder_with_all_its_tiles():
    """tiles.heic: scikit-image's astronaut in 2 x 2 tiles, written by libheif 1.23 and x265, quality 60."""
    pytest.importorskip("pi_heif")
    picture = cv2.resize(skimage.data.astronaut()[:256, 96:352, ::-1], (128, 128), interpolation=cv2.INTER_AREA)
    assert psnr(read_image(Path(__file__).with_name("tiles.heic")), picture) > 34


def test_heic_without_its_package_names_the_cure(tmp_path, monkeypatch):
    path = heic(tmp_path / "photo.heic", photo(128, 128))
    monkeypatch.setitem(__import__("sys").modules, "pi_heif", None)
    with pytest.raises(MediaError, match=r"photo\.heic is a HEIC photo: pip install pi-heif, or export it as jpg"):
        probe(path)


def test_a_stream_of_jpegs_is_a_video_and_a_photo_with_a_depth_map_is_not(tmp_path):
    jpegs = [cv2.imencode(".jpg", np.full((SIDE, SIDE, 3), 8 * n, np.uint8))[1].tobytes() for n in range(12)]
    (tmp_path / "camera.mjpeg").write_bytes(b"".join(jpegs))
    assert not probe(tmp_path / "camera.mjpeg").is_image
    assert [round(frame.mean() / 8) for frame in read_frames(tmp_path / "camera.mjpeg")] == list(range(12))
    depth = cv2.imencode(".jpg", np.zeros((32, 32), np.uint8))[1].tobytes()
    (tmp_path / "portrait.jpg").write_bytes(jpegs[5] + depth + depth)
    assert probe(tmp_path / "portrait.jpg").is_image


# Time ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".ts", ["-c:v", "libx264", "-c:a", "aac"]),
        (".vob", ["-c:v", "mpeg2video", "-bf", 2, "-c:a", "mp2", "-f", "vob"]),
    ],
)
@pytest.mark.parametrize("later", [0, 4000])
def test_joined_captures_show_all_parts_with_picture_and_sound_together(tmp_path, suffix, options, later):
    first = flashes_and_clicks(tmp_path / f"a{suffix}", 1.6, [0.4, 1.2], *options)
    second = flashes_and_clicks(tmp_path / f"b{suffix}", 1.6, [0.8], "-output_ts_offset", later, *options)
    path = tmp_path / f"joined{suffix}"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    flashes, clicks = flash_times(path), click_times(path)
    assert len(flashes) == len(clicks) == 3
    # The clocks of picture and sound must not move apart; the demuxer of program streams is two frames off at a joint.
    apart = flashes - clicks
    assert np.abs(apart - apart[0]).max() < (0.085 if suffix == ".vob" and later else 0.045)
    assert flashes[2] == pytest.approx(1.6 + 0.8, abs=0.13)
    assert probe(path).duration == pytest.approx(3.2, abs=0.15)
    assert not probe(path).seekable
    part = [frame.mean() > 140 for frame in read_frames(path, fps=Fraction(25), start=2.0)]
    assert np.flatnonzero(part) / 25 + 2.0 == pytest.approx(flashes[2:], abs=0.041)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.m1v", "mpeg1video"),
        ("a.m2v", "mpeg2video"),
        ("a.h264", "libx264"),
        ("a.hevc", "libx265"),
        ("a.mpg", "mpeg1video"),
    ],
)
def test_streams_without_time_stamps_show_every_frame_in_order(tmp_path, name, codec):
    raw = np.stack([np.full((SIDE, SIDE), 20 + 8 * n, np.uint8) for n in range(25)])
    (tmp_path / "raw").write_bytes(raw.tobytes())
    source = ["-f", "rawvideo", "-pix_fmt", "gray", "-s", f"{SIDE}x{SIDE}", "-r", 25, "-i", tmp_path / "raw"]
    quiet = ["-x265-params", "log-level=none"] if codec == "libx265" else []
    run_ffmpeg(*source, "-c:v", codec, *quiet, "-bf", 2, "-pix_fmt", "yuv420p", "-q:v", 1, tmp_path / name)
    levels = [frame.mean() for frame in read_frames(tmp_path / name)]
    assert len(levels) == 25
    assert levels == pytest.approx([20 + 8 * n for n in range(25)], abs=5)


def stamped(path, stamps, rate):
    """Frames of rising gray, shown from `stamps` seconds on."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width = stream.height = SIDE
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", Fraction(1, 1000)
        for number, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(np.full((SIDE, SIDE, 3), 20 + 3 * number, np.uint8), format="bgr24")
            frame.pts, frame.time_base = round(stamp * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(("rate", "nominal"), [(25, 25), (30, 30), (Fraction(30000, 1001), Fraction(30000, 1001))])
def test_a_variable_rate_is_read_at_its_nominal_one(tmp_path, suffix, rate, nominal):
    still_then_moving = [0, 0.9, *(1.6 + n / rate for n in range(30))]
    info = probe(stamped(tmp_path / f"phone{suffix}", still_then_moving, rate))
    assert info.fps == pytest.approx(nominal, rel=0.002)


@pytest.mark.parametrize(("rate", "read"), [(2, 24), (10, 30), (15, 30), (Fraction(24000, 1001), Fraction(24000, 1001)),
                                            (60, 60), (90, 45), (120, 60), (240, 60)])  # fmt: skip
def test_lips_get_24_to_60_frames_per_second(tmp_path, rate, read):
    pictures = [np.full((SIDE, SIDE, 3), 20 + 10 * n, np.uint8) for n in range(12)]
    path = encoded(tmp_path / "rate.mp4", pictures, rate=rate)
    info = probe(path)
    assert (info.native_fps, info.fps) == (rate, read)
    assert any("frames per second" in note for note in info.notes) == (rate != read)
    shown = [round((frame.mean() - 20) / 10) for frame in read_frames(path)]
    assert len(shown) == round(12 / rate * read)
    step = rate / read
    assert shown == [min(11, int(k * step + 1e-9)) for k in range(len(shown))] if read > rate else sorted(shown)


def test_a_gif_of_ten_frames_per_second(tmp_path):
    run_ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x64:r=10:d=1", tmp_path / "a.gif")
    assert probe(tmp_path / "a.gif").fps == 30
    assert len(list(read_frames(tmp_path / "a.gif"))) == 30


# Pictures ------------------------------------------------------------------------------------------------------------


def test_frames_of_another_size_are_fitted_into_the_first(tmp_path):
    """A capture whose size changes: the same shape is scaled, another one gets black bars."""
    parts = []
    for number, (width, height) in enumerate([(160, 120), (80, 60), (60, 80)]):
        path = encoded(tmp_path / f"{number}.ts", [photo(width, height)] * 5, options={"qp": "4", "bf": "0"})
        parts.append(path.read_bytes())
    (tmp_path / "all.ts").write_bytes(b"".join(parts))
    frames = list(read_frames(tmp_path / "all.ts", fps=Fraction(25)))
    assert {frame.shape for frame in frames} == {(120, 160, 3)}
    assert psnr(frames[7], photo()) > 22
    tall = frames[12]
    assert tall[:, :34].max() < 20
    assert tall[:, -34:].max() < 20
    assert psnr(tall[:, 35:125], photo(90, 120)) > 20


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_interlaced_frames_are_deinterlaced(tmp_path, codec):
    """A bar moves by 8 pixels a field: as one frame, its edge is a comb."""
    fields = []
    for n in range(24):
        field = np.full((96, 128, 3), 30, np.uint8)
        field[:, 8 + 4 * n : 24 + 4 * n] = 220
        fields.append(field)
    combed = [
        np.where((np.arange(96) % 2 == 0)[:, None, None], a, b) for a, b in zip(fields[::2], fields[1::2], strict=True)
    ]
    (tmp_path / "raw").write_bytes(np.stack(combed).tobytes())
    raw = ["-f", "rawvideo", "-pix_fmt", "bgr24", "-s", "128x96", "-r", 25, "-i", tmp_path / "raw"]
    flags = ["-flags", "+ildct+ilme", "-x264opts", "tff=1"] if codec == "libx264" else ["-flags", "+ildct", "-q:v", 2]
    chain = "setfield=tff,format=yuv422p,format=yuv420p"
    run_ffmpeg(*raw, "-vf", chain, "-c:v", codec, *flags, tmp_path / "camera.mkv")
    info, frames = probe(tmp_path / "camera.mkv"), list(read_frames(tmp_path / "camera.mkv"))
    assert "it is interlaced and is deinterlaced" in info.notes
    assert len(frames) == 12
    for number, frame in enumerate(frames):
        gray = frame.mean(axis=2)
        comb = np.abs(2 * gray[1:-1] - gray[:-2] - gray[2:]).mean()
        assert comb < 4, number  # 24 in the combed frames
        assert abs(np.flatnonzero(gray[48] > 125).mean() - (15.5 + 8 * number)) < 5


@pytest.mark.parametrize(("transfer", "code", "expected"), [
    # 100 cd/m2 are PQ 0.508: 100 / 203 of white, below the knee; 0.4926 ** (1 / 2.4) * 255
    (16, 0.508, 190),
    # 203 cd/m2 are PQ 0.581: 0.6 + 0.4 (1 - 1 / e) = 0.853 of white
    (16, 0.581, 239),
    # HLG 0.5 is 1/12 of the scene's peak; 1000 (1/12) ** 1.2 = 50.7 cd/m2, 0.25 of white
    (18, 0.5, 143),
])  # fmt: skip
def test_hdr_is_tone_mapped(tmp_path, transfer, code, expected):
    luma = np.full((64, 64), round(64 + 876 * code), "<u2").tobytes()  # limited range, 10 bits
    (tmp_path / "raw").write_bytes(luma + np.full(2 * 32 * 32, 512, "<u2").tobytes())
    name = {16: "smpte2084", 18: "arib-std-b67"}[transfer]
    tags = f"setparams=color_primaries=bt2020:colorspace=bt2020nc:color_trc={name}:range=tv"
    raw = ["-f", "rawvideo", "-pix_fmt", "yuv420p10le", "-s", "64x64", "-r", 25, "-i", tmp_path / "raw"]
    run_ffmpeg(*raw, "-vf", tags, "-c:v", "ffv1", tmp_path / "phone.mkv")
    info, frame = probe(tmp_path / "phone.mkv"), next(read_frames(tmp_path / "phone.mkv"))
    assert any("HDR" in note for note in info.notes)
    assert (info.colorspace, info.color_transfer) == ("bt709", "bt709")
    assert np.abs(frame.astype(int) - expected).max() <= 3


# Sound tracks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".m4a", ".mkv"])
@pytest.mark.parametrize("default", [0, 1])
def test_the_default_track_is_heard(tmp_path, suffix, default):
    one, two = (save_wav(tmp_path / f"{n}.wav", noise(1, seed=n)) for n in (0, 1))
    marks = [f"-disposition:a:{default}", "default", f"-disposition:a:{1 - default}", "0"]
    run_ffmpeg("-i", one, "-i", two, "-map", "0", "-map", "1", *marks, "-c:a", "flac" if suffix == ".mkv" else "alac",
               tmp_path / f"two{suffix}")  # fmt: skip
    for track in (None, 0, 1):
        heard = load_audio(tmp_path / f"two{suffix}", track=track)
        chosen = default if track is None else track
        assert np.corrcoef(heard, load_audio((one, two)[chosen]))[0, 1] > 0.99
    with pytest.raises(ValueError, match=r"two\.m.. has 2 audio tracks, counted from 0: there is no 2"):
        load_audio(tmp_path / f"two{suffix}", track=2)


@pytest.mark.parametrize("signs", [(1, -1), (1, 1, -2), (-1, 1, 1, 1), (1, 0, -1, 0, 0, 1)])
def test_channels_of_opposite_polarity_do_not_cancel(tmp_path, signs):
    sound = noise(2.5)
    sound[:6000] = 0
    channels = np.stack([sign * sound / 2 for sign in signs], axis=1)
    heard = load_audio(save_wav(tmp_path / "wide.wav", channels))
    assert len(heard) == len(sound)
    share = np.abs(signs).sum() / len(signs) / 2
    np.testing.assert_allclose(np.abs(heard), np.abs(sound) * share, atol=2e-4)
    assert np.corrcoef(heard, sound)[0, 1] ** 2 > 0.999


def test_independent_channels_are_averaged_with_their_own_signs(tmp_path):
    one, two = noise(2, seed=1), noise(2, seed=2)
    heard = load_audio(save_wav(tmp_path / "stereo.wav", np.stack([one, two], axis=1)))
    np.testing.assert_allclose(heard, (one + two) / 2, atol=2e-4)
