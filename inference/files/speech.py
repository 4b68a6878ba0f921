"""The speech of a job: its mel spectrogram and its length in video frames."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from preprocessing.errors import MediaError, display_path
from preprocessing.media.audio import AudioConfig, frame_count, spool_audio
from preprocessing.media.mel import mel_columns, mel_length, mel_window
from preprocessing.media.speech_activity import rest_in_silence, speech_columns

MIN_SECONDS = 0.1
BLOCK = 800  # mel columns computed at a time: 10 s


class BlockwiseMel:
    """The mel spectrogram of long speech, `mel[:, first:last]`, computed as it is read; the last block is kept.

    Args:
        samples: (n,) as of `read_speech`.
        speech: (T,) bool; columns that are none become silence. None: all stay.
    """

    def __init__(self, samples: np.ndarray, config: AudioConfig, speech: np.ndarray | None) -> None:
        self._samples, self._config, self._speech = samples, config, speech
        self._columns = mel_length(samples, config)
        self._first, self._block = 0, np.zeros((config.n_mels, 0), np.float32)

    def __getitem__(self, part: tuple[slice, slice]) -> np.ndarray:
        """(n_mels or fewer, columns) float32; `mel_window` reads it so."""
        rows, columns = part
        first, last, _ = columns.indices(self._columns)
        if first < self._first or last > self._first + self._block.shape[1]:
            self._first, self._block = first, self._computed(first, max(last, min(first + BLOCK, self._columns)))
        return self._block[rows, first - self._first : max(last, first) - self._first]

    def _computed(self, first: int, last: int) -> np.ndarray:
        if last <= first:
            return np.zeros((self._config.n_mels, 0), np.float32)
        mel = mel_columns(self._samples, first, last, self._config)
        return mel if self._speech is None else rest_in_silence(mel, self._speech[first:last], self._config)


@dataclass(frozen=True)
class Speech:
    """Speech as generator input.

    Attributes:
        mel: (80, T), -4 to 4.
        frames: length in video frames.
        fps: frame rate of the video.
        config: parameters of the mel spectrogram.
    """

    mel: BlockwiseMel
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
        mel = BlockwiseMel(samples, config, speech_columns(samples, config) if rest else None)
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
