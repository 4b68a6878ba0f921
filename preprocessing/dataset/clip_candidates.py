"""Clip candidates: segments of one person, cut, measured and their frames collected."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from preprocessing.dataset import quality_filters as measure
from preprocessing.dataset.clips import CLIP_FPS, ClipDraft, encode
from preprocessing.dataset.quality_filters import QualityFilters, QualityMeasures, failed_filters
from preprocessing.dataset.segmentation import FRAME_SAMPLES, cut_run, face_runs, frames_with_audio
from preprocessing.faces.crops import CropGeometry, crop
from preprocessing.faces.face_track import FaceTrack

MIN_SIZE = 48  # pixels: minimum side of a stored square
SIDE_STEP = 8  # sides are multiples of this, so a margin of one eighth is a whole number
MIN_RUN = 5  # frames; shorter face runs are not recorded


@dataclass
class ClipCandidate:
    """A segment of one person that may become a clip.

    Attributes:
        person: index of the person in the video, from 0.
        number: index among this person's candidates.
        first, last: the segment [first, last) in video frames.
        track: the face track of the segment, in video pixels.
        size: side of the stored square in pixels.
        reasons: the quality filters it fails.
        clip: path relative to the clip folder, "" until it is written.
    """

    person: int
    number: int
    first: int
    last: int
    track: FaceTrack
    size: int = 0
    measures: QualityMeasures = field(default_factory=QualityMeasures)
    audio_sha256: str = ""
    reasons: list[str] = field(default_factory=list)
    clip: str = ""

    @property
    def frames(self) -> int:
        return self.last - self.first

    def shorten(self, start: int, stop: int) -> None:
        """Keeps only the frames [start, stop), relative to the start of the segment."""
        self.first, self.last = self.first + start, self.first + stop
        self.track = _part(self.track, start, stop)


@dataclass
class ClipAudio:
    """A video's audio.

    Attributes:
        samples: (n,) int16 on disk.
        flags: (T,) bool, speech, one flag per mel column.
        hop: samples per mel column.
    """

    samples: np.ndarray
    flags: np.ndarray
    hop: int

    def segment(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Audio of the frames [first, last), padded with silence: (frames * 640,) samples and their speech flags."""
        samples = self.samples[first * FRAME_SAMPLES : last * FRAME_SAMPLES]
        samples = np.pad(samples, (0, (last - first) * FRAME_SAMPLES - len(samples)))
        columns = 1 + len(samples) // self.hop
        start = round(first * FRAME_SAMPLES / self.hop)
        flags = self.flags[start : start + columns]
        return samples, np.pad(flags, (0, columns - len(flags)))


def cut_tracks(tracks: Sequence[FaceTrack], audio: ClipAudio, filters: QualityFilters) -> list[ClipCandidate]:
    """Cuts each person's face runs into candidates; runs that are too short become candidates with a reason."""
    found = []
    for person, track in enumerate(tracks):
        pieces: list[tuple[int, int, bool]] = []
        for first, last in face_runs(track, frames_with_audio(len(track), len(audio.samples))):
            if last - first < filters.min_seconds * CLIP_FPS:
                pieces += [(first, last, True)] * (last - first >= MIN_RUN)
            else:
                cuts = cut_run(first, last, audio.samples, filters.min_seconds, filters.max_seconds)
                pieces += [(first, last, False) for first, last in cuts]
        for number, (first, last, short) in enumerate(pieces):
            reasons = ["seconds"] if short else []
            found.append(ClipCandidate(person, number, first, last, _part(track, first, last), reasons=reasons))
    return sorted(found, key=lambda candidate: (candidate.first, candidate.person))


def _part(track: FaceTrack, first: int, last: int) -> FaceTrack:
    part = slice(first, last)
    return FaceTrack(
        track.boxes[part], track.points[part], track.found[part], track.shot[part], track.size, track.fps
    )  # fmt: skip


def measure_track(candidate: ClipCandidate, audio: ClipAudio, filters: QualityFilters) -> None:
    """Takes the measures that need no pixels and records the failed filters."""
    boxes, points, size = candidate.track.boxes, candidate.track.points, candidate.track.size
    assert size is not None
    samples, flags = audio.segment(candidate.first, candidate.last)
    candidate.measures = QualityMeasures(
        side=measure.side(boxes),
        yaw=measure.percentile_90(measure.yaws(points)),
        roll=measure.percentile_90(measure.rolls(points)),
        missing=measure.missing(points, size),
        speech=measure.speech(flags),
        level=measure.level(samples, flags, audio.hop),
        clipped=measure.clipped(samples),
    )
    candidate.audio_sha256 = hashlib.sha256(samples.tobytes()).hexdigest()
    candidate.reasons = candidate.reasons or failed_filters(candidate.measures, filters)


def stored_size(points: np.ndarray, size: int, max_upscale: float) -> int:
    """Side of the stored square: `size`, or less if faces (N, 5, 2) would be upscaled by more than `max_upscale`."""
    square = CropGeometry("points", 1)
    scales = [np.sqrt(np.linalg.det(square.matrix(np.empty(4), face, (1, 1))[:, :2])) for face in points]
    largest = max_upscale / max(float(np.median(scales)), 1e-6)
    return min(size, max(MIN_SIZE, int(largest) // SIDE_STEP * SIDE_STEP))


@dataclass
class CandidateDraft:
    """A clip whose frames are being collected."""

    candidate: ClipCandidate
    margin: int
    quality: int
    clip: ClipDraft = field(default_factory=ClipDraft)
    sharpness: list[float] = field(default_factory=list)
    lower_faces: list[np.ndarray] = field(default_factory=list)

    def add(self, frame: np.ndarray) -> None:
        """Crops, measures and encodes the next frame (H, W, 3)."""
        track, size, index = self.candidate.track, self.candidate.size, len(self.clip.jpegs)
        matrix = CropGeometry("points", size).matrix(track.boxes[index], track.points[index], frame.shape[1::-1])
        matrix[:, 2] += self.margin
        face = crop(frame, matrix, size + 2 * self.margin)
        square = face[self.margin : self.margin + size, self.margin : self.margin + size]
        self.sharpness.append(measure.sharpness(square))
        self.lower_faces.append(measure.lower_face(square))
        self.clip.add(encode(face, self.quality))

    def measure_frames(self, audio: ClipAudio, filters: QualityFilters) -> None:
        """Takes the measures of the complete clip. Outlier frames at either end (fades, for example) are cut off."""
        candidate, yaws = self.candidate, measure.yaws(self.candidate.track.points)
        flags = measure.outlier_frames(np.stack(self.lower_faces), yaws)
        own = np.flatnonzero(~flags)
        if len(own) and own[-1] + 1 - own[0] >= filters.min_seconds * CLIP_FPS:
            kept = slice(int(own[0]), int(own[-1]) + 1)
            flags, self.sharpness, self.clip.jpegs = flags[kept], self.sharpness[kept], self.clip.jpegs[kept]
            candidate.shorten(kept.start, kept.stop)
            measure_track(candidate, audio, filters)
        candidate.measures.sharpness = float(np.median(self.sharpness))
        candidate.measures.occluded = float(flags.mean())
        candidate.reasons = failed_filters(candidate.measures, filters)
