"""Everything that `evaluation` measures, on a folder of talking faces: the tables of docs/results.md.

    .venv/bin/python benchmarks/quality.py VIDEOS --out build/quality --results docs/results.md [--skip SPEAKER ...]

Every video is a face; it speaks its own sound, that of another person in the folder, and silence. Beside the embedded
generator stands one that was trained by L1 alone (benchmarks/weights), and a released one where its file is given. The
judge is validated on the same videos first, and hard inputs are made of the first two people. Videos that are there
already are not made again, so that an interrupted run goes on. Speakers are what stands before "__" in a file's name.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from evaluation.__main__ import evaluate  # noqa: E402
from evaluation.__main__ import parser as evaluation_parser  # noqa: E402
from evaluation.judge import command as judge  # noqa: E402
from evaluation.protocols.pairs import speaker_of  # noqa: E402
from evaluation.report.files import counts, write  # noqa: E402
from evaluation.report.results import OURS, Evaluation  # noqa: E402
from evaluation.report.table import legend, markdown, tables  # noqa: E402
from wav2lip.generator.checkpoints import EMBEDDED  # noqa: E402

L1_ONLY = REPOSITORY / "benchmarks" / "weights" / "l1_only.safetensors"
HEAD = """\
# Results

What `evaluation` measures of the embedded generator, beside baselines and a network of the same shape that was trained
by L1 alone. Means over clips with their 95 % bootstrap intervals; what each row and column is, and how far the judge
can be trusted, stands in [evaluation.md](evaluation.md). Written by

    {command}

"""


def write_list(videos: Path, skip: Sequence[str], path: Path) -> int:
    """A list for the evaluation: every video below the folder is a face with its own sound; returns how many."""
    faces = [face for face in judge.listed([videos]) if speaker_of(face) not in skip]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["face", "audio", "speaker"])
        table.writerows([face.resolve(), face.resolve(), speaker_of(face)] for face in faces)
    return len(faces)


def validate(args: argparse.Namespace, faces: Sequence[str]) -> str:
    """The judge's own tables on the same videos, Markdown."""
    flags = [*faces, "--json", str(args.out / "judge.json"), "--plot", str(args.out / "judge.png"), *engine(args)]
    flags += ["--syncnet", str(args.syncnet)] if args.syncnet else []
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = judge.main(flags)
    if code > 1:
        sys.exit(code)
    return said.getvalue()


def engine(args: argparse.Namespace) -> list[str]:
    """The flags that both commands share."""
    return ["--detector", args.detector, *(["--yunet", str(args.yunet)] if args.yunet else [])]


def measure(args: argparse.Namespace, pairs: Path) -> Evaluation:
    """All protocols, baselines, systems and hard inputs."""
    flags = [str(pairs), "--out", str(args.out), "--seconds", str(args.seconds), "--stress", *engine(args)]
    systems = [f"{OURS}={EMBEDDED}", *([f"l1-only={L1_ONLY}"] if L1_ONLY.is_file() else [])]
    systems += [f"released={args.released}"] if args.released else []
    for name in ("syncnet", "inception"):
        flags += [f"--{name}", str(getattr(args, name))] if getattr(args, name) else []
    return evaluate(evaluation_parser().parse_args([*flags, "--checkpoint", *systems]))


def document(evaluation: Evaluation, judged: str, command: str) -> str:
    """All tables as a page of the documentation."""
    found = counts(evaluation.rows)
    parts = [HEAD.format(command=command), f"{found['measured']} of {found['videos']} videos were measured.\n"]
    parts += [markdown(table, 2) for table in tables(evaluation)]
    keys = {key for row in evaluation.rows for key in row.figures} | {whole.key for whole in evaluation.wholes}
    lower = f"\n{judged}".replace("\n#", "\n##").strip()  # its headings by a level
    parts += ["## How far the judge can be trusted\n", f"{lower}\n", markdown(legend(keys), 2)]
    hashes = [f"* {key}: {value}" for key, value in evaluation.settings.items()]
    return "\n".join([*parts, "## Settings\n", *hashes, ""])


def main() -> None:
    """Writes the report and, if asked, the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build" / "quality", help="default: build/quality")
    parser.add_argument("--results", type=Path, help="write the tables here, as Markdown")
    parser.add_argument("--skip", nargs="+", default=[], metavar="SPEAKER", help="e.g. whom the networks have met")
    parser.add_argument("--seconds", type=float, default=4, help="of each video at most (default: 4)")
    parser.add_argument("--released", type=Path, help="a released checkpoint (.pth)")
    parser.add_argument("--syncnet", type=Path, help="syncnet_v2.model, for LSE-D and LSE-C")
    parser.add_argument("--inception", type=Path, help="pt_inception-2015-12-05-6726825d.pth, for FID")
    parser.add_argument("--detector", default="auto")
    parser.add_argument("--yunet", type=Path)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_flush_denormal(True)
    pairs = args.out / "pairs.csv"
    try:
        print(f"{write_list(args.videos, args.skip, pairs)} faces", file=sys.stderr)
        with pairs.open(newline="", encoding="utf-8") as file:
            faces = [row["face"] for row in csv.DictReader(file)]
        judged = validate(args, faces)
        evaluation = measure(args, pairs)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    write(evaluation, args.out)
    skipped = f" --skip {' '.join(args.skip)}" if args.skip else ""
    text = document(evaluation, judged, f"benchmarks/quality.py VIDEOS --seconds {args.seconds:g}{skipped}")
    print(text)
    if args.results:
        unfinished = args.results.with_name(args.results.name + ".part")
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, args.results)


if __name__ == "__main__":
    main()
