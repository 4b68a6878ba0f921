"""Generators on clips of held-out people.

    .venv/bin/python benchmarks/generator.py CLIPS --checkpoint FILE ... [--split val] [--json FILE]

Everything is measured on points crops of 128 pixels and compared with the real video, a copy of the generator's input,
and a static mouth, that of the clip's first frame. The judge is a sync expert that took no part in training. Values are
means over clips with 95 % bootstrap intervals over clips in brackets.

Reconstruction: five-frame windows, generated from one frame of similar pose elsewhere in the clip with their own audio;
the output is resized to 128 pixels. The mouth is a square around (0.5, 0.56) with a side of 0.46 of the crop.
Inference: clips of 3 s and more, each frame being its own reference. The true mouth is in the input, so only metrics
that depend on the audio are meaningful; a copy is the real video, which is `unsynced` with swapped audio.
Opening: correlation of the mouth opening with the audio level, at the best lag of at most three frames, so that chance
is above zero: see `unsynced`. Silence: mouth motion in the 2 s of a clip with the most speech, driven by silence;
motion above the mask is that of the head, which does not affect the motion of the opening.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmarks.protocols import OWN, REAL, RECONSTRUCTION, SILENCE, SWAPPED, Bench, Row  # noqa: E402
from benchmarks.speaking import Model  # noqa: E402
from evaluation.metrics.statistics import bootstrap, ratio  # noqa: E402
from inference.generator.backends import DEVICES  # noqa: E402
from preprocessing.dataset.clips import CLIP_FPS, open_clips  # noqa: E402
from preprocessing.media.video_reader import MediaError  # noqa: E402
from syncnet.data import WINDOW  # noqa: E402
from syncnet.sync_expert import JUDGE, SyncExpert  # noqa: E402
from syncnet.training.validation import LONG  # noqa: E402


@dataclass(frozen=True)
class Column:
    """A metric's key in the rows, its title, its format, and whether it is in the table by speaker."""

    key: str
    title: str
    form: str = ".2f"
    by_speaker: bool = False


SPEECH = (
    Column("within_1", "offset within 1 frame, share", by_speaker=True), Column("confidence", "judge's confidence"),
    Column("cosine", "judge's cosine", ".3f"), Column("opening", "opening vs. audio, r", by_speaker=True),
    Column("opening_real", "opening vs. real, r"), Column("spread", "opening, std, % of side"),
)  # fmt: skip
TABLES = {
    RECONSTRUCTION: (
        Column("l1", "L1, masked rows", ".4f", by_speaker=True), Column("psnr", "PSNR, masked rows, dB"),
        Column("l1_mouth", "L1, mouth", ".4f"), Column("psnr_mouth", "PSNR, mouth, dB", by_speaker=True),
        Column("cosine", "judge's cosine", ".3f"), Column("cosine_other", "with swapped audio", ".3f"),
        Column("own_nearer", "own audio closer to real, share"), Column("own_higher", "own audio's cosine higher"),
    ),
    OWN: SPEECH,
    SWAPPED: SPEECH,
    SILENCE: (
        Column("motion", "mouth motion, levels of 255", by_speaker=True), Column("head", "motion above the mask"),
        Column("travel", "opening's motion, % of side", ".3f", by_speaker=True),
    ),
}  # fmt: skip


def group_by(rows: Sequence[Row], key: str) -> dict[str, list[Row]]:
    """The rows grouped by a text field, in order of first appearance."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(str(row[key]), []).append(row)
    return found


def figures(rows: Sequence[Row], key: str) -> np.ndarray:
    """(N,) values of the rows that have the metric."""
    return np.array([row[key] for row in rows if key in row], float)


def print_all(rows: Sequence[Row], columns: Sequence[Column]) -> None:
    """Print a line for each system."""
    print("| | clips | " + " | ".join(column.title for column in columns) + " |")
    print("|---" * (len(columns) + 2) + "|")
    for name, system_rows in group_by(rows, "system").items():
        cells = " | ".join(_cell(figures(system_rows, column.key), column.form) for column in columns)
        print(f"| {name} | {len(system_rows)} | {cells} |")


def _cell(values: np.ndarray, form: str) -> str:
    if not len(values):
        return "–"
    low, high = bootstrap(values)
    return f"{values.mean():{form}} [{low:{form}}, {high:{form}}]"


def print_speakers(rows: Sequence[Row], columns: Sequence[Column]) -> None:
    """Print a line for each speaker with the means of some columns, system by system."""
    columns, systems = [column for column in columns if column.by_speaker], list(group_by(rows, "system"))
    print("\nBy speaker: " + "; ".join(column.title for column in columns) + ".\n")
    print("| speaker | clips | " + " | ".join(systems) + " |\n" + "|---" * (len(systems) + 2) + "|")
    for speaker, speaker_rows in sorted(group_by(rows, "speaker").items()):
        by_system = group_by(speaker_rows, "system")
        means = [[(figures(by_system[name], c.key), c.form) for c in columns] for name in systems]
        cells = ["; ".join(f"{v.mean():{form}}" if len(v) else "–" for v, form in values) for values in means]
        print(f"| {speaker} | {len(group_by(speaker_rows, 'clip'))} | {' | '.join(cells)} |")


def print_ratios(protocol: str, protocols: Mapping[str, Sequence[Row]], model: str) -> None:
    """Print ratios of means that characterize a model."""
    systems = group_by(protocols[protocol], "system")
    if protocol in (OWN, SWAPPED):
        _print_ratio(
            f"{model}: r of opening and audio, relative to the real video", systems[model], systems[REAL], "opening"
        )
    if protocol == SWAPPED:  # how well a mouth can match this particular audio
        real = {row["clip"]: row for row in group_by(protocols[OWN], "system")[REAL]}
        known = [row for row in systems[model] if row["sound"] in real]
        own_rows = [real[row["sound"]] for row in known]
        _print_ratio(f"{model}: r of opening and audio, relative to the audio's own video", known, own_rows, "opening")
    if protocol == SILENCE:
        silent, spoken = (systems[f"{model}, {name}"] for name in (SILENCE, OWN))
        for key, what in (("motion", "motion"), ("travel", "opening's motion")):
            _print_ratio(f"{model}: {what} in silence, relative to speech", silent, spoken, key)


def _print_ratio(what: str, top: Sequence[Row], bottom: Sequence[Row], key: str) -> None:
    pairs = np.stack([figures(top, key), figures(bottom, key)], axis=1)
    low, high = bootstrap(pairs, ratio)
    print(f"- {what}: {ratio(pairs.mean(axis=0)):.2f} [{low:.2f}, {high:.2f}]")


def print_costs(models: Sequence[Model]) -> None:
    """Print the cost of each network."""
    print("\n| generator | parameters | GMAC per frame | MB in fp16 |\n|---|---|---|---|")
    for model in models:
        print(f"| {model.name} | {model.cost.parameters:,} | {model.cost.gmac:.2f} | {model.cost.megabytes:.1f} |")


def report(rows: Sequence[Row], models: Sequence[Model]) -> None:
    """Print all tables."""
    print_costs(models)
    protocols = group_by(rows, "protocol")
    for protocol, columns in TABLES.items():
        if protocol_rows := protocols.get(protocol):
            print(f"\n## {protocol.capitalize()}\n")
            print_all(protocol_rows, columns)
            print_speakers(protocol_rows, columns)
            print()
            for model in models:
                print_ratios(protocol, protocols, model.name)


def write(path: Path, rows: Sequence[Row], models: Sequence[Model]) -> None:
    """Write all rows as JSON, atomically."""
    found = {"models": {model.name: asdict(model.cost) for model in models}, "rows": rows}
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(json.dumps(found, indent=1), encoding="utf-8")
    os.replace(unfinished, path)


def main() -> None:
    """Print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--split", help="only the clips of this split, e.g. val (default: all)")
    parser.add_argument("--checkpoint", type=Path, nargs="+", required=True, help="generators trained on points crops")
    parser.add_argument("--judge", type=Path, default=JUDGE, help="sync expert (default: the embedded judge)")
    parser.add_argument("--seconds", type=float, default=5, help="max seconds per clip in inference (default: 5)")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="device for the generators (default: auto)")
    parser.add_argument("--json", type=Path, help="write the metrics of every clip")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_flush_denormal(True)
    if not args.seconds >= LONG / CLIP_FPS:
        parser.error(f"--seconds must be {LONG / CLIP_FPS:g} or more, not {args.seconds:g}")
    try:
        clips = open_clips(args.clips, 2 * WINDOW, args.split)
        models = [Model.load(path, args.device) for path in args.checkpoint]
        rows = Bench(SyncExpert.load(args.judge), models, round(args.seconds * CLIP_FPS)).measure(clips)
    except (MediaError, ValueError) as error:
        parser.error(str(error))
    print(f"{len(clips)} clips of {len({clip.speaker for clip in clips})} people;", end=" ")
    print(f"inference on those of {LONG / CLIP_FPS:g} s and more, first {args.seconds:g} s.")
    report(rows, models)
    if args.json:
        write(args.json, rows, models)


if __name__ == "__main__":
    main()
