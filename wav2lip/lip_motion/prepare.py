"""Makes motion clips from labeled videos: `python -m wav2lip.lip_motion.prepare VIDEOS MESH OUT`.

MESH is what `python -m preprocessing.build VIDEOS CLIPS --mesh MESH` made. Or VIDEOS contains the folders train/ and
val/ with videos, MESH the same folders with a mesh label file (.npz) for each video, and the speaker is the part of a
video's name before "__", or the column `speaker` of VIDEOS/manifest.csv. Writes one file per video to OUT, with lip
displacements and the features of both speech encoders. Existing files are kept.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from preprocessing.commands import Parser, run_command
from preprocessing.errors import MediaError, display_path
from preprocessing.faces.landmarks.training.labels import LabeledVideo, find_videos
from preprocessing.media.audio import load_audio
from wav2lip.lip_motion.data.clips import MotionClip
from wav2lip.lip_motion.data.targets import displacements, read_mesh
from wav2lip.lip_motion.silence import speech_frames
from wav2lip.lip_motion.speech.speech_encoder import SpeechEncoder, encode, open_encoder


def motion_clip(video: LabeledVideo, encoders: Sequence[SpeechEncoder]) -> MotionClip:
    """The motion clip of one labeled video.

    Raises:
        UsageError: the labels are damaged or have too few faces.
        MediaError: the video has no audio.
    """
    motion, samples = displacements(read_mesh(video.labels)), load_audio(video.video)
    features: dict[str, np.ndarray] = {encoder.name: encode(encoder, samples) for encoder in encoders}
    return MotionClip(video.name, video.speaker, video.split, motion, speech_frames(samples), features)


def prepare(videos: Path, mesh: Path, out: Path) -> None:
    """Makes the missing clips; reports unusable videos on stderr.

    Raises:
        UsageError: no video has labels.
    """
    found = find_videos(videos, mesh)
    encoders = [open_encoder("whisper"), open_encoder("mel")]
    out.mkdir(parents=True, exist_ok=True)
    for video in tqdm(found, unit="video", disable=None):
        path = out / f"{video.name}.safetensors"
        if path.exists():
            continue
        try:
            motion_clip(video, encoders).save(path)
        except (ValueError, MediaError) as error:
            print(f"{display_path(video.video)} skipped: {error}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = Parser("wav2lip.lip_motion.prepare", __doc__)
    for name, what in {"videos": "folder of videos", "mesh": "folder of mesh labels", "out": "output folder"}.items():
        parser.add_argument(name, type=Path, help=what)
    given = parser.parse_args(argv)
    return run_command("wav2lip.lip_motion.prepare", lambda: prepare(given.videos, given.mesh, given.out))


if __name__ == "__main__":
    sys.exit(main())
