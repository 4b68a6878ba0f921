"""A log-mel spectrogram as a speech encoder: no weights; the baseline."""

from __future__ import annotations

import numpy as np

from preprocessing.media.audio import AudioConfig
from preprocessing.media.mel import mel_spectrogram
from wav2lip.lip_motion.speech.speech_encoder import EncoderName, Samples

MEL = AudioConfig(hop_length=320)  # 50 columns per second
REACH = MEL.n_fft // MEL.hop_length + 1  # receptive field in columns to either side


class MelEncoder:
    """80 mel bands, 50 times per second, -4 to 4 (see `SpeechEncoder`)."""

    name: EncoderName = "mel"
    dimension = MEL.n_mels

    def rows(self, samples: Samples, first: int, last: int) -> np.ndarray:
        """See `SpeechEncoder.rows`."""
        start = max(first - REACH, 0)
        piece = samples[start * MEL.hop_length : (last + REACH) * MEL.hop_length]
        mel = mel_spectrogram(piece, MEL)
        return np.ascontiguousarray(mel.T[first - start : last - start])

    def release_memory(self) -> None:
        """See `SpeechEncoder.release_memory`: nothing is kept."""
