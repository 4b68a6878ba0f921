"""Drawn recordings of all kinds go through a whole job; `python -m tests.media_fuzz` draws for longer."""

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings

from tests.media_fuzz import Recording, check, recordings


def test_every_recording_becomes_a_video_that_is_right():
    refusals = []

    @settings(max_examples=25, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(recordings())
    def draws(recording: Recording) -> None:
        with tempfile.TemporaryDirectory() as folder:
            refusals.append(check(recording, Path(folder)))

    draws()
    assert len(refusals) >= 20
    assert not any(refusals)  # all of these kinds can be read
