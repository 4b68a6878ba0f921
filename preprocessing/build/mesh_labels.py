"""Mesh labels of a build's videos, for the training of landmarks and lip motion: `preprocessing.build … --mesh FOLDER`.

FOLDER mirrors VIDEOS, with NAME.npz for each video that has passing clips, and labels.csv, which gives each video's
name, speaker and split and says which network made its labels: MediaPipe FaceMesh, run by another Python, or our own
landmark network. Networks trained on labels of our own network learn its faults, too.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path, PurePosixPath

import numpy as np
from tqdm import tqdm

from preprocessing.build.sources import VideoSource
from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.faces.detectors import load_detector
from preprocessing.faces.landmarks import predictor
from preprocessing.faces.landmarks.tracker import LandmarkTracker
from preprocessing.faces.landmarks.training import label
from preprocessing.faces.landmarks.training.labels import EDGE, TABLE, labels_made_by, load_labels
from preprocessing.faces.mesh import Landmarks
from preprocessing.media.color_conversion import to_bgr
from preprocessing.media.video_reader import decode, open_media

LEAST_PRESENCE = 0.5  # of our network; below it the frame counts as one without a face
COLUMNS = ("video", "labels", "name", "speaker", "split", "frames", "faces", "made_by")

Job = tuple[Path, Path]  # video, label file
Say = Callable[[str], None]


@dataclass(frozen=True)
class OwnLabeler:
    """Labels videos by our landmark network and tracker, in this process or `workers` others.

    Attributes:
        detector, device, yunet, sfd: the face detector, see `load_detector`.
    """

    detector: str = "auto"
    device: str = "cpu"
    yunet: Path | None = None
    sfd: Path | None = None

    @property
    def made_by(self) -> str:
        """The network's name, with its file's hash."""
        weights = Path(predictor.__file__).parent / predictor.WEIGHTS
        return f"wav2lip landmarks {sha256(weights.read_bytes()).hexdigest()[:12]}"

    def __call__(self, jobs: Sequence[Job], workers: int, say: Say) -> None:
        """Writes the label files that it can; `say` gets a line about each video that it cannot."""
        with tqdm(total=len(jobs), unit="video", desc="mesh", disable=None) as bar:
            for failure in self._in_processes(jobs, workers) if workers > 1 else self._here(jobs):
                bar.update()
                if failure:
                    say(failure)

    def _here(self, jobs: Sequence[Job]) -> Iterator[str]:
        tracker = self._tracker()
        for video, target in jobs:
            yield self._label(video, target, tracker())

    def _in_processes(self, jobs: Sequence[Job], workers: int) -> Iterator[str]:
        with ProcessPoolExecutor(min(workers, len(jobs)), get_context("spawn")) as pool:
            for done in as_completed([pool.submit(self.label_one, *job) for job in jobs]):
                yield done.result()

    def label_one(self, video: Path, target: Path) -> str:
        """Labels one video; returns why it could not be, or ""."""
        return self._label(video, target, self._tracker()())

    def _tracker(self) -> Callable[[], LandmarkTracker]:
        network = predictor.load_landmarks()
        detector = load_detector(self.detector, self.device, yunet=self.yunet, sfd=self.sfd)
        return lambda: LandmarkTracker(network, detector)

    def _label(self, video: Path, target: Path, tracker: LandmarkTracker) -> str:
        try:
            label.write_labels(track_mesh(video, tracker), target, self.made_by)
        except (MediaError, OSError, ValueError) as error:
            return f"{display_path(video)} gets no mesh labels: {error}"
        return ""


def track_mesh(video: Path, tracker: LandmarkTracker) -> Iterator[tuple[float, np.ndarray | None]]:
    """Time in seconds and points (206, 3) of each frame in decoding order, as `label.mesh_of` gives them."""
    times: list[float] = []
    found: list[Landmarks | None] = []
    with open_media(video) as container:
        stream = container.streams.video[0]
        rate = float(stream.average_rate or 25)
        for number, frame in enumerate(decode(container, stream)):
            time_base = stream.time_base
            seconds = None if frame.pts is None or time_base is None else float(frame.pts * time_base)
            times.append(number / rate if seconds is None else seconds)
            found += tracker.push(to_bgr(frame, frame.width, frame.height))
    found += tracker.finish()
    for time, face in zip(times, found, strict=True):
        present = face is not None and face.presence >= LEAST_PRESENCE
        yield time, face.points + EDGE if face is not None and present else None


class MediaPipeLabeler:
    """Labels videos by MediaPipe FaceMesh, run by the Python of an environment that has it.

    Raises:
        UsageError: it cannot be run, or lacks MediaPipe's face mesh or PyAV.
    """

    def __init__(self, python: Path) -> None:
        # -I: without it the modules beside the script would hide others of the same name
        self._command = [str(python), "-I", str(Path(label.__file__).resolve())]
        try:
            answer = subprocess.run([*self._command, "--version"], capture_output=True, text=True, check=True)
        except OSError as error:
            raise UsageError(f"cannot run {display_path(python)}: {error.strerror}") from error
        except subprocess.CalledProcessError as error:
            reason = (error.stderr.strip().splitlines() or [""])[-1]
            raise UsageError(f"{display_path(python)} has no MediaPipe FaceMesh or no PyAV: {reason}") from error
        self.made_by = answer.stdout.strip()

    def __call__(self, jobs: Sequence[Job], workers: int, say: Say) -> None:
        """Writes the label files that it can; `say` gets a line about each video that it cannot."""
        with tempfile.TemporaryDirectory() as folder:
            running = [self._start(jobs[k::workers], Path(folder), k) for k in range(min(workers, len(jobs)))]
            try:
                for process in running:
                    process.wait()
            except BaseException:
                for process in running:
                    process.kill()
                raise
            for k, process in enumerate(running):
                lines = Path(folder, f"{k}.err").read_text(errors="replace").splitlines()
                unreadable = [line for line in lines if "cannot be read" in line]
                failed = process.returncode and not unreadable
                for line in lines[-1:] if failed else unreadable:
                    say(line)

    def _start(self, jobs: Sequence[Job], folder: Path, number: int) -> subprocess.Popen[bytes]:
        jobs_file = folder / f"{number}.jsonl"
        jobs_file.write_text("".join(json.dumps([str(video), str(target)]) + "\n" for video, target in jobs))
        with (folder / f"{number}.err").open("wb") as log:
            command = [*self._command, "--list", str(jobs_file)]
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log)


Labeler = OwnLabeler | MediaPipeLabeler


def label_files(sources: Sequence[VideoSource]) -> dict[str, str]:
    """Path of the label file by path of the video, both relative: beside each other's name, as the folders mirror."""
    plain = {source.video: str(PurePosixPath(source.video).with_suffix(".npz")) for source in sources}
    counts = Counter(plain.values())
    folders = {source.video: PurePosixPath(source.video).parent for source in sources}
    named = {source.video: str(folders[source.video] / f"{source.id}.npz") for source in sources}
    return {video: name if counts[name] == 1 else named[video] for video, name in plain.items()}


def label_sources(sources: Sequence[VideoSource], folder: Path, labeler: Labeler, workers: int, say: Say) -> int:
    """Labels the videos that have no labels by this labeler yet, or changed since; writes the table.

    Returns:
        The number of labeled videos.
    """
    targets = {video: folder / name for video, name in label_files(sources).items()}
    jobs = [(each.path, targets[each.video]) for each in sources if _outdated(each, targets[each.video], labeler)]
    for _, target in jobs:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
    if jobs:
        labeler(jobs, workers, say)
    rows = [_row(each, folder, targets[each.video]) for each in sources if targets[each.video].is_file()]
    folder.mkdir(parents=True, exist_ok=True)
    _write_table(folder / TABLE, rows)
    made = ", ".join(f"{count} by {name}" for name, count in Counter(str(row[-1]) for row in rows).items())
    print(f"{len(rows)} of {len(sources)} videos have mesh labels in {display_path(folder)}: {made or 'none'}")
    return len(rows)


def _outdated(source: VideoSource, target: Path, labeler: Labeler) -> bool:
    """Whether a video needs new labels. Labels by MediaPipe are not replaced by those of our network."""
    try:
        if target.stat().st_mtime < source.path.stat().st_mtime:
            return True
        return isinstance(labeler, MediaPipeLabeler) and labels_made_by(target).startswith("wav2lip")
    except (OSError, MediaError):
        return True


def _row(source: VideoSource, folder: Path, target: Path) -> tuple[str | int, ...]:
    labels, name = load_labels(target), target.relative_to(folder).as_posix()
    counts = len(labels.found), int(labels.found.sum())
    return source.video, name, source.id, source.speaker, source.split, *counts, labels_made_by(target)


def _write_table(path: Path, rows: Sequence[tuple[str | int, ...]]) -> None:
    """Writes the table atomically; any file name survives."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        part = Path(folder) / "part"
        with part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(rows)
        os.replace(part, path)
