"""The run of a source video and the crops of videos generated from it."""

from fractions import Fraction

import cv2
import numpy as np
import pytest

from evaluation.metrics.face_crops import SIDE, open_source, read_footage, read_still_footage
from preprocessing.errors import MediaError
from preprocessing.faces.crops import CropGeometry, crop
from preprocessing.faces.detectors import load_detector
from preprocessing.media.audio import load_audio
from preprocessing.media.video_reader import read_frames
from tests.material import swaying_photo, write_photo, write_sound, write_talk, write_video

FRAMES = 60


@pytest.fixture(scope="module")
def detector():
    return load_detector("haar")


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    return write_talk(tmp_path_factory.mktemp("footage") / "a talk.mp4", swaying_photo(FRAMES))


@pytest.fixture(scope="module")
def source(talk, detector):
    return open_source(talk, detector)


def test_a_source_is_its_longest_run_cut_by_the_points_geometry(source, talk):
    assert source.start == 0
    assert source.faces.shape == (FRAMES, SIDE, SIDE, 3)
    matrix = CropGeometry("points", SIDE).matrix(source.track.boxes[7], source.track.points[7], (160, 160))
    frames = list(read_frames(talk, fps=Fraction(25)))
    assert np.array_equal(source.faces[7], crop(frames[7], matrix, SIDE))
    assert source.samples.dtype == np.int16
    assert np.allclose(source.samples, load_audio(talk) * 32768, atol=0.51)


def test_frames_without_the_face_are_no_part_of_the_run(tmp_path, detector):
    pictures = swaying_photo(70)
    for k in (*range(10), *range(40, 50)):
        pictures[k] = np.full_like(pictures[k], 128)
    source = open_source(write_talk(tmp_path / "gaps.mp4", pictures), detector)
    assert 9 <= source.start <= 14
    assert len(source.faces) == len(source.track) <= 40 - source.start
    assert source.track.found.all()


def test_only_the_first_seconds_are_looked_at(talk, detector):
    assert len(open_source(talk, detector, 1.2).faces) == 30


def test_a_video_of_itself_looks_the_same(source, talk):
    made = read_footage(talk, source)
    assert np.array_equal(made.faces, source.faces)
    assert np.array_equal(made.samples, source.samples)


def test_a_video_of_another_size_is_cut_at_the_same_place(source, tmp_path):
    large = [cv2.resize(picture, (320, 320), interpolation=cv2.INTER_CUBIC) for picture in swaying_photo(FRAMES)]
    made = read_footage(write_talk(tmp_path / "large.mp4", large), source)
    assert np.abs(made.faces.astype(int) - source.faces).mean() < 3
    moved = np.abs(np.roll(made.faces, 2, axis=2).astype(int) - source.faces).mean()
    assert moved > 2 * np.abs(made.faces.astype(int) - source.faces).mean()


def test_a_shorter_video_has_fewer_faces(source, tmp_path):
    made = read_footage(write_talk(tmp_path / "short.mp4", swaying_photo(30)), source)
    assert np.abs(made.faces.astype(int) - source.faces[:30]).mean() < 3
    assert len(made.faces) == 30


def test_a_video_of_a_still_is_cut_where_the_still_has_the_face(source, tmp_path):
    still = [swaying_photo(FRAMES)[12]] * 40
    made = read_still_footage(write_talk(tmp_path / "still.mp4", still), source, 12)
    assert len(made.faces) == 40
    assert np.abs(made.faces.astype(int) - source.faces[12]).mean() < 3


def test_what_cannot_be_measured_says_why(source, tmp_path, detector):
    def refused(path, what, how=lambda path: open_source(path, load_detector("haar"))):
        with pytest.raises(MediaError, match=what):
            how(path)

    def seen(path):
        return read_footage(path, source)

    refused(tmp_path / "missing.mp4", "missing.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    refused(tmp_path / "text.mp4", "text.mp4")
    refused(write_photo(tmp_path / "photo.png"), "photo.png is a photo, not a video")
    refused(write_talk(tmp_path / "brief.mp4", swaying_photo(20)), "brief.mp4 is 0.80 s long; at least 1 s")
    grey = [np.full((160, 160, 3), 128, np.uint8)] * 30
    refused(write_talk(tmp_path / "grey.mp4", grey), "no face in .*grey.mp4")
    refused(write_video(tmp_path / "mute.mp4", swaying_photo(30)), "mute.mp4 has no audio track", seen)
    wide = [picture[:80] for picture in swaying_photo(30)]
    refused(
        write_talk(tmp_path / "wide.mp4", wide), "has another aspect ratio than its face: 160x80, not 160x160", seen
    )
    apart = write_talk(tmp_path / "apart.mp4", swaying_photo(60), seconds=1.4)
    refused(apart, r"2.40 s of video but 1.\d\d s of audio", seen)


def test_a_silent_source_has_no_samples(tmp_path, detector):
    assert not len(open_source(write_video(tmp_path / "mute.mp4", swaying_photo(30)), detector).samples)


def test_sound_of_a_file_is_heard_from_its_beginning(tmp_path, source):
    tone = np.sin(np.arange(16000 * 2) / 5) * 0.3
    tone[:16000] = 0
    path = write_video(tmp_path / "late.mp4", swaying_photo(50), sound=write_sound(tmp_path / "t.wav", tone))
    samples = read_footage(path, source).samples
    assert abs(int(np.argmax(np.abs(samples) > 2000)) - 16000) < 160
