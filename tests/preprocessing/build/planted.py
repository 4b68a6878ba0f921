"""Test videos of every kind, the build command, and a hook that records which videos are opened."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from preprocessing.build import command as build
from preprocessing.build.sources import VideoSource
from preprocessing.build.video_pipeline import VideoOutcome, make_clips
from preprocessing.dataset.manifest import ClipRow, VideoRow, read_manifest, read_videos
from tests.material import moving_photo, speech, write_sound, write_video

REPOSITORY = Path(__file__).resolve().parents[3]
ODD = os.fsdecode(b"caf\xe9 'x'\n.mp4")
FRAMES = 34

# Python runs it at startup, also in the workers. It records the videos that are opened, and makes some kill their
# process or hang. Only workers open videos.
HOOK = """
import os, pathlib, signal, time
notes, whole_open = pathlib.Path(os.environ["NOTES"]), os.open
def opened(path, *arguments, **options):
    name = os.path.basename(os.fsdecode(path)) if isinstance(path, (str, bytes, os.PathLike)) else ""
    if name.endswith(".mp4"):
        first = not (notes / (name + " opened")).exists()
        (notes / (name + " opened")).touch()
        if name == "kills.mp4" or (first and name == "kills_once.mp4"):
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "raises.mp4":
            raise LookupError("this is\\na fault")
        if name.startswith("slow"):
            time.sleep(60)
    return whole_open(path, *arguments, **options)
os.open = opened
"""


@dataclass
class Bench:
    """A folder of videos, their clips, and the command as a separate process."""

    root: Path

    @property
    def videos(self) -> Path:
        return self.root / "videos"

    @property
    def clips(self) -> Path:
        return self.root / "clips"

    def command(self, *options: object) -> list[str]:
        words = (self.videos, self.clips, "--detector", "haar", *options)
        return [sys.executable, "-m", "preprocessing.build", *map(str, words)]

    def environment(self) -> dict[str, str]:
        """The environment that installs the hook in a process."""
        for name in ("hook", "notes"):
            (self.root / name).mkdir(exist_ok=True)
        (self.root / "hook" / "sitecustomize.py").write_text(HOOK)
        path = os.pathsep.join([str(self.root / "hook"), str(REPOSITORY)])
        # With Dask's default of 15 s, a worker killed twice within that time may be lost, and the build hangs.
        patience = {"DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "200ms"}
        return os.environ | {"PYTHONPATH": path, "NOTES": str(self.root / "notes")} | patience

    def opened(self) -> int:
        return len(list((self.root / "notes").iterdir()))

    def fates(self) -> dict[str, VideoRow]:
        return {row.video: row for row in read_videos(self.clips / "videos.csv")}

    def rows(self) -> list[ClipRow]:
        return read_manifest(self.clips / "manifest.csv")

    def files(self) -> set[str]:
        return {path.relative_to(self.clips).as_posix() for path in self.clips.glob("clips/*/*")}


_voices = count(1)


def plant(path: Path, frames: list[np.ndarray] | None = None) -> Path:
    """A video of the talking face, or of other frames, with a unique piece of speech."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples, rate = speech(5)
    sound = write_sound(path.with_name("s.wav"), np.roll(samples, -next(_voices) * 4000)[: rate * FRAMES // 25], rate)
    write_video(path.with_name("v.mp4"), frames or moving_photo(FRAMES), sound=sound).rename(path)
    sound.unlink()
    return path


def plant_all(videos: Path) -> None:
    """One video of each kind."""
    for name in ("anna/talk.mp4", "bob/talk.mp4", "bob/kills_once.mp4", "carl/kills.mp4", f"odd/{ODD}"):
        plant(videos / name)
    for name in ("again", "raises"):
        shutil.copy(videos / "anna" / "talk.mp4", videos / "carl" / f"{name}.mp4")
    data = (videos / "bob" / "talk.mp4").read_bytes()
    (videos / "bad").mkdir()
    (videos / "bad" / "truncated.mp4").write_bytes(data[: len(data) // 2])
    (videos / "bad" / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(20_000))
    (videos / "bad" / "empty.mp4").touch()
    shutil.copy(REPOSITORY / "assets" / "speech.wav", videos / "bad" / "sound.mp4")
    write_video(videos / "bad" / "silent.mp4", moving_photo(4))
    plant(videos / "duo" / "two.mp4", [np.hstack([frame, frame[:, ::-1]]) for frame in moving_photo(FRAMES)])
    plant(videos / "duo" / "nobody.mp4", [np.full((96, 96, 3), 90, np.uint8)] * FRAMES)
    (videos / "duo" / "gone.mp4").symlink_to(videos / "not there.mp4")


Here = Callable[..., tuple[int, set[str]]]


def without_workers(monkeypatch: pytest.MonkeyPatch) -> Here:
    """Runs the command in this process without workers: (exit code, processed videos)."""
    worked: list[str] = []

    def process_all(
        client: object, sources: list[VideoSource], *arguments
    ) -> Iterator[tuple[VideoSource, VideoOutcome]]:
        for source in sources:
            worked.append(source.video)
            yield source, make_clips(source, *arguments)

    def run(bench: Bench, *options: object) -> tuple[int, set[str]]:
        worked.clear()
        code = build.main(bench.command(*options)[3:])
        return code, set(worked)

    monkeypatch.setattr(build, "connect", lambda *arguments: nullcontext())
    monkeypatch.setattr(build, "process_all", process_all)
    return run
