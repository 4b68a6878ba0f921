"""Planar frames: as arrays they are the reader's BGR frames; what is not pasted goes to the encoder bit by bit."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from preprocessing.errors import UsageError
from preprocessing.faces.face_track import reduce_frame
from preprocessing.faces.landmarks.views import View
from preprocessing.faces.scene_cuts import _thumbnail
from preprocessing.media.color_conversion import yuv_to_bgr
from preprocessing.media.planar_frame import PlanarFrame, planar_from_bgr
from preprocessing.media.video_reader import probe, read_frames
from preprocessing.media.video_writer import VideoWriter
from tests.material import moving_photo


def write_frames(path: Path, pixels: str) -> Path:
    """Five frames of a real face in a pixel format."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", 25, options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = 160, 128, pixels
        for image in moving_photo(5):
            frame = av.VideoFrame.from_ndarray(cv2.resize(np.asarray(image), (160, 128)), format="bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module", params=["yuv420p", "yuvj420p"])
def video(request, tmp_path_factory) -> Path:
    """Frames of limited and of full range."""
    return write_frames(tmp_path_factory.mktemp("planar") / f"{request.param}.mp4", request.param)


@pytest.fixture(scope="module")
def pair(video) -> tuple[PlanarFrame, np.ndarray]:
    return next(iter(read_frames(video, planar=True))), next(iter(read_frames(video)))


def test_as_an_array_it_is_the_bgr_frame(pair):
    planar, bgr = pair
    assert isinstance(planar, PlanarFrame)
    assert (planar.shape, planar.dtype) == (bgr.shape, bgr.dtype)
    np.testing.assert_array_equal(np.asarray(planar), bgr)


@pytest.mark.parametrize("region", [np.s_[0:7, 0:9], np.s_[31:78, 41:90], np.s_[100:128, 133:160], np.s_[5:5, 2:9]])
def test_a_region_is_that_of_the_whole(pair, region):
    planar, bgr = pair
    np.testing.assert_array_equal(planar[region], bgr[region])


def test_reductions_are_near_those_of_the_bgr_frame(pair):
    planar, bgr = pair
    view = View(np.array([80.0, 64.0]), 120.0, 0.2)
    for one, other in (
        (reduce_frame(planar, 70), reduce_frame(bgr, 70)),
        (_thumbnail(planar).image, _thumbnail(bgr).image),
        (view.crop(planar, 40), view.crop(bgr, 40)),
        (view.crop(planar, 112), view.crop(bgr, 112)),
    ):
        assert one.shape == other.shape
        assert np.abs(one.astype(float) - other).mean() < 3  # the bilinear one aliases a little


def test_pasting_changes_what_differs_and_nothing_else(pair):
    planar, _ = pair
    before = planar[20:60, 30:80]
    after = before.copy()
    after[10:20, 12:24] = (40, 90, 160)
    made = planar.copy()
    made.paste(20, 30, before, after)
    np.testing.assert_allclose(made[32:38, 44:52], np.broadcast_to((40, 90, 160), (6, 8, 3)), atol=4)
    luma, same = planar.planes[:128], made.planes[:128] == planar.planes[:128]
    assert same[:30].all()
    assert same[40:].all()
    assert same[:, :42].all()
    assert not same[30:40, 42:54].all()
    assert luma.shape == same.shape
    chroma, old = (each.planes[128:].reshape(2, 64, 80) for each in (made, planar))
    changed = (chroma != old).any(axis=0)
    assert changed[15:20, 21:27].any()
    changed[15:20, 21:27] = False
    assert not changed.any()


def test_bgr_to_planes_and_back(pair):
    planar, _ = pair
    smooth = cv2.GaussianBlur(np.asarray(planar), (0, 0), 3)
    again = np.asarray(planar_from_bgr(smooth, planar.to_bgr))
    assert np.abs(again.astype(int) - smooth).mean() < 1


def test_an_unchanged_video_is_written_bit_by_bit(video, tmp_path):
    info, target = probe(video), tmp_path / "copy.mp4"
    frames = list(read_frames(video, planar=True))
    with VideoWriter(target, info.width, info.height, info.fps, crf=0, source=info, planar=True) as writer:
        for frame in frames:
            writer.write(frame)
    copy = probe(target)
    assert (copy.color_range, copy.colorspace, copy.planar) == (info.color_range, info.colorspace, True)
    for one, other in zip(frames, read_frames(target, planar=True), strict=True):
        np.testing.assert_array_equal(one.planes, other.planes)


def test_what_is_not_planar_is_not_read_as_such(tmp_path):
    path = write_frames(tmp_path / "full.mp4", "yuv444p")
    assert not probe(path).planar


def test_a_writer_takes_one_kind_of_frame(pair, tmp_path):
    planar, bgr = pair
    for kind, frame in ((False, planar), (True, bgr)):
        with (
            pytest.raises(UsageError, match="planar"),
            VideoWriter(tmp_path / "a.mp4", 160, 128, Fraction(25), planar=kind) as writer,
        ):
            writer.write(frame)
    assert list(tmp_path.iterdir()) == []


def test_a_sampled_frame_has_every_fourth_pixel_and_small_ones_stay_whole():
    rows, columns = np.mgrid[:520, :1028]
    image = np.dstack([rows // 3, columns // 5, np.full_like(rows, 90)]).astype(np.uint8)
    frame = planar_from_bgr(image, yuv_to_bgr("bt709", False))
    small = frame.sampled(4)
    assert small.shape == (130, 256, 3)
    np.testing.assert_array_equal(small.luma, frame.luma[:520:4, :1024:4])
    np.testing.assert_array_equal(small.chroma[1], frame.chroma[1][:260:4, :512:4])
    assert frame.sampled(8) is frame
