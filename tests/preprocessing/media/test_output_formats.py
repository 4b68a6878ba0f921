"""Encoder options: what `light` means, and that lossless stays lossless."""

from __future__ import annotations

import pytest

from preprocessing.media.output_formats import LIGHT, video_options


@pytest.mark.parametrize(("asked", "given"), [(14.0, 13.0), (1.0, 1.0), (0.0, 0.0)])
def test_light_searches_less_at_a_finer_quality_and_never_becomes_lossless(asked, given):
    options = video_options(".mp4", asked, LIGHT)
    assert (options["crf"], options["preset"]) == (given, "veryfast")
    assert "subme=1" in options["x264-params"]


def test_other_presets_are_x264s_own_and_other_formats_know_none():
    assert video_options(".mkv", 14.0, "medium") == {"c:v": "libx264", "crf": 14.0, "preset": "medium"}
    assert "preset" not in video_options(".webm", 14.0, LIGHT)
