"""Two people in one video, each with a sound of their own, in one pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inference.job import Job
from inference.mesh.engine import MeshEngine
from inference.options import Options
from inference.parts import Part
from inference.pipeline import LipSync
from preprocessing.errors import UsageError
from tests.material import SIDE, photo, pictures_of, sound_of, speech, write_sound, write_video

FRAMES = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """two.mp4, the portrait twice, with a tone as its sound; speech.wav (0.6 s)."""
    folder = tmp_path_factory.mktemp("two")
    tone = write_sound(folder / "tone.wav", 0.2 * np.sin(np.arange(16000 * FRAMES // 25) * 0.3))
    write_video(folder / "two.mp4", [np.hstack([photo(), photo()])] * FRAMES, sound=tone)
    samples, rate = speech(1.1)
    write_sound(folder / "speech.wav", samples[rate // 2 :], rate)  # it begins with silence
    return folder


@pytest.fixture(scope="module")
def model() -> LipSync:
    return LipSync(MeshEngine.load())


def run(model: LipSync, folder: Path, name: str, *parts: Part, **options: object) -> list[np.ndarray]:
    chosen = Options(detector="haar", crf=0, **options)
    report = model.run(Job(folder / "two.mp4", None, folder / name, chosen, parts))
    assert report.frames == FRAMES
    return [picture.astype(int) for picture in pictures_of(folder / name)]


def moved(frames: list[np.ndarray], others: list[np.ndarray], half: slice) -> list[int]:
    """The frames in which one half of the picture differs visibly."""
    return [n for n, (a, b) in enumerate(zip(frames, others, strict=True)) if np.abs(a - b)[:, half].max() > 30]


def test_each_says_their_part_and_only_then(model, folder):
    words = folder / "speech.wav"
    source = [picture.astype(int) for picture in pictures_of(folder / "two.mp4")]
    parts = Part(words, 1, 0.0, 0.4), Part(words, "right", 0.24, 0.72)
    both, alone = run(model, folder, "both.mp4", *parts, preview=1), run(model, folder, "alone.mp4", parts[1])
    left, right = slice(0, SIDE), slice(SIDE, 2 * SIDE)
    assert set(moved(both, source, left)) <= set(range(10))
    assert set(moved(both, source, right)) <= set(range(6, 18))
    assert len(moved(both, source, left)) > 5
    assert len(moved(both, source, right)) > 5
    assert moved(alone, source, left) == []
    assert max(np.abs(a - b)[:, SIDE + 8 :].max() for a, b in zip(both, alone, strict=True)) <= 3  # nothing but coding
    assert (folder / "both.preview.png").exists()

    sound, own, said = (sound_of(folder / name) for name in ("both.mp4", "two.mp4", "speech.wav"))
    last = slice(int(0.75 * 16000), int(0.79 * 16000))
    assert np.corrcoef(sound[last], own[last])[0, 1] > 0.9  # outside the parts the video's own sound stays
    first = slice(800, int(0.23 * 16000))
    assert np.corrcoef(sound[first], said[first])[0, 1] > 0.98


def test_a_number_that_nobody_has(model, folder):
    with pytest.raises(UsageError, match="this video shows 2 people, 1 and 2: nobody has the number 3"):
        model(folder / "two.mp4", folder / "speech.wav", folder / "three.mp4", face_id=3, detector="haar")
    with pytest.raises(UsageError, match=r"part 1 begins at 2 s, after the video's end at 0.80 s"):
        run(model, folder, "late.mp4", Part(folder / "speech.wav", 1, 2.0))
    assert not list(folder.glob("three*")) + list(folder.glob("late*"))
