"""The service with a stub engine, as a process: `python -m tests.inference.web.stub_service DATA [FLAGS]`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inference.files.face_source import FaceSource, Framing
from inference.options import Options, Report
from inference.web.command import parser, serve, settings_of
from inference.web.settings import EngineSettings
from preprocessing.errors import CancelledError, MediaError
from preprocessing.media.sound.mux import AudioSource
from preprocessing.media.video_writer import VideoWriter

FRAMES = 50
STUCK = 0.5  # the value of `strength` that makes the stub ignore its cancellation
FAILING = 0.25  # the value that makes it fail
SLOW = 1.5  # the value that makes it take ten seconds, or less: until there is the file that HURRY names
HURRY = "STUB_HURRY"  # of the environment


def load(engine: EngineSettings, device: str) -> Callable[..., Report]:
    """Stands in for `inference.web.jobs.worker.load_engine`."""
    return render


def render(
    face: Path, audio: Path, outfile: Path, *, progress: Callable, analysis_progress: Callable, cancelled: Callable,
    people: Path | None = None, **values: Any,
) -> Report:  # fmt: skip
    """FRAMES frames of the unchanged face with the speech; each takes `pause` seconds in both stages."""
    options = Options.of(values)
    if options.strength == FAILING:
        raise MediaError(f"{face} shows no face in any frame")
    hurry = Path(os.environ[HURRY])
    for stage in (lambda done: analysis_progress("frame", done, FRAMES), lambda done: progress(done, FRAMES)):
        for number in range(1, FRAMES + 1):
            stage(number)
            time.sleep(0.1 if options.strength in (SLOW, STUCK) and not hurry.exists() else 0.002)
            if cancelled() and options.strength != STUCK:
                raise CancelledError("cancelled")
    source = FaceSource(face, Framing())
    with VideoWriter(outfile, *source.size, source.fps, sounds=[AudioSource(audio)]) as writer:
        for _, frame in source.play(FRAMES, "bounce"):
            writer.write(frame)
    return Report(outfile, FRAMES, FRAMES, source.fps, {"total": 0.0})


def main() -> int:
    """Serves with the stub."""
    return serve(settings_of(vars(parser().parse_args())), load)


if __name__ == "__main__":
    sys.exit(main())
