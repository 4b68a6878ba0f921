"""Window loading speed from clips, compared with loading from the original videos.

    .venv/bin/python benchmarks/loader.py CLIPS VIDEO... [--seconds 5]

A window is five consecutive frames at 96 pixels with their mels. From the clips, with 0, 1 and 2 worker processes:
unchanged; with the default augmentation; and as sampled by the two trainers (the expert samples 16 windows of a clip at
once). From the videos, in this process: at random positions of VIDEOs that have clips in CLIPS, whose tracks locate the
face; each time the video is opened, decoded from the previous key frame, and the face is cropped from five frames.
Compare this with the unchanged windows from the clips.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from preprocessing.dataset.augmentation import Augmentation, ImageTransform, MelTransform  # noqa: E402
from preprocessing.dataset.clips import CLIP_FPS, Clip, open_clips, speaker_weights  # noqa: E402
from preprocessing.dataset.windows import CropRegion, WindowDataset, batches, face_window, mel_windows, random_starts  # noqa: E402
from preprocessing.faces.crops import CropGeometry, crop  # noqa: E402
from preprocessing.media.video_reader import read_frames  # noqa: E402
from syncnet.data import WINDOW  # noqa: E402
from syncnet.data import sample as expert_sample  # noqa: E402
from wav2lip.generator.data import sample as generator_sample  # noqa: E402

REGION, BATCH, SPAN = CropRegion(size=96), 4, 35


def from_clip(clip: Clip, rng: np.random.Generator, how: Augmentation) -> tuple[np.ndarray, np.ndarray]:
    """(5, 96, 96, 3) faces and (5, 1, 80, 16) mels."""
    first = int(random_starts(clip.frames, 1, rng, length=WINDOW)[0])
    view, mel_transform = ImageTransform.draw(how, rng, REGION.scale), MelTransform.draw(how, rng)
    faces = face_window(clip, REGION, first, WINDOW, view)
    return faces, mel_windows(clip.mel, range(first, first + WINDOW), mel_transform=mel_transform)


def from_video(clip: Clip, rng: np.random.Generator, videos: dict[str, Path]) -> tuple[np.ndarray, np.ndarray]:
    """The same from the clip's video; track and mel come from the clip, since they are computed only once anyway."""
    first, track = int(random_starts(clip.frames, 1, rng, length=WINDOW)[0]), clip.track
    start, fps = clip.start + first / CLIP_FPS, Fraction(CLIP_FPS)
    video, geometry = videos[Path(clip.header.source).name], CropGeometry("points", REGION.size)
    frames = read_frames(video, fps=fps, start=start, end=start + WINDOW / CLIP_FPS)
    faces = []
    for index, frame in enumerate(frames, first):
        matrix = geometry.matrix(track.boxes[index], track.points[index], frame.shape[1::-1])
        faces.append(crop(frame, matrix, REGION.size))
    return np.stack(faces), mel_windows(clip.mel, range(first, first + WINDOW))


def rate(stream: Iterable, seconds: float, windows: int) -> float:
    """Windows per second, with `windows` per item, excluding the first item."""
    items = iter(stream)
    next(items)
    begun, count = time.monotonic(), 0
    while time.monotonic() - begun < seconds:
        next(items)
        count += windows
    return count / (time.monotonic() - begun)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("videos", type=Path, nargs="+", metavar="VIDEO")
    parser.add_argument("--seconds", type=float, default=5, help="duration of each measurement (default: 5)")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    clips = open_clips(args.clips, SPAN)
    videos = {video.name: video for video in args.videos}
    known = [clip for clip in clips if Path(clip.header.source).name in videos]
    if not known:
        parser.error(f"{args.clips} contains no clip of any of these videos")
    print(f"{len(clips)} clips, {len(known)} of the {len(videos)} videos; faces of {clips[0].header.side} pixels")

    def stream(draw: Callable, subset: list[Clip], workers: int) -> Iterable:
        draws: WindowDataset = WindowDataset(subset, speaker_weights(subset), draw, seed=0)
        return batches(draws, BATCH, range(10**6), workers=workers, collate=lambda windows: windows)

    video = rate(stream(partial(from_video, videos=videos), known, 0), args.seconds, BATCH)
    print(f"{'from':32}{'workers':>8}{'windows/s':>12}{'ms/window':>12}")
    print(f"{'videos':32}{0:8}{video:12.1f}{1000 / video:12.2f}")
    jobs: list[tuple[str, Callable, int]] = [
        ("clips, unchanged", partial(from_clip, how=Augmentation.none()), 1),
        ("clips, default augmentation", partial(from_clip, how=Augmentation()), 1),
        ("clips, the generator's windows", generator_sample, 1),
        ("clips, the expert's windows", partial(expert_sample, windows=16), 16),
    ]
    for name, draw, windows in jobs:
        for workers in (0, 1, 2):
            found = rate(stream(draw, clips, workers), args.seconds, BATCH * windows)
            print(f"{name:32}{workers:8}{found:12.1f}{1000 / found:12.2f}", flush=True)


if __name__ == "__main__":
    main()
