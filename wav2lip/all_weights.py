"""Trains every network that is shipped, from videos: `python -m wav2lip.all_weights VIDEOS --out OUT`.

Runs the commands of docs/training.md one after another, from the dataset to the last network, each in a process of its
own. A stage that is finished is skipped, so the same command resumes after an interruption; the trainers themselves
resume, too. OUT/weights mirrors the repository: the weights and logs lie where it has them, and made.json says which
command made each file, from which data, with its SHA-256. `--steps N` caps every training, to try the whole chain in
minutes; such weights are useless.

Exit codes: 0 when all stages are finished, 1 when one failed, 2 for invalid usage, 130 when interrupted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from preprocessing.commands import Parser, run_command, write_whole
from preprocessing.errors import TrainingError, UsageError, display_path

PROGRAM = "wav2lip.all_weights"
CONFIGS = Path(__file__).resolve().parents[1] / "configs"


@dataclass(frozen=True)
class Stage:
    """A stage: commands of this Python, and what they make.

    Attributes:
        name: unique.
        commands: arguments of the interpreter, run in order.
        products: files that exist when the stage is finished.
        delivers: repository path → the files to copy there, the first of them that exists.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    products: tuple[Path, ...]
    delivers: dict[str, tuple[Path, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class WeightOptions:
    """What is trained from what.

    Attributes:
        videos: folder of videos.
        out: output folder.
        build: further flags of preprocessing.build: speakers, splits, detector.
        mesh_python: Python of an environment with MediaPipe, for the mesh labels.
        stills: file of labeled still images of more people, for the landmark networks and the face detector.
        backgrounds: folder of pictures without a face, for the face detector.
        workers: processes of the dataset build.
        steps: limit of every training; None: the recipes'.
    """

    videos: Path
    out: Path
    build: tuple[str, ...] = ()
    mesh_python: Path | None = None
    stills: Path | None = None
    backgrounds: Path | None = None
    workers: int = 1
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.workers < 1 or (self.steps is not None and self.steps < 1):
            raise UsageError(f"workers and steps must be 1 or more, not {self.workers} and {self.steps}")
        if not self.videos.is_dir():
            raise UsageError(f"{display_path(self.videos)} is not a folder of videos")

    def capped(self, *names: str) -> tuple[str, ...]:
        """Flags that cap these numbers of steps; none without a limit."""
        return () if self.steps is None else tuple(word for name in names for word in (f"--{name}", str(self.steps)))

    def trial(self, *flags: object) -> tuple[str, ...]:
        """Flags that only a trial gets."""
        return () if self.steps is None else tuple(map(str, flags))


def stages(options: WeightOptions) -> list[Stage]:
    """All stages, in order."""
    faces = [*_landmarks(options), _occlusion(options), *_face_detectors(options)]
    return [
        _dataset(options), *_experts(options), *faces, _lip_motion(options), _painter(options), _encoder(options)
    ]  # fmt: skip


def _module(name: str, *arguments: object) -> tuple[str, ...]:
    return "-m", name, *map(str, arguments)


def _dataset(o: WeightOptions) -> Stage:
    mesh = ("--mesh", o.out / "mesh", *(("--mesh-python", o.mesh_python) if o.mesh_python else ()))
    command = _module(
        "preprocessing.build", o.videos, o.out / "clips", *mesh, "--workers", o.workers, *o.build
    )  # fmt: skip
    return Stage("dataset", (command,), (o.out / "clips" / "manifest.csv", o.out / "mesh" / "labels.csv"))


def _experts(o: WeightOptions) -> list[Stage]:
    """A first expert on the clips as they are finds their offsets; expert and judge are trained on repaired clips.

    The first one needs to find whole frames only, and the expert goes on from it, so both have shorter schedules.
    """
    clips, runs = o.out / "clips", o.out / "runs"
    first = runs / "first-expert" / "syncnet.safetensors"
    expert = ("--expert", first) if o.steps is None else ()  # a trial's knows nothing: the included one measures
    repair = _module("syncnet.sync_filter", clips, *expert)
    more = ("--init", first, "--lr", "3e-4", "--seed", "11")
    return [
        _expert(o, "first-expert", "laptop", steps=2000),
        Stage("offsets", (repair,), (clips / "offsets.jsonl",)),
        _expert(o, "expert", "laptop", *more, steps=3200, delivered="syncnet"),
        _expert(o, "judge", "judge", delivered="judge"),
    ]


def _expert(
    o: WeightOptions, name: str, config: str, *flags: object, steps: int | None = None, delivered: str = ""
) -> Stage:  # fmt: skip
    run = o.out / "runs" / name
    if steps and o.steps is None:
        flags = (*flags, "--steps", steps)
    command = _module(
        "syncnet.train", o.out / "clips", "--out", run, "--config", CONFIGS / f"{config}.yaml", *flags,
        *o.capped("steps"),
    )  # fmt: skip
    return _training(name, run, "syncnet.safetensors", (command,), "syncnet/weights", delivered)


def _training(
    name: str, run: Path, file: str, commands: tuple[tuple[str, ...], ...], folder: str, delivered: str
) -> Stage:  # fmt: skip
    """A training run whose file and log are delivered under a name of their own; not at all without one."""
    delivers: dict[str, tuple[Path, ...]] = {
        f"{folder}/{delivered}.safetensors": (run / file,),
        f"{folder}/{delivered}.jsonl": (run / "log.jsonl",),
    }
    return Stage(name, commands, (run / file,), delivers if delivered else {})


def _landmarks(o: WeightOptions) -> list[Stage]:
    runs, folder = o.out / "runs", "preprocessing/faces/landmarks/weights"
    found = []
    for part in ("face", "mouth"):
        run = runs / f"landmarks-{part}"
        command = _module(
            "preprocessing.faces.landmarks.train", "--config", CONFIGS / f"landmarks-{part}.yaml", "--videos", o.videos,
            "--mesh", o.out / "mesh", "--out", run, "--cache", runs / "landmark-crops", *o.capped("steps"),
            *(("--stills", o.stills) if o.stills else ()), *o.trial("--per_person", "12"),
        )  # fmt: skip
        found.append(_training(f"landmarks-{part}", run, "network.safetensors", (command,), folder, f"log-{part}"))
        del found[-1].delivers[f"{folder}/log-{part}.safetensors"]  # delivered together
    joined = runs / "landmarks.safetensors"
    parts = [runs / f"landmarks-{part}" / "network.safetensors" for part in ("face", "mouth")]
    command = _module("preprocessing.faces.landmarks.join", *parts, joined)
    return [*found, Stage("landmarks", (command,), (joined,), {f"{folder}/landmarks.safetensors": (joined,)})]


def _occlusion(o: WeightOptions) -> Stage:
    """On the crops of the landmark networks."""
    run, folder = o.out / "runs" / "occlusion", "preprocessing/faces/occlusion/weights"
    command = _module(
        "preprocessing.faces.occlusion.train", "--config", CONFIGS / "occlusion.yaml", "--crops",
        o.out / "runs" / "landmark-crops", "--out", run, *o.capped("steps"),
    )  # fmt: skip
    return _training("occlusion", run, "occlusion.safetensors", (command,), folder, "occlusion")


def _face_detectors(o: WeightOptions) -> list[Stage]:
    """A second run goes on from the first, on other scenes."""
    first = o.out / "runs" / "first-face-detector"
    more = ("--init", first / "face_detector.safetensors", "--cache", first / "pictures")
    return [
        _face_detector(o, "first-face-detector", "face-detector"),
        _face_detector(o, "face-detector", "face-detector-second", *more, delivered="face_detector"),
    ]


def _face_detector(o: WeightOptions, name: str, config: str, *flags: object, delivered: str = "") -> Stage:
    run = o.out / "runs" / name
    command = _module(
        "preprocessing.faces.detectors.center.train", "--config", CONFIGS / f"{config}.yaml", "--videos", o.videos,
        "--mesh", o.out / "mesh", "--out", run, *flags, *(("--stills", o.stills) if o.stills else ()),
        *(("--backgrounds", o.backgrounds) if o.backgrounds else ()), *o.capped("steps"),
        *o.trial("--per_person", "4"),
    )  # fmt: skip
    folder = "preprocessing/faces/detectors/center/weights"
    return _training(name, run, "face_detector.safetensors", (command,), folder, delivered)


def _lip_motion(o: WeightOptions) -> Stage:
    """With its shape expert and the recordings' offsets as lips and speech give them."""
    clips, run = o.out / "motion", o.out / "runs" / "lip-motion"
    prepare = _module("wav2lip.lip_motion.prepare", o.videos, o.out / "mesh", clips)
    train = _module(
        "wav2lip.lip_motion.train", clips, "--out", run, "--config", CONFIGS / "lip-motion.yaml",
        *o.capped("steps", "repair_steps", "expert_steps"),
    )  # fmt: skip
    stage = _training("lip-motion", run, "lip_motion.safetensors", (prepare, train), "wav2lip/weights", "lip_motion")
    best = run / "best.safetensors"  # by the people of the split val, if there are any
    stage.delivers["wav2lip/weights/lip_motion.safetensors"] = (best, run / "lip_motion.safetensors")
    return stage


def _painter(o: WeightOptions) -> Stage:
    samples, run = o.out / "mouths", o.out / "runs" / "renderer"
    few = o.trial("--samples", "64", "--validation", "16", "--min-scale", "0.3")
    prepare = _module("wav2lip.renderer.prepare", o.videos, o.out / "mesh", samples, *few)
    train = _module(
        "wav2lip.renderer.train", samples, "--out", run, "--config", CONFIGS / "renderer.yaml", *o.capped("steps")
    )
    return _training("painter", run, "renderer.safetensors", (prepare, train), "wav2lip/weights", "renderer")


def _encoder(o: WeightOptions) -> Stage:
    file = o.out / "runs" / "encoder.safetensors"
    command = _module("evaluation.metrics.train_face_encoder", o.out / "clips", "--out", file, *o.capped("steps"))
    return Stage("encoder", (command,), (file,), {"evaluation/weights/encoder.safetensors": (file,)})


def run_stages(todo: Sequence[Stage], out: Path) -> None:
    """Runs the stages that are not finished.

    Raises:
        UsageError: a finished stage was run by other commands.
        TrainingError: a command failed, or did not make its file.
    """
    (out / "stages").mkdir(parents=True, exist_ok=True)
    for number, stage in enumerate(todo, 1):
        marker = out / "stages" / f"{stage.name}.json"
        if _finished(stage, marker):
            print(f"[{number}/{len(todo)}] {stage.name}: finished before", flush=True)
            continue
        begun = time.monotonic()
        for command in stage.commands:
            print(f"[{number}/{len(todo)}] {stage.name}: python {shlex.join(command)}", flush=True)
            if code := _run(command):
                raise TrainingError(f"the stage {stage.name} failed with exit code {code}; run the same command again")
        if missing := [path for path in stage.products if not path.is_file()]:
            raise TrainingError(f"the stage {stage.name} has not made {display_path(missing[0])}")
        record = {"commands": stage.commands, "seconds": round(time.monotonic() - begun, 1)}
        write_whole(marker, json.dumps(record, indent=1) + "\n")


def _finished(stage: Stage, marker: Path) -> bool:
    """Whether a stage was finished by the same commands and its products are still there."""
    if not marker.is_file() or not all(path.is_file() for path in stage.products):
        return False
    if json.loads(marker.read_text())["commands"] != [list(command) for command in stage.commands]:
        raise UsageError(
            f"{display_path(marker)} was made with other options: use them again, or another --out, or remove it "
            f"to run the stage {stage.name} again"
        )
    return True


def _run(command: Sequence[str]) -> int:
    """The exit code of a command of this Python; it is ended with this process."""
    with subprocess.Popen([sys.executable, *command]) as process:
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            raise


def deliver(done: Sequence[Stage], options: WeightOptions) -> Path:
    """Copies the files of all stages to OUT/weights; returns the folder."""
    folder = options.out / "weights"
    made: dict[str, Any] = {}
    for stage in done:
        record = json.loads((options.out / "stages" / f"{stage.name}.json").read_text())
        for place, candidates in stage.delivers.items():
            if (source := next((path for path in candidates if path.is_file()), None)) is None:
                continue
            target = folder / place
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy(source, target)
            digest = hashlib.sha256(target.read_bytes()).hexdigest()
            made[place] = {"sha256": digest, "from": str(source.relative_to(options.out))} | record
    about = {"videos": str(options.videos), "trial": options.steps is not None, "files": made}
    about |= {"torch": version("torch"), "python": platform.python_version(), "machine": platform.machine()}
    write_whole(folder / "made.json", json.dumps(about, indent=1) + "\n")
    return folder


def _copy(source: Path, target: Path) -> None:
    """Copies a file; a checkpoint with 16-bit weights, which are what is shipped."""
    from training.checkpoint import Checkpoint

    try:
        checkpoint = Checkpoint.load(source)
    except UsageError:  # a log, or weights in a format of their own
        shutil.copyfile(source, target)
    else:
        checkpoint.save(target, half=True)


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    p = Parser(PROGRAM, __doc__)
    p.add_argument("videos", type=Path, metavar="VIDEOS", help="folder of videos of people who speak")
    p.add_argument("--out", type=Path, required=True, metavar="OUT", help="output folder")
    p.add_argument(
        "--build", default="", metavar="FLAGS",
        help="flags of preprocessing.build as one word, such as '--speaker name --split folder'",
    )  # fmt: skip
    p.add_argument("--mesh-python", type=Path, metavar="FILE", help="Python with MediaPipe, for the mesh labels")
    p.add_argument("--stills", type=Path, metavar="FILE", help="labeled stills of more people, for the landmarks")
    p.add_argument("--backgrounds", type=Path, metavar="DIR", help="pictures without a face, for the face detector")
    p.add_argument("--workers", type=int, default=1, metavar="N", help="processes of the dataset build (default: 1)")
    p.add_argument("--steps", type=int, metavar="N", help="cap every training, to try the chain")
    p.add_argument("--stages", nargs="+", metavar="STAGE", help="run only these, in their order")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code (see --help)."""
    args = parser().parse_args(argv)

    def job() -> None:
        options = WeightOptions(
            args.videos.absolute(), args.out.absolute(), tuple(shlex.split(args.build)),
            args.mesh_python and args.mesh_python.absolute(), args.stills and args.stills.absolute(),
            args.backgrounds and args.backgrounds.absolute(), args.workers, args.steps,
        )  # fmt: skip
        every = stages(options)
        names = [stage.name for stage in every]
        if unknown := sorted(set(args.stages or ()) - set(names)):
            raise UsageError(f"unknown stage {unknown[0]!r}: choose from {', '.join(names)}")
        run_stages([stage for stage in every if stage.name in (args.stages or names)], options.out)
        if not args.stages:
            print(f"all weights are in {display_path(deliver(every, options))}")

    return run_command(PROGRAM, job, "interrupted; run the same command again to resume")


if __name__ == "__main__":
    sys.exit(main())
