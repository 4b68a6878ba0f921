"""Makes motion clips from labeled videos: `python -m wav2lip.lip_motion.prepare VIDEOS MESH OUT`.

VIDEOS contains the folders train/ and val/ with videos, MESH the same folders with a mesh label file (.npz) for each
video. Writes one file per video to OUT, with lip displacements and the features of both speech encoders. The speaker is
the part of a video's name before "__", or the column `speaker` of VIDEOS/manifest.csv. Existing files are kept.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from preprocessing.commands import Parser, run_command
from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.media.audio import load_audio
from wav2lip.lip_motion.data.clips import MotionClip
from wav2lip.lip_motion.data.targets import displacements, read_mesh
from wav2lip.lip_motion.silence import speech_frames
from wav2lip.lip_motion.speech.speech_encoder import SpeechEncoder, encode, open_encoder

SPLITS = ("train", "val")
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".mpg")


def motion_clip(video: Path, mesh: Path, split: str, speaker: str, encoders: Sequence[SpeechEncoder]) -> MotionClip:
    """The motion clip of one labeled video.

    Raises:
        UsageError: the labels are damaged or have too few faces.
        MediaError: the video has no audio.
    """
    motion, samples = displacements(read_mesh(mesh)), load_audio(video)
    features: dict[str, np.ndarray] = {encoder.name: encode(encoder, samples) for encoder in encoders}
    return MotionClip(video.stem, speaker, split, motion, speech_frames(samples), features)


def find_videos(folder: Path, mesh: Path) -> Iterator[tuple[Path, Path, str]]:
    """Yields (video, label file, split) of all labeled videos."""
    for split in SPLITS:
        for video in sorted((folder / split).glob("*")):
            labels = mesh / split / f"{video.stem}.npz"
            if video.suffix.lower() in VIDEO_SUFFIXES and labels.is_file():
                yield video, labels, split


def load_speakers(folder: Path) -> dict[str, str]:
    """Video stem → speaker from the manifest; empty without a manifest."""
    manifest = folder / "manifest.csv"
    if not manifest.is_file():
        return {}
    with manifest.open(newline="", encoding="utf-8") as file:
        return {Path(row["file"]).stem: row["speaker"] for row in csv.DictReader(file)}


def prepare(videos: Path, mesh: Path, out: Path) -> None:
    """Makes the missing clips; reports unusable videos on stderr.

    Raises:
        UsageError: no video has labels.
    """
    found, speakers = list(find_videos(videos, mesh)), load_speakers(videos)
    if not found:
        searched = " and ".join(SPLITS)
        raise UsageError(f"no video in {display_path(videos)} has labels in {display_path(mesh)}: searched {searched}")
    encoders = [open_encoder("hama"), open_encoder("mel")]
    out.mkdir(parents=True, exist_ok=True)
    for video, labels, split in tqdm(found, unit="video", disable=None):
        path = out / f"{video.stem}.safetensors"
        if path.exists():
            continue
        speaker = speakers.get(video.stem, video.stem.split("__")[0])
        try:
            motion_clip(video, labels, split, speaker, encoders).save(path)
        except (ValueError, MediaError) as error:
            print(f"{display_path(video)} skipped: {error}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = Parser("wav2lip.lip_motion.prepare", __doc__)
    for name, what in {"videos": "folder of videos", "mesh": "folder of mesh labels", "out": "output folder"}.items():
        parser.add_argument(name, type=Path, help=what)
    given = parser.parse_args(argv)
    return run_command("wav2lip.lip_motion.prepare", lambda: prepare(given.videos, given.mesh, given.out))


if __name__ == "__main__":
    sys.exit(main())
