"""Encoder options: what `light` means."""

from __future__ import annotations

from preprocessing.media.output_formats import LIGHT, video_options


def test_light_predicts_from_the_past_only_at_the_quality_asked_for():
    options = video_options(".mp4", 14.0, LIGHT)
    assert (options["crf"], options["preset"]) == (14.0, "veryfast")
    assert {"bframes=0", "subme=1"} <= set(options["x264-params"].split(":"))


def test_other_presets_are_x264s_own_and_other_formats_know_none():
    assert video_options(".mkv", 14.0, "medium") == {"c:v": "libx264", "crf": 14.0, "preset": "medium"}
    assert "preset" not in video_options(".webm", 14.0, LIGHT)
