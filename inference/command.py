"""What the command runs: one job, or the list of the people in a video."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.files.checks import check_files, check_output
from inference.job import ENGINE_FLAGS, OUTPUT_FLAGS, Job, engine_arguments
from inference.options import Options, Report
from preprocessing.errors import MediaError, display_path
from preprocessing.process_heap import limit_arenas

if TYPE_CHECKING:
    from inference.pipeline import LipSync

JSON_INDENT = 2


def run_one(values: Mapping[str, Any]) -> str:
    """Runs a job, given by flags; returns its report, as text or JSON.

    Every flag and file is checked before anything slow.
    """
    limit_arenas()
    engine, other = engine_arguments(values), (*ENGINE_FLAGS, *OUTPUT_FLAGS)
    job = Job.of({name: value for name, value in values.items() if name not in other})
    checkpoint = engine.get("checkpoint")
    with ThreadPoolExecutor(1) as pool:
        # The default networks load meanwhile; others take seconds, so that all is checked before.
        loading = None if engine else pool.submit(_load, engine)
        check_files(job.face, job.sounds(), job.outfile, job.options, checkpoint and Path(checkpoint))

        import cv2

        from inference.files.soundtrack import timed_parts
        from inference.pipeline import open_source
        from training.progress import ProgressBars

        cv2.setNumThreads(1)  # its threads wait for each other longer than they compute, beside decoder and encoder
        timed_parts(job.parts, open_source(job.face, job.options))
        with ProgressBars(bool(values.get("quiet"))) as bars:
            lipsync = loading.result() if loading else _load(engine)
            report = lipsync.run(job, partial(bars.show, "frame"), bars.show)
    return json.dumps(report.values(), indent=JSON_INDENT) if values.get("json") else summary(report)


def _load(engine: Mapping[str, Any]) -> LipSync:
    from inference.pipeline import LipSync

    return LipSync.load(**engine)


def list_people(sheet: Path, values: Mapping[str, Any]) -> str:
    """Lists the people in a video and writes a contact sheet; returns the list, as text or JSON."""
    ignored = ("face", "audio", "outfile", "parts", *ENGINE_FLAGS, *OUTPUT_FLAGS)
    options = Options.of({name: value for name, value in values.items() if name not in ignored})
    face = Path(values["face"])
    check_files(face, [], sheet.with_suffix(".mp4"), options)
    check_output(sheet)

    from inference.casting import Census
    from inference.faces import list_faces, save_sheet, table
    from inference.pipeline import open_source
    from training.progress import ProgressBars

    with ProgressBars(bool(values.get("quiet"))) as bars:
        census = Census(open_source(face, options), options, bars.show)
        faces = list_faces(census)
        if not faces:
            raise MediaError(f"{display_path(face)} shows no face in any frame")
        save_sheet(census, faces, sheet)
    if values.get("json"):
        people = [listed.values() for listed in faces]
        return json.dumps({"face": str(face), "sheet": str(sheet), "people": people}, indent=JSON_INDENT)
    return f"{table(faces)}\ncontact sheet: {display_path(sheet)}"


def summary(report: Report) -> str:
    """A job's report as a few lines of text."""
    seconds, total = report.seconds, report.seconds["total"]
    length = report.frames / float(report.fps)
    lines = [f"{display_path(report.outfile)}: {report.frames} frames, {length:.2f} s, rendered in {total:.1f} s"]
    if untouched := report.frames - report.faces:
        lines.append(f"{untouched} of them unchanged: without a face, or after the end of the speech")
    stages = ", ".join(f"{stage} {value:.1f}" for stage, value in seconds.items() if stage != "total")
    lines.append(f"seconds by stage (stages overlap): {stages}")
    lines += report.notes
    if report.cpu:
        costs = ", ".join(f"{stage} {1000 * value / report.frames:.2f}" for stage, value in report.cpu.items())
        lines.append(f"CPU milliseconds per frame by stage: {costs}; {sum(report.cpu.values()):.2f} CPU s in all")
    if report.preview:
        lines.append(f"before and after: {display_path(report.preview)}")
    return "\n".join(lines)
