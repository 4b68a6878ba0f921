"""The service with a small engine for live sessions, and a person "flash" who is white whenever a tone sounds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

import inference.web.live.host as hosting
from inference.live.session import LiveFrame
from inference.pipeline import LipSync
from inference.web.command import parser, serve, settings_of
from tests.inference.live.material import small_engine
from tests.inference.web.stub_service import load

SIDE, FPS, EVERY, LONG = 160, 25, 25, 3  # frames between two flashes, and of one


class Flash:
    """Stands in for a session: picture and sound change in the same frame."""

    fps, avatar = Fraction(FPS), SimpleNamespace(size=(SIDE, SIDE))

    def __init__(self, rate: int) -> None:
        self._rate, self._closed = rate, False

    def __enter__(self) -> Flash:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def push(self, *_: Any, **__: Any) -> None: ...

    def end(self) -> None: ...

    def close(self) -> None:
        self._closed = True

    def frames(self) -> Iterator[LiveFrame]:
        """Frames and sound at the clock's pace."""
        start, samples = time.monotonic(), self._rate // FPS
        tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(samples) / self._rate).astype(np.float32)
        number = 0
        while not self._closed:
            on = number % EVERY < LONG
            time.sleep(max(0.0, start + number / FPS - time.monotonic()))
            yield LiveFrame(np.full((SIDE, SIDE, 3), 255 * on, np.uint8), tone * on, number / FPS)
            number += 1


class Person(LipSync):
    """The small engine, and the flash."""

    def avatar(self, face: Path, **options: Any) -> Any:  # type: ignore[override]
        return "flash" if face.stem == "flash" else super().avatar(face, **options)

    def live(self, person: Any, **settings: Any) -> Any:  # type: ignore[override]
        return Flash(settings["sample_rate"]) if person == "flash" else super().live(person, **settings)


def main() -> int:
    """Serves."""
    hosting.LipSync = SimpleNamespace(load=lambda: Person(small_engine()))  # type: ignore[misc,assignment]
    return serve(settings_of(vars(parser().parse_args())), load)


if __name__ == "__main__":
    sys.exit(main())
