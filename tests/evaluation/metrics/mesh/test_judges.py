"""The two judges of mouth shape keep one contract; a stand-in for MediaPipe runs in a subprocess."""

import os
import sys

import numpy as np
import pytest

from evaluation.metrics.mesh import judges
from evaluation.metrics.mesh.judges import LandmarkJudge, MediaPipeJudge
from preprocessing.errors import MediaError, UsageError
from preprocessing.faces.face_track import Detection
from preprocessing.faces.mesh import MESH_INDICES, Landmarks, canonical_face
from tests.material import write_video

FRAMES, HEIGHT, WIDTH = 4, 120, 160

# Stands for mediapipe: point k lies at (k / 1000, red of the first pixel / 255); no face where that pixel is black.
STAND_IN = """
from types import SimpleNamespace as S
__version__ = "9.9"

class FaceMesh:
    def __init__(self, **given): pass
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def process(self, image):
        red = image[0, 0, 0]
        face = S(landmark=[S(x=k / 1000, y=red / 255, z=0.0) for k in range(478)])
        return S(multi_face_landmarks=[face] if red else None)

solutions = S(face_mesh=S(FaceMesh=FaceMesh))
"""


def interpreter(folder, module):
    """A Python command with a module of this text named mediapipe."""
    (folder / "mediapipe.py").write_text(module)
    python = folder / "python"
    setup = f"import sys, runpy; sys.argv = sys.argv[1:]; sys.path.insert(0, {str(folder)!r})"
    run = "runpy.run_path(sys.argv[0], run_name='__main__')"
    python.write_text(f'#!/bin/sh\nshift\nexec {sys.executable} -P -c "{setup}; {run}" "$@"\n')
    os.chmod(python, 0o755)
    return python


def frames(reds=(0, 51, 102, 255)):
    for red in reds:
        frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        frame[..., 2] = red
        yield frame


def test_mediapipe_is_given_red_first_and_gives_pixels(tmp_path):
    judge = MediaPipeJudge(interpreter(tmp_path, STAND_IN))
    points, found = judge(frames())
    assert judge.name == "MediaPipe FaceMesh 9.9"
    assert found.tolist() == [False, True, True, True]
    assert points.shape == (FRAMES, len(MESH_INDICES), 2)
    assert not points[0].any()
    np.testing.assert_allclose(points[1, :, 0], np.array(MESH_INDICES) / 1000 * WIDTH, rtol=1e-5)
    np.testing.assert_allclose(points[:, 7, 1], np.array([0, 51, 102, 255]) / 255 * HEIGHT, rtol=1e-5)


def test_a_python_that_is_none_or_has_no_mediapipe_is_refused_in_one_line(tmp_path):
    with pytest.raises(UsageError, match="cannot run"):
        MediaPipeJudge(tmp_path / "nothing")
    with pytest.raises(UsageError, match=r"no MediaPipe: .*boom"):
        MediaPipeJudge(interpreter(tmp_path, "raise ImportError('boom')"))


def test_a_failing_mediapipe_is_an_error_and_no_hang(tmp_path):
    judge = MediaPipeJudge(interpreter(tmp_path, STAND_IN.replace("red = image[0, 0, 0]", "raise OSError('broken')")))
    with pytest.raises(MediaError, match=r"MediaPipe failed: .*broken"):
        judge(frames([9] * 300))
    with pytest.raises(MediaError, match="no frames"):
        judge(iter(()))


def detector(seen):
    """Finds one face, except in black frames."""
    return [[Detection(np.array([40, 20, 110, 100], np.float32), 1.0, None)] if f.any() else [] for f in seen]


class StandStill:
    """A landmark network that finds the canonical face in any frame."""

    def __call__(self, frame, near):
        return Landmarks(canonical_face().astype(np.float32))


def test_our_network_gives_the_same_contract():
    judge = LandmarkJudge(detector, StandStill())
    points, found = judge(frames([0] * 3 + [120] * 20))
    assert points.shape == (23, len(MESH_INDICES), 2)
    assert found.shape == (23,)
    assert not found[:3].any()
    assert found[-5:].all()
    np.testing.assert_allclose(points[-1], canonical_face()[:, :2], rtol=1e-5)
    assert not points[0].any()


def judge_of(found):
    """A judge that sees the canonical face where `found` says so."""

    def judge(frames):
        count = len(list(frames))
        here = np.resize(np.array(found, bool), count)
        return np.where(here[:, None, None], canonical_face()[None, :, :2], 0.0), here

    judge.name = "a stand-in"
    return judge


def textured(count):
    return [np.random.default_rng(k).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8) for k in range(count)]


def test_a_mouth_is_looked_at_where_the_face_is(tmp_path):
    video = write_video(tmp_path / "a.mp4", textured(12))
    look = judges.observe(video, judge_of([True, True, False]))
    assert look.points.shape == (12, len(MESH_INDICES), 2)
    assert look.found.tolist() == [True, True, False] * 4
    assert np.isnan(look.sharpness).tolist() == np.isnan(look.redness).tolist() == [False, False, True] * 4
    assert np.ptp(look.opening) < 1e-9  # interpolated across the gaps
    with pytest.raises(MediaError, match=r"a stand-in finds no face in .*a\.mp4"):
        judges.observe(video, judge_of([False]))


def test_a_copy_is_untouched_and_other_sizes_are_not_compared(tmp_path):
    video = write_video(tmp_path / "a.mp4", textured(12))
    other = write_video(tmp_path / "b.mp4", [frame[:100] for frame in textured(12)])
    look = judges.observe(video, judge_of([True]))
    assert judges.untouched(video, video, look) == 0
    assert judges.untouched(other, video, look) is None
