"""The speech of a job: its mel spectrogram and its length in video frames."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from preprocessing.errors import MediaError, display_path
from preprocessing.media.audio import (
    AudioConfig,
    frame_count,
    mel_spectrogram,
    mel_window,
    rest_in_silence,
    speech_columns,
    spool_audio,
)

MIN_SECONDS = 0.1


@dataclass(frozen=True)
class Speech:
    """Speech as generator input.

    Attributes:
        mel: (80, T) float32, -4 to 4.
        frames: length in video frames.
        fps: frame rate of the video.
        config: parameters of the mel spectrogram.
    """

    mel: np.ndarray
    frames: int
    fps: Fraction
    config: AudioConfig

    @classmethod
    def load(
        cls, path: Path, fps: Fraction, config: AudioConfig, rest: bool = True, track: int | None = None
    ) -> Speech:  # fmt: skip
        """Reads an audio or video file.

        Args:
            rest: replace background noise between words with silence, so that the mouth comes to rest.
            track: the audio track, see `read_speech`.

        Raises:
            MediaError: the file has no audio, or less than 0.1 s.
        """
        samples = read_speech(path, config, track)
        mel = mel_spectrogram(samples, config)
        if rest:
            mel = rest_in_silence(mel, speech_columns(samples, config), config)
        return cls(mel, frame_count(len(samples), fps, config), fps, config)

    def window(self, frame: int) -> np.ndarray:
        """The mel window of a video frame, (1, 80, 16) float32."""
        return mel_window(self.mel, Fraction(frame) / self.fps, self.config)[None]


def read_speech(path: Path, config: AudioConfig = AudioConfig(), track: int | None = None) -> np.ndarray:
    """Reads an audio or video file as (n,) int16 mono samples at the configured rate, in a temporary file.

    `track` chooses an audio track, see `audio_stream`. Memory does not grow with the length.

    Raises:
        MediaError: the file has no audio, or less than 0.1 s.
    """
    with tempfile.TemporaryDirectory() as folder:
        samples = spool_audio(path, Path(folder), config, track)
    if len(samples) < MIN_SECONDS * config.sample_rate:
        length = len(samples) / config.sample_rate
        raise MediaError(f"{display_path(path)} is {length:.2f} s long: at least {MIN_SECONDS} s of speech are needed")
    return samples
