"""Raw talking-face videos to clips: `python -m preprocessing.build VIDEOS CLIPS`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from preprocessing.audio import AudioConfig, load_audio, mel_spectrogram, speech_columns
from preprocessing.clips import CLIP_FPS, write_clip
from preprocessing.crops import CropGeometry, crop
from preprocessing.detectors import load_detector
from preprocessing.faces import FaceTrack
from preprocessing.tracking import track_faces
from preprocessing.video import MediaError, read_frames

MARGIN = 8  # pixels around the network's square, for a trainer's jitter
SHORTEST = 20  # frames; a shorter run is dropped


def build_clips(video: Path, folder: Path, *, detector: str, yunet: Path | None, size: int) -> str:
    """Makes clips of one video: one for each run of frames of one shot in which the face is seen.

    The speaker is the file's name up to its first "__".

    Returns:
        One line that says what was made or why nothing was.
    """
    cv2.setNumThreads(1)
    rate = Fraction(CLIP_FPS)
    try:
        samples = load_audio(video)
        track = track_faces(read_frames(video, fps=rate), load_detector(detector, yunet=yunet), fps=CLIP_FPS)
        faces = _crops(video, track, size)
    except MediaError as error:
        return f"{video.name}: {error}"
    mel, speech = mel_spectrogram(samples), speech_columns(samples)
    runs = [(a, b) for a, b in _shots(track) if mel.shape[1] >= b * 80 / CLIP_FPS - 8]  # a shot needs its sound
    for number, (first, last) in enumerate(runs):
        columns = slice(round(first * 80 / CLIP_FPS), round(last * 80 / CLIP_FPS))
        write_clip(
            folder / f"{video.stem}__{number:02d}.safetensors", faces[first:last], mel[:, columns].copy(),
            speech[columns], speaker=video.stem.split("__")[0], margin=MARGIN, config=AudioConfig(),
        )  # fmt: skip
    return f"{video.name}: {len(runs)} clips, {sum(b - a for a, b in runs) / CLIP_FPS:.1f} s"


def _crops(video: Path, track: FaceTrack, size: int) -> np.ndarray:
    geometry, side = CropGeometry("points", size), size + 2 * MARGIN
    faces = np.zeros((len(track), side, side, 3), np.uint8)
    for index, frame in enumerate(read_frames(video, fps=Fraction(CLIP_FPS))):
        if track.found[index]:
            matrix = geometry.matrix(track.boxes[index], track.points[index], frame.shape[1::-1])
            matrix[:, 2] += MARGIN
            faces[index] = crop(frame, matrix, side)
    return faces


def _shots(track: FaceTrack) -> list[tuple[int, int]]:
    """First and one-past-last frame of each run in which the face is seen within one shot.

    A run starts at a multiple of five frames, where frames and mel columns meet exactly.
    """
    runs: list[tuple[int, int]] = []
    first = None
    for index in range(len(track) + 1):
        seen = index < len(track) and bool(track.found[index])
        cut = first is not None and index < len(track) and track.shot[index] != track.shot[first]
        if first is not None and (not seen or cut):
            runs.append((-(-first // 5) * 5, index))
            first = None
        if seen and first is None:
            first = index
    return [(a, b) for a, b in runs if b - a >= SHORTEST]


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0, or 1 when nothing was made."""
    parser = argparse.ArgumentParser(prog="python -m preprocessing.build", description=__doc__)
    parser.add_argument("videos", type=Path, help="folder of videos, named SPEAKER__ANYTHING.mp4")
    parser.add_argument("clips", type=Path, help="folder that receives the clips")
    parser.add_argument("--detector", default="auto", help="auto, yunet, sfd or haar (default: auto)")
    parser.add_argument("--yunet", type=Path, help="YuNet's model file")
    parser.add_argument("--size", type=int, default=96, help="side of the network's square (default: 96)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    args = parser.parse_args(argv)
    videos = sorted(path for path in args.videos.glob("*") if path.suffix.lower() in (".mp4", ".mkv", ".mov", ".avi"))
    if not videos:
        parser.error(f"{args.videos} is no folder with .mp4, .mkv, .mov or .avi videos")
    args.clips.mkdir(parents=True, exist_ok=True)
    work = partial(build_clips, folder=args.clips, detector=args.detector, yunet=args.yunet, size=args.size)
    with ProcessPoolExecutor(args.workers) as pool:
        for line in tqdm(pool.map(work, videos), total=len(videos), unit="video"):
            tqdm.write(line)
    return 0 if any(args.clips.glob("*.safetensors")) else 1


if __name__ == "__main__":
    sys.exit(main())
