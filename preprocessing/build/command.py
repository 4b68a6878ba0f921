"""Builds training clips from raw talking-face videos.

`python -m preprocessing.build VIDEOS CLIPS` processes a folder of videos or a list of video paths. A second run
processes only new and changed videos. `--mesh FOLDER` also makes mesh labels of the videos, to train the networks of
the default mouth. `--import-wav2lip FOLDER CLIPS` and `--export-wav2lip FOLDER CLIPS` convert from
and to the original Wav2Lip data layout. Exit code: 0 if a clip passes, 1 if none does, 2 for wrong usage, 130 if
interrupted.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from preprocessing.build.batch_state import BatchState
from preprocessing.build.build_state import failure, locked
from preprocessing.build.dask_runner import INSTALL, ClusterError, WorkerFailure, choose_detector, connect, process_all
from preprocessing.build.mesh_labels import Labeler, MediaPipeLabeler, OwnLabeler, label_sources
from preprocessing.build.sources import Labels, VideoSource, find_sources, speakers_in_multiple_splits
from preprocessing.build.video_pipeline import ClipRecipe, VideoOutcome
from preprocessing.commands import fail, run_command, say
from preprocessing.dataset.manifest import ClipRow, VideoRow, read_manifest, read_videos
from preprocessing.dataset.quality_filters import QualityFilters
from preprocessing.errors import MediaError, UsageError, Wav2LipError, display_path
from training.options import normalize_flag

if TYPE_CHECKING:
    from distributed import Client
    from jsonargparse import ArgumentParser

REFRESH = 180.0  # minimum seconds between two writes of the tables during a build
REFRESH_FACTOR = 20  # minimum interval as a multiple of the duration of a write
DISK_FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
PROGRAM = "preprocessing.build"
ALIASES = {"--s3fd": "--sfd"}  # the name used by inference.py


class DiskFullError(Wav2LipError, RuntimeError):
    """The disk is full; the message names the video."""


@dataclass(frozen=True)
class BuildOptions:
    """Options of a build.

    Attributes:
        workers: Number of local worker processes; each processes one video at a time.
        scheduler: Address (tcp://host:port) of a Dask scheduler whose workers to use instead.
        export_wav2lip: Export the clips to this folder in the original Wav2Lip layout.
        import_wav2lip: Import CLIPS from this folder in the original Wav2Lip layout.
        mesh: Also write mesh labels of the videos with passing clips to this folder, on this machine.
        mesh_python: Python of an environment with MediaPipe (pip install mediapipe==0.10.21 "numpy<2" av), which then
            makes the mesh labels; default: our own landmark network makes them.
    """

    workers: int = 1
    scheduler: str | None = None
    export_wav2lip: Path | None = None
    import_wav2lip: Path | None = None
    mesh: Path | None = None
    mesh_python: Path | None = None

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UsageError(f"workers must be 1 or more, not {self.workers}")
        if self.mesh_python and not self.mesh:
            raise UsageError("mesh_python makes mesh labels: give their folder with --mesh")


def build(videos: Path, clips: Path, recipe: ClipRecipe, labels: Labels, options: BuildOptions) -> int:
    """Builds the clips of all videos, writes the tables and prints the report.

    Returns:
        The number of clips that pass.

    Raises:
        UsageError: wrong usage.
        KeyboardInterrupt, DiskFullError, ClusterError: the build was stopped; finished videos are kept in the tables.
    """
    if os.path.realpath(videos) == os.path.realpath(clips):
        raise UsageError(f"VIDEOS and CLIPS are the same folder, {display_path(clips)}: give CLIPS a folder of its own")
    clips = Path(os.path.abspath(clips))
    sources = find_sources(videos, labels, exclude=clips)
    labeler = MediaPipeLabeler(options.mesh_python) if options.mesh_python else None  # before anything slow
    if both := speakers_in_multiple_splits(sources):
        _log(f"speakers in more than one split: {', '.join(map(display_path, both))}")
    with locked(clips):
        with ExitStack() as stack:
            client = (
                stack.enter_context(connect(options.workers, options.scheduler, clips)) if options.scheduler else None
            )
            job = BatchState(sources, clips, _resolve_recipe(recipe, client))
            if job.todo:  # do not start local workers without work
                _process(job, client or stack.enter_context(connect(options.workers, None, clips)))
        rows, found = job.write_tables()
        if options.mesh:
            _label(sources, found, options, labeler or _own_labeler(job.recipe))
        return _report(clips, rows, found, job.stages())


def _own_labeler(recipe: ClipRecipe) -> OwnLabeler:
    return OwnLabeler(recipe.detector, recipe.device, recipe.yunet, recipe.sfd)


def _label(
    sources: Sequence[VideoSource], videos: Sequence[VideoRow], options: BuildOptions, labeler: Labeler
) -> None:  # fmt: skip
    """Makes the mesh labels of the videos with passing clips.

    Raises:
        MediaError: there are such videos, but none could be labeled.
    """
    assert options.mesh is not None
    made = {row.video for row in videos if row.clips}
    chosen = [each for each in sources if each.video in made]
    if chosen and not label_sources(chosen, options.mesh, labeler, options.workers, _log):
        raise MediaError(f"none of {len(chosen)} videos could be labeled; the clips are complete")


def _resolve_recipe(recipe: ClipRecipe, client: Client | None) -> ClipRecipe:
    """The recipe with absolute paths and the detector resolved once, where the videos are processed."""
    yunet, sfd = (path and Path(os.path.abspath(path)) for path in (recipe.yunet, recipe.sfd))
    recipe = replace(recipe, yunet=yunet, sfd=sfd)
    chosen = client.submit(choose_detector, recipe, pure=False).result() if client else choose_detector(recipe)
    return replace(recipe, detector=chosen)


def _process(job: BatchState, client: Client) -> None:
    """Processes the remaining videos. The tables are written periodically and when the build is stopped."""
    wait, written = REFRESH, time.monotonic()
    try:
        with tqdm(total=len(job.sources), initial=len(job.sources) - len(job.todo), unit="video", disable=None) as bar:
            for source, result in process_all(client, job.todo, job.clips, job.recipe):
                _record_result(job, source, result)
                bar.update()
                if (begun := time.monotonic()) > written + wait:
                    job.write_tables()
                    written = time.monotonic()
                    wait = max(REFRESH, REFRESH_FACTOR * (written - begun))
    except (KeyboardInterrupt, DiskFullError, ClusterError):
        job.write_tables()
        left = len(job.sources) - len(job.records)
        _log(f"{left} of {len(job.sources)} videos remain; run the same command again to resume")
        raise


def _record_result(job: BatchState, source: VideoSource, result: VideoOutcome | WorkerFailure) -> None:
    outcome = failure(source, result.reason) if isinstance(result, WorkerFailure) else result
    job.record(source, outcome)
    if outcome.fate in ("broken", "failed"):
        _log(f"{display_path(source.video)}: {outcome.reason}")
    if outcome.fate == "failed" and any(text in outcome.reason for text in DISK_FULL):
        raise DiskFullError(f"stopped at {display_path(source.video)}: {outcome.reason}")


def _report(clips: Path, rows: Sequence[ClipRow], videos: Sequence[VideoRow], stages: Mapping[str, float]) -> int:
    """Writes and prints the report; returns the number of clips that pass."""
    from preprocessing.build.report import contact_sheet, summary, table, write_report

    figures = summary(rows, videos, stages)
    write_report(clips / "report.json", figures)
    contact_sheet(clips, rows, clips / "contact_sheet.png")
    say(table(figures))
    return figures["clips"]["passed"]


def _log(line: str) -> None:
    tqdm.write(line, file=sys.stderr)


def _parser() -> ArgumentParser:
    try:
        from jsonargparse import ArgumentParser
    except ImportError:
        raise UsageError(f"preprocessing.build needs jsonargparse: {INSTALL}") from None
    parser = ArgumentParser(prog="python -m preprocessing.build", description=__doc__, exit_on_error=False)
    parser.add_argument("folders", nargs="*", default=[], metavar="FOLDER", help="VIDEOS and CLIPS, or only CLIPS")
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    for group in (BuildOptions, ClipRecipe, Labels):
        parser.add_class_arguments(group)
    return parser


def _parse(argv: Sequence[str]) -> tuple[list[Path], BuildOptions, ClipRecipe, Labels]:
    """The folders and the three groups of options; UsageError for anything else."""
    parser = _parser()
    try:
        values = parser.parse_args([ALIASES.get(word, word) for word in map(normalize_flag, argv)]).as_dict()
    except ArgumentError as error:
        raise UsageError(" ".join(str(error).split())) from error
    values["filters"] = QualityFilters(**values["filters"])

    def group(kind: Any) -> Any:
        return kind(**{item.name: values[item.name] for item in fields(kind)})

    return [Path(name) for name in values["folders"]], group(BuildOptions), group(ClipRecipe), group(Labels)


def _run(argv: Sequence[str]) -> int:
    """Runs the command; returns the number of clips that pass."""
    folders, options, recipe, labels = _parse(argv)
    other = options.import_wav2lip or options.export_wav2lip
    if len(folders) == 2 and not options.import_wav2lip:
        passed = build(folders[0], folders[1], recipe, labels, options)
    elif len(folders) == 1 and other:
        passed = _import(options.import_wav2lip, folders[0]) if options.import_wav2lip else 1
    else:
        raise UsageError("VIDEOS and CLIPS are needed, or CLIPS with --import-wav2lip or --export-wav2lip; see --help")
    if options.export_wav2lip and passed:
        from preprocessing.dataset.wav2lip_format.conversion import export_wav2lip

        count = export_wav2lip(folders[-1], options.export_wav2lip)
        say(f"{count} clips written to {display_path(options.export_wav2lip)}")
    return passed


def _import(folder: Path, clips: Path) -> int:
    from preprocessing.dataset.wav2lip_format.conversion import import_wav2lip

    import_wav2lip(folder, clips)
    return _report(clips, read_manifest(clips / "manifest.csv"), read_videos(clips / "videos.csv"), {})


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code (see --help)."""

    def job() -> int:
        if _run(sys.argv[1:] if argv is None else argv):
            return 0
        return fail(PROGRAM, 1, "no clip passes; videos.csv in CLIPS says why")

    return run_command(PROGRAM, job)
