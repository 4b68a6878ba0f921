"""Splits by speaker: nobody appears in two of them."""

from __future__ import annotations

import hashlib

SPLITS = ("train", "val", "test")
VAL_SHARE, TEST_SHARE = 0.1, 0.0  # of the speakers, unless told otherwise


def assign_split(speaker: str, val_share: float, test_share: float) -> str:
    """The split that a hash of the name gives a speaker: the same on every machine, whoever else is in the set.

    val grows from one end and test from the other, so that a change of one share moves nobody between the other two.
    """
    place = (
        int(hashlib.sha256(speaker.encode("utf-8", "surrogatepass")).hexdigest()[:13], 16) / 16**13
    )  # 52 bits: exact as a float, 0 <= place < 1
    if place < val_share:
        return "val"
    return "test" if place >= 1 - test_share else "train"
