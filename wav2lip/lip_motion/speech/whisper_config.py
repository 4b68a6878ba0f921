"""Dimensions of the speech encoder, the encoder of Whisper tiny.en; without torch."""

WIDTH, HEADS, INNER, BLOCKS, MELS = 384, 6, 1536, 4, 80
TAPS = (1, 2, 3, 4)  # blocks whose outputs are used as features
REACH = 75  # attention window in rows to either side: 1.5 s
PERIOD = 1000  # rows after which positions repeat: 20 s; the encoder was trained on 1500
MEL_HOP, MEL_WINDOW = 160, 400  # samples of the mel spectrogram: from column to column, and under a window
FLOOR = 1e-7  # of the power of a mel band; the original's floor follows the loudest band of the recording instead
EDGE_ROWS = 2  # rows that the beginning of a piece of sound spoils
CONTEXT = BLOCKS * REACH + 4  # receptive field of the last block in rows to either side
