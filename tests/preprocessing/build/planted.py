"""Videos of every kind, the command as it is run on them, and a Python that notes which of them are opened."""

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

# Python runs it at every start, so in the workers too: it notes the videos that are opened, and lets some kill their
# process or take for ever. Nothing but the workers opens a video.
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
    """A folder of videos, their clips, and the command as a process of its own."""

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
        """What makes a process of ours take notes."""
        for name in ("hook", "notes"):
            (self.root / name).mkdir(exist_ok=True)
        (self.root / "hook" / "sitecustomize.py").write_text(HOOK)
        path = os.pathsep.join([str(self.root / "hook"), str(REPOSITORY)])
        # With Dask's own 15 s, a worker that is killed twice within that time may be lost for good, and the job hang.
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


def plant(path: Path, pictures: list[np.ndarray] | None = None) -> Path:
    """A video of the speaking face, or of other pictures, with a piece of speech that no other has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples, rate = speech(5)
    sound = write_sound(path.with_name("s.wav"), np.roll(samples, -next(_voices) * 4000)[: rate * FRAMES // 25], rate)
    write_video(path.with_name("v.mp4"), pictures or moving_photo(FRAMES), sound=sound).rename(path)
    sound.unlink()
    return path


def plant_all(videos: Path) -> None:
    """One of each kind."""
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
    plant(videos / "duo" / "two.mp4", [np.hstack([picture, picture[:, ::-1]]) for picture in moving_photo(FRAMES)])
    plant(videos / "duo" / "nobody.mp4", [np.full((96, 96, 3), 90, np.uint8)] * FRAMES)
    (videos / "duo" / "gone.mp4").symlink_to(videos / "not there.mp4")


Here = Callable[..., tuple[int, set[str]]]


def without_workers(monkeypatch: pytest.MonkeyPatch) -> Here:
    """The command in this process and without workers: (exit code, the videos that it worked at)."""
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
