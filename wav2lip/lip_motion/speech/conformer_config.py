"""Dimensions of the speech encoder's Conformer; without torch."""

WIDTH, HEADS, INNER, BLOCKS, KERNEL, PHONEMES = 144, 4, 576, 4, 31, 191
TAPS = (2, 4)  # blocks whose outputs are used as features
REACH = 100  # attention window in rows to either side: 2 s
HOP, FRAME = 160, 400  # samples: hop and window of the mel spectrogram
ENGINE_FLOOR = 1e-10  # floor of the log power in the package's own engine
EDGE_ROWS = 2  # rows that the beginning of a piece of sound spoils
FLOOR = 1e-6  # our floor: digital silence looks like a quiet room, not like input far from the training data


def context_rows(reach: int | None) -> int:
    """Receptive field of the last block in rows to either side, rounded up, for an attention window of `reach` rows."""
    return BLOCKS * ((reach or 0) + KERNEL // 2) + 4
