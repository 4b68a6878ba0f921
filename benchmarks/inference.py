"""Cost of inference: wall and CPU seconds, memory, and CPU milliseconds per frame by stage, by length and size.

    .venv/bin/python benchmarks/inference.py --clip talk.mp4 [--lengths 10 60 300] [--sizes 512x512 1920x1080]
        [--profile] [--before CHECKOUT]

The clip is looped to each length and scaled and padded to each size; the speech is assets/speech.wav, looped. Each job
is a fresh `python inference.py` process, including start-up; files and compiled networks are cached, as after a first
run. "released" uses the released network's architecture with random weights, which cost the same; "default" is the
default mouth. Beside each job a fixed load (x264 on made-up frames) is timed, so that machines, and moments of one
machine that does other work, can be compared: "units" are CPU seconds divided by those of the load.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from preprocessing.media.video_writer import ffmpeg_binary  # noqa: E402

LOAD = "testsrc2=size=640x480:rate=25:duration=4"  # ffmpeg's synthetic frames


@dataclass(frozen=True)
class Cost:
    """What a process cost: wall and CPU seconds (with children), peak MB of its largest process; its output."""

    wall: float
    cpu: float
    memory: float
    text: str


def looped(source: Path, target: Path, seconds: float, size: str | None = None) -> Path:
    """Loop `source` for `seconds`; a video is scaled to fit `size` (WxH), padded and converted to 25 fps."""
    command = [ffmpeg_binary(), "-v", "error", "-y", "-stream_loop", "-1", "-i", str(source), "-t", str(seconds)]
    if size is not None:
        width, height = size.split("x")
        fit = f"scale={width}:{height}:force_original_aspect_ratio=decrease,pad={width}:{height}:-1:-1,fps=25,setsar=1"
        command += ["-vf", fit, "-an", "-c:v", "libx264", "-preset", "veryfast", "-crf", "18"]
    subprocess.run([*command, str(target)], check=True)
    return target


def measure(command: list[str], folder: Path = REPOSITORY) -> Cost:
    """Runs a command in a folder."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=folder)
    assert process.stdout is not None
    text = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the job failed: {' '.join(command)}")
    cpu = usage.ru_utime + usage.ru_stime
    return Cost(time.perf_counter() - begin, cpu, usage.ru_maxrss / 1024, text)


def reference_load() -> float:
    """CPU seconds of the fixed load."""
    command = [ffmpeg_binary(), "-v", "error", "-f", "lavfi", "-i", LOAD, "-threads", "1", "-c:v", "libx264"]
    return measure([*command, "-preset", "veryfast", "-f", "null", "-"]).cpu


def row(name: str, size: str, length: float, cost: Cost, load: float) -> str:
    """A line of the table."""
    frames = int(re.search(r": (\d+) frames", cost.text)[1])  # type: ignore[index]
    cells = [
        name, size, f"{length:g}", str(frames), f"{cost.wall:.1f}", f"{cost.cpu:.1f}", f"{frames / cost.wall:.1f}",
        f"{cost.memory:.0f}", f"{load:.2f}", f"{cost.cpu / load:.1f}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def released_shape(path: Path) -> Path:
    """A checkpoint of the released architecture with random weights."""
    import torch

    from wav2lip.generator.model import Generator

    torch.save({"state_dict": Generator().state_dict(), "global_step": 0}, path)
    return path


def arguments() -> argparse.Namespace:
    """The command's flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, required=True, help="a video with a face")
    parser.add_argument("--lengths", type=float, nargs="+", default=[10, 60, 300], metavar="SECONDS")
    parser.add_argument("--sizes", nargs="+", default=["512x512", "1920x1080"], metavar="WxH")
    parser.add_argument("--shapes", nargs="+", default=["released", "default"])
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="also measure another checkout, in turn")
    parser.add_argument("--profile", action="store_true", help="also print CPU time by stage, from a run of its own")
    parser.add_argument("rest", nargs="*", help="further flags for inference.py, after --")
    return parser.parse_args()


def main() -> None:
    """Print a Markdown table."""
    args = arguments()
    print("| network | size | seconds | frames | wall s | CPU s | frames/s | peak MB | load CPU s | units |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    stages = []
    with tempfile.TemporaryDirectory() as folder:
        weights = released_shape(Path(folder, "released.pth")) if "released" in args.shapes else None
        for size, length in ((size, length) for size in args.sizes for length in args.lengths):
            video = looped(args.clip.resolve(), Path(folder, "face.mp4"), length, size)
            audio = looped(REPOSITORY / "assets" / "speech.wav", Path(folder, "speech.wav"), length)
            job = ["--quiet", "--face", str(video), "--audio", str(audio), "--outfile", str(Path(folder, "out.mp4"))]
            for shape in args.shapes:
                flags = [*job, *args.rest, *(["--checkpoint-path", str(weights)] if shape == "released" else [])]
                command = [sys.executable, "inference.py", *flags]
                for name, checkout in ((f"{shape}, before", args.before), (shape, REPOSITORY)):
                    if checkout:
                        print(row(name, size, length, measure(command, checkout), reference_load()), flush=True)
                if args.profile:
                    text = measure([*command, "--profile"]).text
                    stages.append(f"{shape}, {size}, {length:g} s: {text.split('frame by stage: ')[1].splitlines()[0]}")
    print("", *stages, sep="\n")


if __name__ == "__main__":
    main()
