"""Text to speech by a program of the operator's choice: text on its standard input, a WAV file on its output."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from preprocessing.errors import MediaError
from preprocessing.media.audio import load_audio

MAX_CHARACTERS = 500
MAX_BYTES = 32 * 2**20  # of the sound
TIMEOUT = 30.0  # seconds


def speak(command: Sequence[str], text: str) -> np.ndarray:
    """Runs the program, never through a shell; returns (n,) float32 samples at 16 kHz.

    Raises:
        MediaError: the program is missing, fails, takes too long, or its output is not sound.
    """
    with tempfile.TemporaryDirectory(prefix="wav2lip-tts-") as folder:
        sound = Path(folder, "speech.wav")
        try:
            with open(sound, "wb") as output:
                done = subprocess.run(
                    list(command), input=text.encode(), stdout=output, stderr=subprocess.DEVNULL, timeout=TIMEOUT,
                )  # fmt: skip
        except OSError as error:
            raise MediaError(f"the text-to-speech program cannot be run: {error.strerror}") from error
        except subprocess.TimeoutExpired as error:
            raise MediaError(f"the text-to-speech program took longer than {TIMEOUT:g} s") from error
        if done.returncode != 0 or not 0 < sound.stat().st_size <= MAX_BYTES:
            raise MediaError(f"the text-to-speech program failed with exit code {done.returncode}")
        return load_audio(sound)
