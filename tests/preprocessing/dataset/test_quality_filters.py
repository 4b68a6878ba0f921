"""Quality measures on values computed by hand and on a real face, blurred and occluded."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from preprocessing.dataset import quality_filters as measure
from preprocessing.dataset.quality_filters import QualityFilters, QualityMeasures, failed_filters
from tests.material import photo, speech

FACE = cv2.resize(photo()[15:96, 45:126], (160, 160))  # roughly the network input square


def projected(yaw: float, roll: float = 0.0, pitch: float = 0.0, scale: float = 30.0) -> np.ndarray:
    """Five landmarks (1, 5, 2) of a head rotated about its axes (degrees), in orthographic projection."""
    head = np.array([[-1, 0, 0], [1, 0, 0], [0, 1.1, 2 * measure.NOSE_DEPTH], [-0.8, 2, 0], [0.8, 2, 0]], np.float64)
    y, p, r = np.radians([yaw, pitch, roll])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return (scale * (about_z @ about_x @ about_y @ head.T).T[None, :, :2] + [100, 50]).astype(np.float32)


@pytest.mark.parametrize("yaw", [-60, -20, 0, 10, 45, 70])
@pytest.mark.parametrize("roll", [-30, 0, 50])
def test_yaw_and_roll_of_a_projected_head(yaw, roll):
    for scale in (5, 80):
        points = projected(yaw, roll, scale=scale)
        assert measure.yaws(points)[0] == pytest.approx(yaw, abs=0.01)
        assert measure.rolls(points)[0] == pytest.approx(roll, abs=0.01)


def test_nodding_hardly_changes_the_yaw():
    for pitch in (-20, 20):
        assert measure.yaws(projected(30, pitch=pitch))[0] == pytest.approx(30, abs=6)
        assert measure.yaws(projected(0, pitch=pitch))[0] == pytest.approx(0, abs=0.01)


def test_usual_extreme_forgives_a_tenth_of_the_frames():
    angles = np.array([-10.0] * 95 + [80.0] * 5)
    assert measure.percentile_90(angles) == 10
    assert measure.percentile_90(np.array([-10.0] * 80 + [80.0] * 20)) == 80


def test_side_is_the_median_root_of_the_area():
    boxes = np.array([[0, 0, 40, 90], [5, 5, 55, 55], [0, 0, 100, 100]], np.float32)
    assert measure.side(boxes) == 60


def test_missing_counts_frames_with_a_part_beyond_the_edge():
    points = np.repeat(projected(0), 4, axis=0)  # nose at y = 83, mouth at 110, so the chin at 137
    assert measure.missing(points, (200, 138)) == 0
    assert measure.missing(points, (200, 136)) == 1
    points[1, :, 0] -= 75  # the right eye, at x = 70, leaves the frame
    assert measure.missing(points, (200, 200)) == 0.25


def test_sound_measures_by_hand():
    samples = np.zeros(1600, np.int16)
    samples[400:800:2], samples[401:800:2] = 3277, -3277  # a tenth of full scale: -20 dBFS
    flags = np.array([0, 0, 1, 1, 0, 0, 0, 0, 0], bool)  # of 200 samples each
    assert measure.level(samples, flags, 200) == pytest.approx(-20, abs=0.01)
    assert measure.level(samples, np.zeros(9, bool), 200) == pytest.approx(-20 - 10 * math.log10(4), abs=0.01)
    assert measure.speech(flags) == pytest.approx(2 / 9)
    assert measure.level(np.zeros(800, np.int16), np.ones(5, bool), 200) == measure.SILENCE
    samples[:16] = [32767, -32768] * 8
    assert measure.clipped(samples) == pytest.approx(0.01)


def test_a_recording_driven_too_high_is_clipped():
    audio = speech(3.0)[0]
    peak = np.abs(audio).max()
    assert measure.clipped((audio / peak * 29000).astype(np.int16)) == 0
    loud = np.clip(audio / peak * 4, -1, 1) * 32767
    assert measure.clipped(loud.astype(np.int16)) > QualityFilters().max_clipped


def test_sharpness_tells_blur_and_hardly_size_light_and_contrast():
    sharp = measure.sharpness(FACE)
    for size in (128, 96, 72, 48):
        smaller = cv2.resize(FACE, (size, size), interpolation=cv2.INTER_AREA)
        assert measure.sharpness(smaller) == pytest.approx(sharp, rel=0.3)
    assert measure.sharpness(cv2.convertScaleAbs(FACE, alpha=0.5, beta=40)) == pytest.approx(sharp, rel=0.1)
    values = [measure.sharpness(cv2.GaussianBlur(FACE, (0, 0), sigma)) for sigma in (1, 2, 4, 6)]
    assert values == sorted(values, reverse=True)
    assert sharp > QualityFilters().min_sharpness > values[-1]
    assert measure.sharpness(np.full((96, 96, 3), 128, np.uint8)) == 0


def talking(count: int) -> list[np.ndarray]:
    """The face with a dark mouth that opens and closes, under changing light."""
    faces = []
    for k in range(count):
        face = FACE.copy()
        cv2.ellipse(face, (82, 103), (14, round(2 + 6 * abs(np.sin(k / 3)))), 0, 0, 360, (40, 30, 70), -1)
        faces.append(cv2.convertScaleAbs(face, alpha=0.8 + 0.2 * np.sin(k / 10)))
    return faces


def flags_of(faces: list[np.ndarray], yaws: np.ndarray | None = None) -> np.ndarray:
    lower = np.stack([measure.lower_face(face) for face in faces])
    return measure.outlier_frames(lower, np.zeros(len(faces)) if yaws is None else yaws)


def test_a_talking_face_is_not_strange():
    assert not flags_of(talking(60)).any()


def test_what_hides_the_mouth_is_strange():
    faces = talking(60)
    for face in faces[20:32]:
        cv2.rectangle(face, (40, 70), (120, 130), (60, 90, 60), -1)
    for face in faces[40:46]:  # fingers in the color of the face
        for row in range(74, 130, 14):
            cv2.ellipse(face, (80, row), (60, 6), 0, 0, 360, tuple(int(v) for v in FACE[60, 80]), -1)
            cv2.ellipse(face, (80, row + 7), (60, 2), 0, 0, 360, (40, 50, 90), -1)
    assert np.flatnonzero(flags_of(faces)).tolist() == [*range(20, 32), *range(40, 46)]


def test_a_fade_is_strange_and_dimmer_light_is_not():
    faces = talking(50)
    faces[:6] = [cv2.addWeighted(face, 0.15, np.full_like(face, 255), 0.85, 0) for face in faces[:6]]
    faces[30:] = [cv2.convertScaleAbs(face, alpha=0.6) for face in faces[30:]]
    assert np.flatnonzero(flags_of(faces)).tolist() == list(range(6))


def test_a_face_that_turns_for_long_is_compared_with_itself_turned():
    straight, turned = talking(48), [face[:, ::-1] for face in talking(48)]
    turned = [np.roll(face, 25, axis=1) for face in turned]
    yaws = np.array([0.0] * 48 + [40.0] * 48)
    assert not flags_of(straight + turned, yaws).any()
    assert flags_of(straight[:4] + turned + straight[4:12])[:4].all()


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_few_frames_are_enough(count):
    assert flags_of(talking(count)).shape == (count,)


def test_failed_names_the_gates_in_order():
    good = QualityMeasures(50, 0.5, 10, 10, 0, 0, 0.5, -20, 0)
    assert failed_filters(good, QualityFilters()) == []
    assert failed_filters(QualityMeasures(), QualityFilters()) == []
    bad = QualityMeasures(39, 0.01, 46, 46, 0.2, 0.3, 0.1, -46, 0.1)
    assert failed_filters(bad, QualityFilters()) == list(vars(bad))
    assert failed_filters(QualityMeasures(side=39, yaw=46, level=-20), QualityFilters(min_side=38)) == ["yaw"]


def test_every_measure_has_its_gate():
    names = {name.split("_", 1)[1] for name in vars(QualityFilters())}
    assert names == set(vars(QualityMeasures())) | {"seconds"}


@pytest.mark.parametrize("wrong", [{"min_seconds": 6.0}, {"min_seconds": 0.1}, {"max_yaw": math.nan}])
def test_thresholds_that_contradict_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        QualityFilters(**wrong)
