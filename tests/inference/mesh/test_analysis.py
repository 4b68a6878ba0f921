"""A face that several jobs have is looked at once, with the same result."""

from dataclasses import replace

import numpy as np
import pytest

from inference.mesh.analysis import Analysis, AnalysisCache
from inference.mesh.landmark_store import LandmarkStore
from preprocessing.errors import UsageError
from tests.inference.mesh.test_mesh_engine import audio, engine, portrait, rendered, start  # noqa: F401
from wav2lip.renderer.inner_mouth import InnerMouthBank


class Counting:
    """Counts the looks of a landmark network."""

    def __init__(self, network) -> None:
        self.network, self.looks = network, 0

    def __call__(self, frame, near):
        self.looks += 1
        return self.network(frame, near)


def test_another_job_with_the_same_face_looks_at_nothing_and_renders_the_same(engine, portrait, audio):  # noqa: F811
    counting = Counting(engine.landmarks)
    remembering = replace(engine, landmarks=counting).remembering()
    first = rendered(start(remembering, portrait, audio, strength=0.8))
    looks = counting.looks
    again = rendered(start(remembering, portrait, audio))
    assert counting.looks == looks > 0
    assert all(np.array_equal(*pair) for pair in zip(again, rendered(start(engine, portrait, audio)), strict=True))
    assert any(not np.array_equal(*pair) for pair in zip(again, first, strict=True))


def test_options_that_change_what_is_seen_look_again(engine, portrait, audio):  # noqa: F811
    counting = Counting(engine.landmarks)
    remembering = replace(engine, landmarks=counting).remembering()
    start(remembering, portrait, audio).close()
    looks = counting.looks
    start(remembering, portrait, audio, nosmooth=True).close()
    assert counting.looks == 2 * looks


def test_the_oldest_analysis_makes_room_and_its_file_goes():
    cache, stores = AnalysisCache(size=2), [LandmarkStore() for _ in range(3)]
    for number, store in enumerate(stores):
        cache.keep(number, Analysis(store, InnerMouthBank()))
        cache.find(0)
    assert cache.find(1) is None
    assert [store._file.closed for store in stores] == [False, True, False]
    with pytest.raises(UsageError, match="room"):
        AnalysisCache(0)
