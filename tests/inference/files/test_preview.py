"""The preview shows the mouth at its own resolution, in consecutive frames."""

from __future__ import annotations

import numpy as np

from inference.files.preview import GAP, Preview


def frame(number: int) -> np.ndarray:
    """Every pixel holds the frame's number; columns differ in red."""
    picture = np.full((60, 80, 3), number, np.uint8)
    picture[..., 2] = np.arange(80)
    return picture


def filled(preview: Preview, total: int, changed: range, box=(10, 30, 20, 50)) -> np.ndarray | None:
    for number in range(total):
        preview.add(number, frame(number), frame(number) + 100, box, number in changed)
    return preview.sheet()


def test_six_consecutive_frames_of_the_mouth_before_above_after():
    sheet = filled(Preview(1, 100), 100, range(60, 100))
    assert sheet.shape == (2 * 20 + GAP, 6 * 30 + 5 * GAP, 3)
    for column in range(6):
        before, after = (sheet[y:, column * (30 + GAP) :][:20, :30] for y in (0, 20 + GAP))
        assert (before[..., 0] == 60 + column).all()  # the first changed frame after the passage's place, 47
        assert (after[..., 0] == 160 + column).all()
        assert np.array_equal(before[0, :, 2], np.arange(20, 50))  # its own pixels, not resized


def test_passages_are_spread_over_the_video_and_a_box_beyond_the_frame_is_cut():
    sheet = filled(Preview(2, 100), 100, range(100), box=(-10, 20, 60, 200))
    assert sheet.shape == (4 * 20 + 3 * GAP, 6 * 20 + 5 * GAP, 3)
    assert [int(sheet[y, 0, 0]) for y in (0, 2 * (20 + GAP))] == [23, 70]


def test_without_a_changed_frame_there_is_nothing_to_see():
    assert filled(Preview(2, 50), 50, range(0)) is None
