"""Splits by speaker: no speaker appears in more than one."""

from __future__ import annotations

import hashlib

SPLITS = ("train", "val", "test")
VAL_SHARE, TEST_SHARE = 0.1, 0.0  # default shares of the speakers


def assign_split(speaker: str, val_share: float, test_share: float) -> str:
    """Assigns a speaker to a split by a hash of the name, independent of the machine and the other speakers.

    val grows from one end of the hash range and test from the other, so changing one share never moves a speaker
    between the other two splits.
    """
    digest = hashlib.sha256(speaker.encode("utf-8", "surrogatepass")).hexdigest()
    position = int(digest[:13], 16) / 16**13  # 52 bits: exact as a float, 0 <= position < 1
    if position < val_share:
        return "val"
    return "test" if position >= 1 - test_share else "train"
