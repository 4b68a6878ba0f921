"""Which mouth a video's is compared with."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluation.protocols import mouths
from evaluation.protocols.mouths import MouthMeasurement, driver_of
from evaluation.protocols.trials import Trial
from preprocessing.errors import MediaError
from tests.evaluation.metrics.mesh.test_mouth_shape import look, sway

FACE, OTHER = Path("face.mp4"), Path("other.mp4")
MATCHED = Trial("a", "matched", FACE, FACE, "a", "a", FACE, OTHER)
SWAPPED = replace(MATCHED, protocol="swapped", audio=OTHER, audio_speaker="b")
SILENT = replace(MATCHED, protocol="silent", audio=None, audio_speaker="")


def test_the_driver_is_whose_sound_is_spoken():
    assert driver_of(MATCHED, "ours") == driver_of(MATCHED, "real") == driver_of(SWAPPED, "real") == FACE
    assert driver_of(SWAPPED, "ours") == driver_of(SWAPPED, "copy") == driver_of(MATCHED, "unsynced") == OTHER
    sound = replace(MATCHED, audio=Path("face.wav"), own=Path("face.wav"))
    assert driver_of(sound, "ours") == FACE


@pytest.fixture
def measurement(monkeypatch):
    """A measurement of known mouths by file name; an unknown file is no video."""
    fast, slow = 1 + sway(period=7), 1 + sway(period=17)
    known = {
        "face.mp4": look(sway(period=9), fast), "other.mp4": look(sway(period=14), slow),
        "made.mp4": look(2 * sway(period=14), slow), "still.mp4": look(0.1 * sway(period=9), fast),
    }  # fmt: skip

    def observe(path, judge, seconds):
        if path.name not in known:
            raise MediaError(f"{path} has no video stream")
        return known[path.name]

    monkeypatch.setattr(mouths, "observe", observe)
    monkeypatch.setattr(mouths, "untouched", lambda *_: 0.5)
    monkeypatch.setattr(mouths, "load_audio", lambda _: np.zeros(1600, np.float32))
    return MouthMeasurement(None, 6)


def test_a_swapped_video_follows_the_donor_and_looks_like_the_face(measurement):
    figures = dict(measurement.figures(SWAPPED, "ours", Path("made.mp4")))
    assert figures["mesh_opening_r"] == pytest.approx(1)
    assert figures["amplitude"] == pytest.approx(2)
    assert figures["mesh_redness"] == 1
    assert figures["untouched"] == 0.5
    assert dict(measurement.figures(MATCHED, "ours", Path("made.mp4")))["mesh_opening_r"] < 0.5


def test_the_drivers_recording_is_put_in_sync_unless_the_video_shows_it(measurement, monkeypatch):
    seen = []
    monkeypatch.setattr(mouths, "compare_motion", lambda made, driver, speech, offset: seen.append(offset) or ())
    measurement._offset = {FACE: 2, OTHER: 5}.__getitem__
    for trial, systems in ((SWAPPED, ("ours", "copy", "real")), (MATCHED, ("ours", "copy"))):
        for system in systems:
            dict(measurement.figures(trial, system, Path("made.mp4")))
    assert seen == [5, 5, 0, 2, 0]


def test_sound_alone_drives_no_comparison_of_motion(measurement):
    figures = dict(measurement.figures(replace(SWAPPED, audio=Path("x.wav")), "ours", Path("made.mp4")))
    assert "mesh_opening_r" not in figures
    assert figures["mesh_sharpness"] == 1


def test_silence_is_compared_with_the_systems_own_speech_of_this_face(measurement):
    assert not dict(measurement.figures(SILENT, "ours", Path("still.mp4")))
    dict(measurement.figures(MATCHED, "ours", Path("face.mp4")))
    assert dict(measurement.figures(SILENT, "ours", Path("still.mp4"))) == pytest.approx({"silence_motion": 0.1})
    assert not dict(measurement.figures(SILENT, "others", Path("still.mp4")))
    assert not dict(measurement.figures(replace(SILENT, face=OTHER), "ours", Path("still.mp4")))
