"""The default engine on a real portrait: the mouth follows the speech, and nothing else changes."""

from __future__ import annotations

from contextlib import closing
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import wavfile

from inference.engine import JobInput, Role, Utterance
from inference.files.face_source import FaceSource, Framing
from inference.mesh.engine import MeshEngine, MeshJob
from inference.options import Options
from inference.prefetch import StageClock
from preprocessing.faces.detectors import load_detector
from preprocessing.faces.mesh import LIPS_INNER, LIPS_OUTER, HeadPose, opening
from tests.conftest import REPOSITORY
from tests.material import photo
from wav2lip.lip_motion.motion import LipMotionModel
from wav2lip.renderer.painter_inference import NetworkPainter
from wav2lip.renderer.painter_inputs import HEIGHT, WIDTH

SPEECH = REPOSITORY / "assets" / "speech.wav"
FRAMES = 50


@pytest.fixture(scope="module")
def engine() -> MeshEngine:
    return MeshEngine.load()


@pytest.fixture(scope="module")
def portrait(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("face") / "portrait.png"
    cv2.imwrite(str(path), photo())
    return path


@pytest.fixture(scope="module")
def audio(tmp_path_factory) -> Path:
    """A second of speech, then a second of digital silence."""
    rate, samples = wavfile.read(SPEECH)
    path = tmp_path_factory.mktemp("audio") / "speech.wav"
    wavfile.write(path, rate, np.concatenate([samples[rate // 2 : rate // 2 + rate], np.zeros(rate, samples.dtype)]))
    return path


def start(engine: MeshEngine, face: Path, audio: Path, **options: object) -> MeshJob:
    chosen = Options(**{"detector": "haar"} | options)
    source = FaceSource(face, Framing(1, False, (0, -1, 0, -1)), fps=Fraction(25))
    return engine.start(JobInput(source, audio, chosen, StageClock()))


def rendered(job: MeshJob) -> list[np.ndarray]:
    frames = list(job.render(job.job.source.play(FRAMES, "bounce"), FRAMES, 4))
    job.close()
    return [frame.result for frame in frames]


def mouth_box(job: MeshJob) -> tuple[slice, slice]:
    ring = job.people[0].store.landmarks(0).points[[*LIPS_OUTER], :2]
    (left, top), (right, bottom) = ring.min(0).astype(int), np.ceil(ring.max(0)).astype(int)
    return slice(top - 4, bottom + 5), slice(left - 4, right + 5)


def test_the_mouth_moves_in_speech_and_rests_in_silence(engine, portrait, audio):
    job = start(engine, portrait, audio)
    assert job.has_face()
    assert job.speech_frames == FRAMES
    box = mouth_box(job)
    mouths = np.stack([frame[box] for frame in rendered(job)]).astype(float)
    motion = np.abs(np.diff(mouths, axis=0)).mean(axis=(1, 2, 3))
    assert motion[:22].mean() > 1.0
    assert motion[32:].mean() < 0.15 * motion[:22].mean()


def test_pixels_outside_the_lower_face_are_identical(engine, portrait, audio):
    job = start(engine, portrait, audio)
    points = job.people[0].store.landmarks(0).points
    source = photo()
    nose = int(points[:, 1].min() + 0.45 * (points[:, 1].max() - points[:, 1].min()))
    for frame in rendered(job):
        assert np.array_equal(frame[:nose], source[:nose])
        assert np.array_equal(frame[:, :8], source[:, :8])


def test_a_smile_closes_at_rest(engine, portrait, audio):
    job = start(engine, portrait, audio)
    seen = job.people[0].store.landmarks(0).points
    assert opening(HeadPose.of(seen).unpose(seen)) > 1.0
    assert opening(job.people[0].rest) < 0.6
    job.close()


def test_strength_scales_the_motion(engine, portrait, audio):
    jobs = {strength: start(engine, portrait, audio, strength=strength) for strength in (0.0, 0.5, 1.0)}
    spans = {}
    for strength, job in jobs.items():
        plans = job.people[0].planned([(shown, 0) for shown in range(22)], FRAMES, Fraction(25))
        targets = np.stack([plan.pose.unpose(plan.target)[LIPS_INNER] for plan in plans])
        spans[strength] = np.ptp(targets[..., 1], axis=0).max()
        job.close()
    assert spans[0.0] < 1e-6
    assert spans[0.0] < 0.7 * spans[0.5] < 0.7 * spans[1.0]


def test_mouths_are_painted_only_if_wanted(engine, portrait, audio, monkeypatch):
    """By a network that paints green; the files that sign a video name its weights only then."""

    def green(stacked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        weights, paint = np.zeros((2, 1, 3, HEIGHT, WIDTH), np.float32)
        weights[:, 2] = paint[:, 1] = 1
        return weights, paint

    monkeypatch.setattr(NetworkPainter, "load", classmethod(lambda cls: cls(green)))
    shown = {
        paint: np.stack(rendered(start(engine, portrait, audio, paint=paint, strength=1.5))) for paint in (False, True)
    }
    greener = shown[1][..., 1].astype(int) - shown[0][..., 1]
    assert (greener > 60).sum() > 20
    files = {paint: {path.name for path in engine.provenance(Options(paint=paint))[0]} for paint in (False, True)}
    assert files[True] - files[False] == {"renderer.safetensors"}


def test_a_sound_is_heard_once_before_any_frame_is_seen(engine, portrait, audio, monkeypatch):
    """Whoever says it, and so that its memory is given back before frames need theirs."""
    steps = []
    hear = LipMotionModel.hear
    monkeypatch.setattr(LipMotionModel, "hear", lambda *args: (steps.append("hear"), hear(*args))[1])
    monkeypatch.setattr(MeshEngine, "observe", lambda *args: steps.append("see"))
    twice = (Role((Utterance(audio), Utterance(audio, first=60))),)
    source = FaceSource(portrait, Framing(1, False, (0, -1, 0, -1)), fps=Fraction(25))
    job = engine.start(JobInput(source, audio, Options(detector="haar"), StageClock(), twice))
    assert steps == ["hear", "see"]
    assert job.speech_frames == 60 + FRAMES
    job.close()


def test_frames_without_a_face_pass_through_and_are_counted(engine, tmp_path, audio):
    path = tmp_path / "wall.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(100, 140, (240, 320, 3), np.uint8))
    job = start(engine, path, audio)
    assert not job.has_face()
    job.close()


def test_a_drawn_face_in_a_box_speaks(engine, audio, tmp_path):
    drawn = cv2.stylization(photo(), sigma_s=60, sigma_r=0.45)
    cv2.imwrite(str(tmp_path / "drawn.png"), drawn)
    with closing(start(engine, tmp_path / "drawn.png", audio)) as alone:
        assert not alone.has_face()
    left, top, right, bottom = load_detector("haar")([photo()])[0][0].box.astype(int).tolist()
    job = start(engine, tmp_path / "drawn.png", audio, box=(top, bottom, left, right))
    box = mouth_box(job)
    mouths = np.stack([frame[box] for frame in rendered(job)]).astype(float)
    assert np.abs(np.diff(mouths[:22], axis=0)).mean() > 1.0
