"""Errors of a user: how they are found and told."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from preprocessing.errors import UsageError, display_path, require_at_least


def test_numbers_that_are_too_small_are_refused_by_name():
    given = SimpleNamespace(steps=1, lr=0.0, share=float("nan"), width=-2)
    require_at_least(given, steps=1, lr=0)
    with pytest.raises(UsageError, match=r"^width must be 0 or more, not -2$"):
        require_at_least(given, steps=1, width=0)
    with pytest.raises(UsageError, match=r"^share must be 0 or more, not nan$"):
        require_at_least(given, share=0)


def test_a_path_of_any_name_is_told_on_one_line():
    assert display_path("ä/b.mp4") == "ä/b.mp4"
    assert display_path("two\nlines.mp4") == "'two\\nlines.mp4'"
