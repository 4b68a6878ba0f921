"""The mouth in videos of swapped pairs: shape against the speaker whose sound it speaks, look against its own video.

    .venv/bin/python benchmarks/mouth.py VIDEOS --out build/mouth [--mesh-python PYTHON] [--pairs 8] [--silence]
        [--checkpoint NAME=FILE ...] [--held-out FOLDER]

Face i speaks the sound of the next video of another person. "ours" is the default engine; "own mouth" is the face's own
video under the other's sound: chance level for motion, and what encoding alone changes. MediaPipe FaceMesh judges if
PYTHON is that of an environment with it (pip install mediapipe==0.10.21 "numpy<2"), else our own landmark network.
Where the speaker's own recording is out of sync, by our sync judge, its mouth is shifted before the comparison.
Prints medians over pairs and a line per pair for each folder, and writes mouth.json into OUT. Videos are reused where
files, weights and settings are the same, but the program's own version is not checked: use a new OUT after a change.
The speaker is the part before "__" in a file name.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from evaluation.metrics.mesh.judges import MeshJudge, mesh_judge, observe, untouched  # noqa: E402
from evaluation.metrics.mesh.mouth_shape import (  # noqa: E402
    compare_look,
    compare_motion,
    motion_in_silence,
    speech_frames,
)
from evaluation.metrics.sync import RecordingOffset, judged_offset  # noqa: E402
from evaluation.protocols.generate_videos import VideoMaker  # noqa: E402
from evaluation.protocols.pairs import speaker_of  # noqa: E402
from evaluation.protocols.trials import Trial  # noqa: E402
from evaluation.report.results import COPY, OURS, SILENT, SWAPPED  # noqa: E402
from inference.pipeline import LipSync  # noqa: E402
from preprocessing.commands import write_whole  # noqa: E402
from preprocessing.errors import MediaError  # noqa: E402
from preprocessing.faces.detectors import load_detector  # noqa: E402
from preprocessing.media.audio import as_int16, load_audio  # noqa: E402

CHANCE = "own mouth"
TITLES = {
    "mesh_opening_r": "opening r", "mesh_width_r": "width r", "closures_kept": "closures kept",
    "amplitude": "amplitude", "mesh_redness": "lips' redness", "mesh_sharpness": "sharpness",
    "mesh_flicker": "flicker", "silence_motion": "motion in silence", "untouched": "change outside",
    "mesh_found": "found",
}  # fmt: skip


@dataclass
class Row:
    """One pair of one system: figures by the keys of TITLES, or the reason why there are none."""

    face: str
    sound: str
    system: str
    figures: dict[str, float] = field(default_factory=dict)
    reason: str = ""


@dataclass
class MouthBenchmark:
    """Videos of swapped pairs, made and measured.

    Attributes:
        maker: makes the videos of its models.
        judge: who finds the mesh points.
        seconds: length measured of each video.
        silence: whether a video of silence is made for each face as well.
        offset: AV offset of a recording.
    """

    maker: VideoMaker
    judge: MeshJudge
    seconds: float
    silence: bool
    offset: RecordingOffset

    def __post_init__(self) -> None:
        self.offset = lru_cache(maxsize=None)(self.offset)
        self.look = lru_cache(maxsize=64)(lambda path: observe(path, self.judge, self.seconds))

    def rows(self, face: Path, sound: Path) -> Iterator[Row]:
        """The pair's row by system, chance level first."""
        for system in (CHANCE, *self.maker.models):
            row = Row(face.stem, sound.stem, system)
            try:
                figures = self._chance(face, sound) if system == CHANCE else self._figures(face, sound, system)
                row.figures = dict(figures)
            except (MediaError, OSError) as error:
                row.reason = " ".join(str(error).split())
            yield row

    def _chance(self, face: Path, sound: Path) -> Iterator[tuple[str, float]]:
        own = self.look(face)
        yield from compare_motion(own, self.look(sound), self._speech(sound), self.offset(sound))
        yield from compare_look(own, own)
        if (change := untouched(self._video(face, sound, COPY, SWAPPED), face, own, self.seconds)) is not None:
            yield "untouched", change

    def _figures(self, face: Path, sound: Path, system: str) -> Iterator[tuple[str, float]]:
        own, path = self.look(face), self._video(face, sound, system, SWAPPED)
        made = observe(path, self.judge, self.seconds)
        yield from compare_motion(made, self.look(sound), self._speech(sound), self.offset(sound))
        yield from compare_look(made, own)
        if self.silence:
            silent = observe(self._video(face, None, system, SILENT), self.judge, self.seconds)
            if (ratio := motion_in_silence(silent, made)) is not None:
                yield "silence_motion", ratio
        if (change := untouched(path, face, own, self.seconds)) is not None:
            yield "untouched", change

    def _video(self, face: Path, sound: Path | None, system: str, protocol: str) -> Path:
        name = f"{face.stem}__{sound.stem}" if sound else face.stem
        by = speaker_of(sound) if sound else ""
        found = self.maker.make(Trial(name, protocol, face, sound, speaker_of(face), by, face), system)
        if isinstance(found, str):
            raise MediaError(found)
        return found

    def _speech(self, sound: Path) -> np.ndarray:
        return speech_frames(as_int16(load_audio(sound)), len(self.look(sound).points))


def swapped_pairs(folder: Path, count: int, skip: Sequence[str]) -> list[tuple[Path, Path]]:
    """`count` faces, evenly spread over the folder's videos by name, each with the next video of another person.

    Raises:
        ValueError: the folder has no two people.
    """
    videos = [video for video in sorted(folder.glob("*.mp4")) if speaker_of(video) not in skip]
    pairs = []
    for k in np.unique(np.linspace(0, len(videos), count, endpoint=False).astype(int)) if videos else ():
        face = videos[k]
        others = [one for one in videos[k + 1 :] + videos[:k] if speaker_of(one) != speaker_of(face)]
        if not others:
            raise ValueError(f"{folder} has videos of one person only")
        pairs.append((face, others[0]))
    if not pairs:
        raise ValueError(f"{folder} has no .mp4 to use")
    return pairs


def medians(rows: Sequence[Row]) -> dict[str, float]:
    """The median of each figure over the rows that have it."""
    keys = [key for key in TITLES if any(key in row.figures for row in rows)]
    return {key: float(np.median([row.figures[key] for row in rows if key in row.figures])) for key in keys}


def table(first: Sequence[str], lines: Sequence[tuple[Sequence[str], Mapping[str, float]]]) -> str:
    """A Markdown table: text cells under `first`, then the figures that any line has."""
    keys = [key for key in TITLES if any(key in figures for _, figures in lines)]
    head = [*first, *(TITLES[key] for key in keys)]
    cells = [[*names, *(f"{figures[key]:.2f}" if key in figures else "–" for key in keys)] for names, figures in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *cells])


def run(benchmark: MouthBenchmark, folder: Path, count: int, skip: Sequence[str]) -> dict[str, object]:
    """Measures a folder's pairs, prints its tables and returns them."""
    rows: list[Row] = []
    for face, sound in swapped_pairs(folder, count, skip):
        for row in benchmark.rows(face, sound):
            rows.append(row)
            print(f"{row.system}: {face.stem} <- {sound.stem} {row.reason or _short(row)}", file=sys.stderr, flush=True)
    systems = {row.system: [each for each in rows if each.system == row.system] for row in rows}
    middle = {system: medians(found) for system, found in systems.items()}
    counts = {system: f"{sum(not row.reason for row in found)}/{len(found)}" for system, found in systems.items()}
    print(f"\n{folder.name}, judged by {benchmark.judge.name}; medians over pairs\n")
    print(table(["system", "pairs"], [([system, counts[system]], middle[system]) for system in systems]), end="\n\n")
    print(table(["system", "face", "sound"], [([row.system, row.face, row.sound], row.figures) for row in rows]))
    return {"folder": str(folder), "medians": middle, "measured": counts, "rows": [vars(row) for row in rows]}


def _short(row: Row) -> str:
    return ", ".join(f"{TITLES[key]} {value:.2f}" for key, value in row.figures.items())


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("videos", type=Path, help="folder of talking faces that no network was trained on")
    flags.add_argument("--held-out", type=Path, metavar="FOLDER", help="a second folder, measured the same way")
    flags.add_argument("--out", type=Path, default=REPOSITORY / "build" / "mouth", help="default: build/mouth")
    flags.add_argument("--mesh-python", type=Path, metavar="PYTHON", help="interpreter with MediaPipe")
    flags.add_argument("--pairs", type=int, default=8, help="faces of each folder (default: 8)")
    flags.add_argument("--checkpoint", nargs="+", default=[], metavar="NAME=FILE", help="generators to compare with")
    flags.add_argument("--without-default", action="store_true", help="leave the default engine out")
    flags.add_argument("--silence", action="store_true", help="make a video of silence for each face, too")
    flags.add_argument("--seconds", type=float, default=12, help="length of each video, at most (default: 12)")
    flags.add_argument("--skip", nargs="+", default=[], metavar="SPEAKER", help="speakers to leave out")
    flags.add_argument("--detector", default="auto")
    flags.add_argument("--yunet", type=Path)
    return flags


def main() -> None:
    """Prints the tables and writes mouth.json."""
    flags = parser()
    args = flags.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        detector = load_detector(args.detector, yunet=args.yunet)
        judge = mesh_judge(args.mesh_python, detector)
        given = dict(each.split("=", 1) if "=" in each else (Path(each).stem, each) for each in args.checkpoint)
        models = ({} if args.without_default else {OURS: LipSync.load()}) | {
            name: LipSync.load(path) for name, path in given.items()
        }
        options = {"detector": args.detector, "yunet": args.yunet}
        found = []
        for folder in filter(None, (args.videos, args.held_out)):
            maker = VideoMaker(args.out / folder.resolve().name, detector, models, args.seconds, options)
            benchmark = MouthBenchmark(maker, judge, args.seconds, args.silence, judged_offset(detector))
            found.append(run(benchmark, folder, args.pairs, args.skip))
    except (ValueError, OSError) as error:
        flags.error(str(error))
    args.out.mkdir(parents=True, exist_ok=True)
    write_whole(args.out / "mouth.json", json.dumps({"judge": judge.name, "folders": found}, indent=1))


if __name__ == "__main__":
    main()
