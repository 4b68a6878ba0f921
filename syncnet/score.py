"""Scores the lip sync of videos: `python -m syncnet.score VIDEO ...`."""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from preprocessing.build.video_pipeline import read_audio, track_video_faces
from preprocessing.commands import Parser, fail, run_command
from preprocessing.dataset.clip_header import CLIP_FPS
from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.faces.detectors import load_detector
from preprocessing.faces.detectors.flags import add_detector_flags
from preprocessing.faces.face_track import FaceDetector, FaceTrack
from preprocessing.media.video_reader import VideoInfo, probe
from syncnet.data import WINDOW
from syncnet.plots import FORMATS, plot_curves
from syncnet.scoring.score_report import VideoScore, report, table
from syncnet.scoring.video_scoring import ExpertScorer, Progress, Scorer, score_tracks
from syncnet.sync_expert import EXPERT, SyncExpert
from training.run import INSTALL

PROGRAM = "syncnet.score"
MIN_SECONDS = 1.0  # length of a video
MIN_WINDOWS = 15  # people visible for fewer windows are ignored
EPILOG = """\
Offsets are in frames of 40 ms (25 fps), whatever the video's frame rate, and have syncnet_python's sign: positive when
the audio is early, negative when it is late; -15 to 15 are searched. The distance is the mean over the five-frame
windows with speech; the confidence is the median distance over the offsets minus the smallest: near zero, the offset is
meaningless. People are numbered from left to right. A person is a tracked face over all shots: after a cut it may be
someone else. If there are several people, the one with the highest confidence is reported as the speaker.

exit codes: 0 all videos were scored; 1 some could not be scored; 2 invalid flag or model.
"""


def open_scorer(model: Path = EXPERT) -> Scorer:
    """Loads one of our experts (.safetensors) or syncnet_python's weights, whose scores are LSE-D and LSE-C.

    Raises:
        UsageError: the file is neither.
    """
    if model.suffix.lower() == ".safetensors":
        return ExpertScorer(SyncExpert.load(model))
    from syncnet.scoring.lse import PublishedScorer, load_published

    return PublishedScorer(load_published(model))


def score_video(
    path: Path | str, scorer: Scorer | None = None, detector: FaceDetector | None = None, *, max_faces: int = 2,
    progress: Progress | None = None,
) -> VideoScore:  # fmt: skip
    """Tracks the people in a video and scores each of them.

    Args:
        path: the video.
        scorer: from `open_scorer`; None: the included expert.
        detector: from `load_detector`; None: "auto".
        max_faces: people tracked at the same time.
        progress: called with the number of frames done and in total, once tracking is finished.

    Raises:
        MediaError: the file is not a video, has no audio, speech or face, or is shorter than a second.
        UsageError: max_faces is less than 1.
    """
    path = Path(path)
    info = _probe_video(path)
    audio = read_audio(path)
    if len(audio.samples) < MIN_SECONDS * 16000:
        raise MediaError(
            f"the audio of {display_path(path)} is {len(audio.samples) / 16000:.2f} s long; at least 1 s is needed"
        )
    if not audio.flags.any():
        raise MediaError(f"{display_path(path)} contains no speech: there is no sync to score")
    tracks = track_video_faces(path, info, detector or load_detector(), max_faces)
    scorer = scorer or open_scorer()
    scored = [person for person in score_tracks(path, left_to_right(tracks), audio.samples, scorer, progress) if person]
    people = [person for person in scored if len(person.starts) >= MIN_WINDOWS]
    if not people:
        length = f"{(MIN_WINDOWS + WINDOW - 1) / CLIP_FPS:.2f} s"
        found = any(track.found.any() for track in tracks)
        reason = f"no face is visible for at least {length} in" if found else "no face was found in"
        raise MediaError(f"{reason} {display_path(path)}")
    return report(path, info.duration, people, partial(scorer.scored_windows, audio.flags))


def left_to_right(tracks: Sequence[FaceTrack]) -> list[FaceTrack]:
    """The tracks in which a face was found, sorted by median horizontal position."""
    visible = [track for track in tracks if track.found.any()]
    return sorted(visible, key=lambda track: float(np.median(track.boxes[track.found][:, [0, 2]].mean(1))))


def _probe_video(path: Path) -> VideoInfo:
    """Probes the file; MediaError unless it is a video with audio that is long enough."""
    info = probe(path)
    if info.is_image:
        raise MediaError(f"{display_path(path)} is a photo, not a video")
    if not info.has_audio:
        raise MediaError(f"{display_path(path)} has no audio track")
    if info.duration < MIN_SECONDS:
        raise MediaError(f"{display_path(path)} is {info.duration:.2f} s long; at least 1 s is needed")
    return info


# Command line --------------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The command's argument parser."""
    p = Parser(PROGRAM, __doc__, EPILOG)
    p.add_argument("videos", type=Path, nargs="+", metavar="VIDEO", help="video with audio")
    p.add_argument("--json", action="store_true", help="print JSON: a list with one object per video")
    p.add_argument("--plot", type=Path, metavar="FILE", help=f"plot distance over offset ({', '.join(FORMATS)})")
    p.add_argument(
        "--model", type=Path, default=EXPERT, metavar="FILE",
        help="sync expert (.safetensors; default: the included one), or syncnet_python's syncnet_v2.model: distance "
        "and confidence are then LSE-D and LSE-C, and silent windows count, too",
    )  # fmt: skip
    p.add_argument("--max-faces", type=int, default=2, metavar="N", help="people tracked at the same time (default: 2)")
    add_detector_flags(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code (see --help)."""
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)

    def job() -> int:
        if args.max_faces < 1:
            raise UsageError(f"--max-faces must be 1 or more, not {args.max_faces}")
        if args.plot:
            _check_plot(args.plot)
        detector = load_detector(args.detector, yunet=args.yunet, sfd=args.s3fd)
        return _score_all(args.videos, open_scorer(args.model), detector, args)

    return run_command(PROGRAM, job)


def _check_plot(path: Path) -> None:
    """Rejects a plot that cannot be written before any slow work starts."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError(f"--plot needs matplotlib: {INSTALL}")
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"the file type of --plot must be one of {', '.join(FORMATS)}, not {display_path(path.name)}")
    if not path.parent.is_dir():
        raise UsageError(f"--plot {display_path(path)} cannot be written: {display_path(path.parent)} is not a folder")


def _score_all(videos: list[Path], scorer: Scorer, detector: FaceDetector, args: argparse.Namespace) -> int:
    """Scores the videos and reports the reason for each that cannot be scored."""
    results, curves, code = list[dict[str, object]](), dict[str, np.ndarray](), 0
    for path in videos:
        try:
            with tqdm(unit="frame", disable=None, leave=False) as bar:
                score = score_video(path, scorer, detector, max_faces=args.max_faces, progress=_update_bar(bar))
        except (MediaError, OSError, MemoryError) as error:
            code = fail(PROGRAM, 1, str(error) or f"not enough memory for {display_path(path)}")
            results.append({"video": str(path), "error": " ".join(str(error).split())})
            continue
        results.append(score.values())
        curves |= {_label(path, person, score): curve for person, curve in score.curves.items()}
        if not args.json:
            print(table(score))
    if args.json:
        print(json.dumps(results, indent=2, allow_nan=False))
    if args.plot and curves:
        plot_curves(curves, args.plot)
    return code


def _update_bar(bar: tqdm) -> Progress:
    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return show


def _label(path: Path, person: int, score: VideoScore) -> str:
    return display_path(path.name) + (f", person {person}" if len(score.curves) > 1 else "")


if __name__ == "__main__":
    sys.exit(main())
