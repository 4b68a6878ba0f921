"""Cost of inference: seconds by stage, frames per second and peak memory, by length and size of the video.

    .venv/bin/python benchmarks/inference.py --clip talk.mp4 [--lengths 10 60 300] [--sizes 512x512 1920x1080]

The clip is looped to each length and scaled and padded to each size; the speech is assets/speech.wav, looped. Each job
is a fresh `python inference.py` process, including start-up. "released" uses the released network's architecture with
random weights, which cost the same; "default" is the default mouth.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from preprocessing.media.video_writer import ffmpeg_binary  # noqa: E402
from wav2lip.generator.model import Generator  # noqa: E402


def looped(source: Path, target: Path, seconds: float, size: str | None = None) -> Path:
    """Loop `source` for `seconds`; a video is scaled to fit `size` (WxH), padded and converted to 25 fps."""
    command = [ffmpeg_binary(), "-v", "error", "-y", "-stream_loop", "-1", "-i", str(source), "-t", str(seconds)]
    if size is not None:
        width, height = size.split("x")
        fit = f"scale={width}:{height}:force_original_aspect_ratio=decrease,pad={width}:{height}:-1:-1,fps=25,setsar=1"
        command += ["-vf", fit, "-an", "-c:v", "libx264", "-preset", "veryfast", "-crf", "18"]
    subprocess.run([*command, str(target)], check=True)
    return target


def measure(command: list[str]) -> tuple[float, float, float, str]:
    """Wall seconds, CPU seconds (with children), peak memory of the largest process in MB, and standard output."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY)
    assert process.stdout is not None
    text = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the job failed: {' '.join(command)}")
    return time.perf_counter() - begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, text


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, required=True, help="a video with a face")
    parser.add_argument("--lengths", type=float, nargs="+", default=[10, 60, 300], metavar="SECONDS")
    parser.add_argument("--sizes", nargs="+", default=["512x512", "1920x1080"], metavar="WxH")
    parser.add_argument("--shapes", nargs="+", default=["released", "default"])
    parser.add_argument("rest", nargs="*", help="further flags for inference.py, after --")
    args = parser.parse_args()
    print("| network | size | seconds | frames | wall s | CPU s | frames/s | peak MB | seconds by stage |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "released.pth")
        torch.save({"state_dict": Generator().state_dict(), "global_step": 0}, weights)
        for size in args.sizes:
            for length in args.lengths:
                video = looped(args.clip, Path(folder, "face.mp4"), length, size)
                audio = looped(REPOSITORY / "assets" / "speech.wav", Path(folder, "speech.wav"), length)
                for shape in args.shapes:
                    command = [sys.executable, "inference.py", "--quiet", "--face", str(video), "--audio", str(audio)]
                    command += ["--outfile", str(Path(folder, "out.mp4")), *args.rest]
                    command += ["--checkpoint-path", str(weights)] if shape == "released" else []
                    wall, cpu, memory, text = measure(command)
                    frames = int(re.search(r": (\d+) frames", text)[1])  # type: ignore[index]
                    stages = text.split("(stages overlap): ")[1].splitlines()[0]
                    row = [shape, size, f"{length:g}", frames, f"{wall:.1f}", f"{cpu:.1f}", f"{frames / wall:.1f}"]
                    print("| " + " | ".join(map(str, [*row, f"{memory:.0f}", stages])) + " |", flush=True)


if __name__ == "__main__":
    main()
