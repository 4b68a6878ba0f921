"""Measures how well the sound of videos fits the mouths in them: `python -m syncnet.score VIDEO ...`."""

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
from syncnet.score_report import VideoScore, report, table
from syncnet.sync_expert import EXPERT, SyncExpert
from syncnet.video_scoring import ExpertScorer, Progress, Scorer, score_tracks
from training.run import INSTALL

PROGRAM = "syncnet.score"
SHORTEST = 1.0  # seconds of a video
LEAST_SEEN = 15  # windows: who is seen for less is left out
EPILOG = """\
The sign of an offset is syncnet_python's: in frames at 25 a second (40 ms), whatever the video's rate, positive when
the sound comes early, negative when it comes late; -15 to 15 are tried. A distance is the mean over the windows of five
frames in whose sound there is speech; the confidence is the median over the offsets less the least: near zero, the
offset says nothing. People are numbered from left to right. A person is a face that is followed, in all shots together:
after a cut it may be another's. Of several people the one with the highest confidence speaks.

exit codes: 0 all videos are scored; 1 some cannot be; 2 a wrong flag or model.
"""


def open_scorer(model: Path = EXPERT) -> Scorer:
    """One of our experts (.safetensors), or syncnet_python's, whose scores are LSE-D and LSE-C.

    Raises:
        UsageError: the file is neither.
    """
    if model.suffix.lower() == ".safetensors":
        return ExpertScorer(SyncExpert.load(model))
    from syncnet.lse import PublishedScorer, load_published

    return PublishedScorer(load_published(model))


def score_video(
    path: Path | str, scorer: Scorer | None = None, detector: FaceDetector | None = None, *, max_faces: int = 2,
    progress: Progress | None = None,
) -> VideoScore:  # fmt: skip
    """Finds the people in a video and scores each of them.

    Args:
        path: the video.
        scorer: from `open_scorer`; None: the expert that comes with the program.
        detector: from `load_detector`; None: "auto".
        max_faces: people followed at the same time.
        progress: called with the frames that are looked at and their number, once the faces are found.

    Raises:
        MediaError: it is no video, lacks sound, speech or a face, or is shorter than a second.
        UsageError: max_faces is less than 1.
    """
    path = Path(path)
    info = _suitable(path)
    sound = read_audio(path)
    if len(sound.samples) < SHORTEST * 16000:
        raise MediaError(f"the sound of {display_path(path)} lasts {len(sound.samples) / 16000:.2f} s: 1 s is needed")
    if not sound.flags.any():
        raise MediaError(f"{display_path(path)} is silent: without speech there is no sync to score")
    tracks = track_video_faces(path, info, detector or load_detector(), max_faces)
    scorer = scorer or open_scorer()
    seen = [person for person in score_tracks(path, from_left(tracks), sound.samples, scorer, progress) if person]
    people = [person for person in seen if len(person.starts) >= LEAST_SEEN]
    if not people:
        length = f"{(LEAST_SEEN + WINDOW - 1) / CLIP_FPS:.2f} s or longer"
        anybody = any(track.found.any() for track in tracks)
        raise MediaError(f"{display_path(path)} shows no face " + (f"for {length}" if anybody else "that can be found"))
    return report(path, info.duration, people, partial(scorer.counted, sound.flags))


def from_left(tracks: Sequence[FaceTrack]) -> list[FaceTrack]:
    """Those who are seen at all, from left to right by where they mostly are."""
    seen = [track for track in tracks if track.found.any()]
    return sorted(seen, key=lambda track: float(np.median(track.boxes[track.found][:, [0, 2]].mean(1))))


def _suitable(path: Path) -> VideoInfo:
    """What the file is; MediaError unless it is a video with sound that is long enough."""
    info = probe(path)
    if info.is_image:
        raise MediaError(f"{display_path(path)} is a photo, not a video")
    if not info.has_audio:
        raise MediaError(f"{display_path(path)} has no sound track")
    if info.duration < SHORTEST:
        raise MediaError(f"{display_path(path)} lasts {info.duration:.2f} s: 1 s is needed")
    return info


# The command ---------------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    p = Parser(PROGRAM, __doc__, EPILOG)
    p.add_argument("videos", type=Path, nargs="+", metavar="VIDEO", help="a video with sound")
    p.add_argument("--json", action="store_true", help="print JSON: a list with an object for each video")
    p.add_argument("--plot", type=Path, metavar="FILE", help=f"draw distance over offset ({', '.join(FORMATS)})")
    p.add_argument(
        "--model", type=Path, default=EXPERT, metavar="FILE",
        help="an expert (.safetensors; default: the one that comes with the program), or syncnet_python's "
        "syncnet_v2.model: then distance and confidence are LSE-D and LSE-C, and silent windows count as well",
    )  # fmt: skip
    p.add_argument("--max-faces", type=int, default=2, metavar="N", help="people followed at once (default: 2)")
    add_detector_flags(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code (see --help)."""
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)

    def job() -> int:
        if args.max_faces < 1:
            raise UsageError(f"--max-faces is 1 or more, not {args.max_faces}")
        if args.plot:
            _check_plot(args.plot)
        detector = load_detector(args.detector, yunet=args.yunet, sfd=args.s3fd)
        return _score_all(args.videos, open_scorer(args.model), detector, args)

    return run_command(PROGRAM, job)


def _check_plot(path: Path) -> None:
    """Refuses, before anything slow begins, a plot that could not be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError(f"--plot needs matplotlib: {INSTALL}")
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"--plot must end in {', '.join(FORMATS)}, not be called {display_path(path.name)}")
    if not path.parent.is_dir():
        raise UsageError(f"--plot {display_path(path)} cannot be written: {display_path(path.parent)} is no folder")


def _score_all(videos: list[Path], scorer: Scorer, detector: FaceDetector, args: argparse.Namespace) -> int:
    """Scores what can be scored and says why the rest cannot."""
    results, curves, code = list[dict[str, object]](), dict[str, np.ndarray](), 0
    for path in videos:
        try:
            with tqdm(unit="frame", disable=None, leave=False) as bar:
                score = score_video(path, scorer, detector, max_faces=args.max_faces, progress=_shown_on(bar))
        except (MediaError, OSError, MemoryError) as error:
            code = fail(PROGRAM, 1, str(error) or f"there is too little memory for {display_path(path)}")
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


def _shown_on(bar: tqdm) -> Progress:
    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return show


def _label(path: Path, person: int, score: VideoScore) -> str:
    return display_path(path.name) + (f", person {person}" if len(score.curves) > 1 else "")


if __name__ == "__main__":
    sys.exit(main())
