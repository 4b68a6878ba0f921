"""A photo in a live session moves while it speaks and while it does not, as it does in a file."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from inference.engine import JobInput
from inference.files.face_source import FaceSource, Framing
from inference.live.session import LiveConfig
from inference.options import Options
from inference.prefetch import StageClock
from preprocessing.errors import UsageError
from tests.inference.live.material import frames, noise, session
from tests.material import write_photo, write_sound


@pytest.mark.parametrize("kind", ["none", "head", "full"])
def test_every_frame_equals_that_of_a_file(engine, portrait, tmp_path, kind):
    said = np.round(noise(1.6) * 32767).astype(np.int16)
    face, sound = write_photo(tmp_path / "anna.png"), write_sound(tmp_path / "said.wav", said / 32767)
    options = Options(detector="haar", photo_motion=kind)
    source = FaceSource(face, Framing())
    job = engine.start(JobInput(source, sound, options, StageClock()))
    assert not (kind != "none" and job.planar)
    expected = [frame.result for frame in job.render(source.play(40, "bounce"), 40, 4)]
    job.close()
    live = session(engine, portrait, lookahead=np.inf, photo_motion=kind)
    live.push(said, 16000)
    live.end()
    shown = frames(live, 40)
    assert all(np.array_equal(one.frame, other) for one, other in zip(shown, expected, strict=True))


def test_a_silent_photo_moves_slowly_and_the_first_frame_is_as_it_was(engine, portrait):
    still = frames(session(engine, portrait), 1)[0].frame
    shown = [frame.frame for frame in frames(session(engine, portrait, photo_motion="full"), 60)]
    assert np.array_equal(shown[0], still)
    differences = [np.abs(one.astype(int) - two).mean() for one, two in pairwise(shown)]
    assert max(differences) < 1
    assert np.count_nonzero(differences) > 50
    assert np.abs(shown[50].astype(int) - still).mean() > max(differences)


def test_what_is_said_does_not_change_how_the_head_moves(engine, portrait):
    silent, speaking = session(engine, portrait, photo_motion="full"), session(engine, portrait, photo_motion="full")
    speaking.push(noise(2), 16000)
    above = np.s_[:50]  # rows above the mouth
    pairs = zip(frames(silent, 30), frames(speaking, 30), strict=True)
    assert all(np.array_equal(one.frame[above], two.frame[above]) for one, two in pairs)


def test_a_video_is_not_moved(engine, avatar):
    shown, still = (frames(session(engine, avatar, photo_motion=kind), 20) for kind in ("full", "none"))
    assert all(np.array_equal(one.frame, two.frame) for one, two in zip(shown, still, strict=True))


def test_an_unknown_motion_is_refused():
    with pytest.raises(UsageError, match="photo_motion must be one of none, head, full"):
        LiveConfig(photo_motion="nod")
    with pytest.raises(UsageError, match="photo_motion must be one of none, head, full"):
        Options(photo_motion="nod")
