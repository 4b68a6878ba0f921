"""A log-mel spectrogram as a speech encoder: no weights, no phonetics; the measure of what a recogniser adds."""

from __future__ import annotations

import numpy as np

from preprocessing.media.audio import AudioConfig, mel_spectrogram
from wav2lip.lip_motion.speech.speech_encoder import EncoderName, Samples

MEL = AudioConfig(hop_length=320)  # 50 columns a second
REACH = MEL.n_fft // MEL.hop_length + 1  # columns beyond which sound does not matter


class MelEncoder:
    """80 mel bands, 50 times a second, -4 to 4 (see `SpeechEncoder`)."""

    name: EncoderName = "mel"
    dimension = MEL.n_mels

    def rows(self, samples: Samples, first: int, last: int) -> np.ndarray:
        """As `SpeechEncoder.rows`."""
        start = max(first - REACH, 0)
        piece = samples[start * MEL.hop_length : (last + REACH) * MEL.hop_length]
        mel = mel_spectrogram(piece, MEL)
        return np.ascontiguousarray(mel.T[first - start : last - start])
