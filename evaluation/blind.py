"""Blind comparison of two systems' videos: `python -m evaluation.blind A B --out page.html`.

A and B are folders; videos of equal names (with their folders) make a pair. The page shows each pair side by side, in
an order and on sides drawn by the seed, and keeps score in the browser; nothing is sent anywhere. The videos are copied
beside the page under names that say nothing. `--score votes.json` counts the votes that the page saves: wins, and the
share of decided votes for B with its 95 % Clopper-Pearson interval.

exit codes: 0 success; 1 a file cannot be read or written; 2 invalid usage.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

import numpy as np
from scipy.stats import binomtest

from preprocessing.commands import Parser, run_command, write_whole
from preprocessing.errors import UsageError, display_path

PROGRAM = "evaluation.blind"
SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".m4v")
CHOICES = ("left", "same", "right")
CODE_BYTES = 16
FORMAT = "wav2lip-blind-votes-1"


@dataclass(frozen=True)
class BlindPair:
    """A pair as the page shows it; `a_left` is only in its code.

    Attributes:
        name: of both videos.
        a, b: the videos.
        a_left: whether A's is on the left.
        code: hex digits that hide `a_left`: their bits add up to an odd number if A's is on the left.
    """

    name: str
    a: Path
    b: Path
    a_left: bool
    code: str


def find_pairs(a: Path, b: Path) -> list[tuple[str, Path, Path]]:
    """Name and videos of the pairs in two folders, by name.

    Raises:
        UsageError: a folder is missing, both are the same, or no names are equal.
    """
    for folder in (a, b):
        if not folder.is_dir():
            raise UsageError(f"{display_path(folder)} is not a folder")
    if a.samefile(b):
        raise UsageError(f"A and B are the same folder, {display_path(a)}")
    ours, theirs = _videos(a), _videos(b)
    pairs = [(name, ours[name], theirs[name]) for name in sorted(ours.keys() & theirs.keys())]
    if not pairs:
        raise UsageError(f"no video has the same name in {display_path(a)} and in {display_path(b)}")
    return pairs


def _videos(folder: Path) -> dict[str, Path]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def draw(pairs: Sequence[tuple[str, Path, Path]], seed: int, count: int | None = None) -> list[BlindPair]:
    """At most `count` of the pairs, in random order and on random sides."""
    rng = np.random.default_rng(seed)
    chosen = [pairs[k] for k in rng.permutation(len(pairs))[:count]]
    sides = rng.permutation(np.arange(len(chosen)) % 2 == 0)  # each side equally often
    drawn = zip(chosen, sides.tolist(), strict=True)
    return [BlindPair(name, a, b, left, _code(left, rng)) for (name, a, b), left in drawn]


def _code(odd: bool, rng: np.random.Generator) -> str:
    code = bytearray(rng.bytes(CODE_BYTES))
    if code_is_odd(code.hex()) != odd:
        code[int(rng.integers(CODE_BYTES))] ^= 1 << int(rng.integers(8))
    return code.hex()


def code_is_odd(code: str) -> bool:
    """Whether the bits of hex digits add up to an odd number; raises ValueError if they are none."""
    return int(code, 16).bit_count() % 2 == 1


def write_page(pairs: Sequence[BlindPair], labels: tuple[str, str], out: Path, seed: int) -> None:
    """Writes the page and, beside it, the folder of its videos.

    Raises:
        UsageError: the page or its folder exists.
    """
    folder = out.with_name(f"{out.stem}-videos")
    for path in (out, folder):
        if path.exists():
            raise UsageError(f"{display_path(path)} exists: remove it, or choose another --out")
    rng = np.random.default_rng((seed, 1))
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=out.parent) as unfinished:
        copies = Path(unfinished, folder.name)
        copies.mkdir()
        shown = [_copy(pair, copies, rng) for pair in pairs]
        os.replace(copies, folder)
    content = {"format": FORMAT, "id": rng.bytes(8).hex(), "labels": list(labels), "pairs": shown}
    # Inside a script element only "<" could end it.
    data = json.dumps(content, ensure_ascii=True).replace("<", "\\u003c")
    template = files(__package__).joinpath("blind_page.html").read_text(encoding="utf-8")
    write_whole(out, template.replace("{{data}}", data))


def _copy(pair: BlindPair, folder: Path, rng: np.random.Generator) -> dict[str, str]:
    """Copies a pair's videos under names of their own; returns what the page needs."""
    left, right = (pair.a, pair.b) if pair.a_left else (pair.b, pair.a)
    shown = {"name": pair.name, "code": pair.code}
    for side, video in (("left", left), ("right", right)):
        name = f"{rng.bytes(8).hex()}{video.suffix.lower()}"
        shutil.copyfile(video, folder / name)
        shown[side] = quote(f"{folder.name}/{name}")
    return shown


@dataclass(frozen=True)
class BlindScore:
    """Counted votes.

    Attributes:
        labels: what A and B are.
        a, b, same: votes for each, and for no difference.
        pairs: number of different pairs voted on.
    """

    labels: tuple[str, str]
    a: int
    b: int
    same: int
    pairs: int

    @classmethod
    def read(cls, paths: Sequence[Path]) -> BlindScore:
        """Counts the votes in files that one page saved, for one or several viewers.

        Raises:
            UsageError: a file holds no votes, or they are from different pages.
        """
        contents = [_votes(path) for path in paths]
        if len({content["id"] for content in contents}) > 1:
            raise UsageError("the votes are from different pages: score each page by itself")
        counts: Counter[str] = Counter()
        for content in contents:
            counts.update(_winner(code, choice) for code, choice in content["votes"].items())
        codes = {code for content in contents for code in content["votes"]}
        a, b = contents[0]["labels"]
        return cls((a, b), counts["a"], counts["b"], counts["same"], len(codes))

    def lines(self) -> Iterable[str]:
        """The result as text."""
        decided = self.a + self.b
        yield f"A: {self.labels[0]}"
        yield f"B: {self.labels[1]}"
        yield f"{decided + self.same} votes on {self.pairs} pairs: A {self.a}, B {self.b}, no difference {self.same}"
        if not decided:
            yield "no vote is decided"
            return
        test = binomtest(self.b, decided)
        low, high = test.proportion_ci(0.95, method="exact")
        yield (
            f"B is preferred in {self.b / decided:.2f} [{low:.2f}, {high:.2f}] of the decided votes "
            f"(95 % interval); p = {test.pvalue:.3g} against chance"
        )


def _winner(code: str, choice: str) -> str:
    if choice == "same":
        return "same"
    return "a" if (choice == "left") == code_is_odd(code) else "b"


def _votes(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT or [type(label) for label in content["labels"]] != [str, str]:
            raise ValueError("another format")
        for code, choice in content["votes"].items():
            if choice not in CHOICES or len(code) != 2 * CODE_BYTES:
                raise ValueError(f"an unknown vote, {code}: {choice}")
            code_is_odd(code)
        str(content["id"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{display_path(path)} does not hold votes of a blind comparison ({error})") from error
    return content


def parser() -> Parser:
    """The command's flags."""
    p = Parser(PROGRAM, __doc__)
    p.add_argument("folders", type=Path, nargs="*", metavar="FOLDER", help="A and B")
    p.add_argument(
        "--out", type=Path, default=Path("blind.html"), metavar="FILE", help="the page (default: blind.html)"
    )
    p.add_argument("--seed", type=int, default=0, metavar="N", help="of order and sides (default: 0)")
    p.add_argument("--pairs", type=int, metavar="N", help="show at most N pairs, drawn by the seed")
    p.add_argument("--score", type=Path, nargs="+", metavar="FILE", help="count votes that the page saved instead")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code (see --help)."""
    args = parser().parse_args(argv)

    def job() -> None:
        if bool(args.score) == bool(args.folders):
            raise UsageError("give either the folders A and B, or --score FILE")
        if args.score:
            print("\n".join(BlindScore.read(args.score).lines()))
            return
        _make(args.folders, args.out, args.seed, args.pairs)

    return run_command(PROGRAM, job)


def _make(folders: Sequence[Path], out: Path, seed: int, count: int | None) -> None:
    if len(folders) != 2:
        raise UsageError(f"two folders are needed, A and B, not {len(folders)}")
    if seed < 0 or (count is not None and count < 1):
        raise UsageError("--seed must be 0 or more, and --pairs 1 or more")
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"the page must end in .html, not {display_path(out.name)}")
    if not out.parent.is_dir():
        raise UsageError(f"{display_path(out.parent)} does not exist")
    a, b = folders
    pairs = draw(find_pairs(a, b), seed, count)
    write_page(pairs, (str(a), str(b)), out, seed)
    print(f"{display_path(out)}: {len(pairs)} pairs. Open it in a browser, vote, save the votes; then --score FILE")


if __name__ == "__main__":
    sys.exit(main())
