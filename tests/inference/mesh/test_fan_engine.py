"""The default engine on FAN's landmarks: a stand-in for the network draws the portrait's known points."""

from __future__ import annotations

from fractions import Fraction

import cv2
import numpy as np
import pytest

from inference.engine import JobInput
from inference.files.face_source import FaceSource, Framing
from inference.mesh.engine import MeshEngine
from inference.options import Options
from inference.prefetch import StageClock
from preprocessing.errors import UsageError
from preprocessing.faces.landmarks import fan
from tests.material import write_speech
from tests.preprocessing.faces.landmarks.portrait import portrait
from tests.preprocessing.faces.landmarks.test_fan import PortraitFan
from wav2lip.lip_motion.motion import LipMotionModel

FRAMES = 12


def test_the_mouth_moves_and_nothing_above_it_changes(tmp_path, monkeypatch):
    network, view = PortraitFan(), fan.fan_view

    def seen(box: np.ndarray) -> fan.View:
        network.view = view(box)
        return network.view

    monkeypatch.setattr(fan, "fan_view", seen)
    cv2.imwrite(str(tmp_path / "face.png"), portrait())
    source = FaceSource(tmp_path / "face.png", Framing(1, False, (0, -1, 0, -1)), fps=Fraction(25))
    speech = write_speech(tmp_path / "speech.wav", FRAMES / 25)
    engine = MeshEngine(fan.FanLandmarks(network), LipMotionModel.load())
    job = engine.start(JobInput(source, speech, Options(detector="haar"), StageClock()))
    assert job.has_face()
    frames = [frame.result for frame in job.render(source.play(FRAMES, "bounce"), FRAMES, 4)]
    job.close()
    assert len(frames) == FRAMES
    change = np.max([np.abs(frame.astype(int) - portrait()).max(axis=2) for frame in frames], axis=0)
    assert not change[:115].any()  # the nose's tip is at 125, the lips' middle at 147
    assert (change[135:165, 200:247] > 20).mean() > 0.2


def test_other_landmarks_are_refused():
    with pytest.raises(UsageError, match="landmarks must be mesh or fan, not 'dlib'"):
        MeshEngine.load("dlib")
