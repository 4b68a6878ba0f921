"""Multi-face tracking: detection on keyframes, one slot per face, never across a cut."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import combinations

import cv2
import numpy as np

from preprocessing.errors import UsageError
from preprocessing.faces.face_track import (
    Detection,
    FaceDetector,
    FaceTrack,
    TrackedFace,
    estimate_points,
    reduce_frame,
)
from preprocessing.faces.identity import MAX_GROWTH, IdentityAssigner, choose, overlap, parse_select
from preprocessing.faces.optical_flow import face_side
from preprocessing.faces.scene_cuts import AHEAD, SceneCutDetector
from preprocessing.faces.track_filter import FaceTrackFilter

NOISE_TO_DRIFT = 0.15  # seconds: detector noise divided by drift per second in head coordinates
# Overlap relative to the smaller box. Adjacent heads stay below the first, duplicate detections exceed it; beyond
# the second, the flow of the occluded face starts to follow the one in front.
MAX_OVERLAP_TO_BEGIN, MAX_OVERLAP = 0.15, 0.3


class MultiFaceTracker:
    """Tracks up to `max_faces` people through frames pushed one by one, in constant memory.

    Each person occupies one slot. A free slot takes the untracked face that `select` prefers. A slot never switches
    from one person to another without an empty frame or a cut in between.

    Args:
        detector: face detector; called with one reduced frame at a time, at most once per frame.
        max_faces: maximum number of people tracked at once.
        select: which face to track at the start of a shot or after max_gap without one: largest, left, right,
            center, or the face nearest to the point 'X,Y' (pixels).
        every: frames between detector runs, 1 for every frame; if the flow fails or a tracked face is missing, the
            detector also runs on the next frame.
        detect_side: longer side, in pixels, of the frames passed to the detector.
        max_gap: seconds without a detection before a track is dropped; shorter gaps are filled.
        smooth: seconds, the standard deviation of the smoothing; 0 for none.
        fps: frames per second.

    Raises:
        UsageError: an option is out of range.
    """

    def __init__(
        self,
        detector: FaceDetector,
        *,
        max_faces: int = 1,
        select: str = "largest",
        every: int = 5,
        detect_side: int = 640,
        max_gap: float = 0.5,
        smooth: float = 0.16,
        fps: float = 25.0,
    ) -> None:
        if every < 1 or detect_side < 32 or max_gap < 0 or smooth < 0 or fps <= 0:
            raise UsageError("tracking needs every >= 1, detect_side >= 32, max_gap >= 0, smooth >= 0 and fps > 0")
        if max_faces < 1:
            raise UsageError(f"tracking needs max_faces >= 1, not {max_faces}")
        self._detector, self._every, self._side = detector, every, detect_side
        self._select = parse_select(select)
        gap, sigma = max(every, round(max_gap * fps)), max(smooth * fps, 0.8 * every) if smooth else 0.0
        self._slots = [FaceTrackFilter(every, gap, sigma, (NOISE_TO_DRIFT * fps) ** 2) for _ in range(max_faces)]
        self._ready: list[deque[tuple[np.ndarray | None, int]]] = [deque() for _ in range(max_faces)]
        self.max_lag = AHEAD + self._slots[0].lag
        """Maximum delay, in frames, between pushed frames and returned faces."""
        self.size: tuple[int, int] | None = None
        """Width and height of the frames, from the first push on."""
        self._identities, self._cuts = IdentityAssigner(gap), SceneCutDetector()
        self._waiting: deque[np.ndarray] = deque()
        self._scale = np.ones(2)
        self._gray: np.ndarray = np.zeros((1, 1), np.uint8)
        self._index = self._last_detected = self._given = 0

    def push(self, frame: np.ndarray) -> list[list[TrackedFace]]:
        """Pushes the next frame, uint8 BGR (H, W, 3); returns the faces that are now final, per frame one per slot."""
        size = (frame.shape[1], frame.shape[0])
        if self.size not in (None, size):
            raise UsageError(f"all frames must have the same size, not {size} after {self.size}")
        small = reduce_frame(frame, self._side)
        self.size, self._scale = size, np.array([size[0] / small.shape[1], size[1] / small.shape[0]])
        self._waiting.append(small)
        is_cut = self._cuts.push(small)
        if is_cut is not None:
            self._advance(self._waiting.popleft(), is_cut)
        return self._release()

    def finish(self) -> list[list[TrackedFace]]:
        """Returns the remaining faces after the last push."""
        for is_cut in self._cuts.finish():
            self._advance(self._waiting.popleft(), is_cut)
        return self._release(finish=True)

    def _advance(self, frame: np.ndarray, cut: bool) -> None:
        """Processes one frame; `cut` tells whether it starts a shot."""
        gray = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        if cut:
            self._identities.new_shot()
        for slot in self._slots:
            slot.carry(self._gray, gray, cut)
        self._drop_overlapping()
        self._gray = gray
        if cut or self._index == 0 or self._due():
            self._detect(frame)
        self._index += 1

    def _drop_overlapping(self) -> None:
        """Drops faces that overlap, since their identities become ambiguous.

        If their sizes differ too much for a swap, only the smaller, farther one is dropped.
        """
        faces = [(slot, slot.face) for slot in self._slots if slot.face is not None]
        for (one, face), (other, rival) in combinations(faces, 2):
            if overlap(_box(face), _box(rival)) > MAX_OVERLAP:
                growth = face_side(face) / face_side(rival)
                if growth < MAX_GROWTH:
                    one.drop()
                if 1 / growth < MAX_GROWTH:
                    other.drop()

    def _due(self) -> bool:
        """Whether to run the detector: immediately if a tracked face is lost, else periodically."""
        followed = any(slot.face is not None for slot in self._slots)
        wait = self._every if followed else (self._every + 1) // 2
        return any(slot.urgent for slot in self._slots) or self._index - self._last_detected >= wait

    def _detect(self, frame: np.ndarray) -> None:
        """Runs the detector, updates every track, and starts tracks in free slots."""
        self._last_detected = self._index
        faces = [_as_face(found) for found in self._detector([frame])[0]]
        followed = [(slot, slot.face) for slot in self._slots if slot.face is not None]
        for slot, face in followed:
            self._identities.move(slot.person, _box(face))
        numbers = self._identities.update(self._index, [_box(face) for face in faces])
        for slot, _ in followed:
            slot.meet(faces, numbers)
        for slot in self._slots:
            if slot.face is None:
                self._begin(slot, faces, numbers, (frame.shape[1], frame.shape[0]))

    def _begin(self, slot: FaceTrackFilter, faces: list[np.ndarray], numbers: list[int], size: tuple[int, int]) -> None:
        """Starts a track of the selected face if it is present, untracked and allowed in this slot."""
        free = [i for i in range(len(faces)) if slot.may_begin(numbers[i]) and self._is_free(faces[i], numbers[i])]
        select = self._select if isinstance(self._select, str) else np.asarray(self._select) / self._scale
        best = choose([_box(faces[i]) for i in free], select, size)
        if best >= 0:
            slot.begin(faces[free[best]], numbers[free[best]])

    def _is_free(self, face: np.ndarray, number: int) -> bool:
        """Whether no slot tracks that face."""
        return not any(
            slot.person == number or overlap(_box(face), _box(slot.face)) > MAX_OVERLAP_TO_BEGIN
            for slot in self._slots
            if slot.face is not None
        )

    def _release(self, finish: bool = False) -> list[list[TrackedFace]]:
        """Returns the frames that are final in every slot."""
        for slot, ready in zip(self._slots, self._ready, strict=True):
            ready.extend(slot.release(finish))
        count = min(map(len, self._ready))
        self._given += count
        return [
            [self._tracked(index, *ready.popleft()) for ready in self._ready]
            for index in range(self._given - count, self._given)
        ]

    def _tracked(self, index: int, face: np.ndarray | None, shot: int) -> TrackedFace:
        """Scales a face from the reduced frame to input pixels: edges for the box, centers for the points."""
        if face is None:
            nothing = np.full((7, 2), np.nan, np.float32)
            return TrackedFace(index, nothing[:2].ravel(), nothing[2:], False, shot)
        box, points = face[:2] * self._scale, (face[2:] + 0.5) * self._scale - 0.5
        return TrackedFace(index, box.ravel().astype(np.float32), points.astype(np.float32), True, shot)


def _as_face(found: Detection) -> np.ndarray:
    points = estimate_points(found.box) if found.points is None else found.points
    return np.vstack([found.box.reshape(2, 2), points]).astype(np.float64)


def _box(face: np.ndarray) -> np.ndarray:
    return face[:2].ravel()


def stream_face_tracks(
    frames: Iterable[np.ndarray], detector: FaceDetector, *, max_faces: int = 1, **options: object
) -> Iterator[list[TrackedFace]]:  # fmt: skip
    """Yields the tracked faces of each frame, one per slot, with bounded delay; options as for MultiFaceTracker."""
    tracker = MultiFaceTracker(detector, max_faces=max_faces, **options)  # type: ignore[arg-type]
    for frame in frames:
        yield from tracker.push(frame)
    yield from tracker.finish()


def track_faces(
    frames: Iterable[np.ndarray], detector: FaceDetector, *, max_faces: int, **options: object
) -> list[FaceTrack]:  # fmt: skip
    """Tracks each slot through all frames; options as for MultiFaceTracker.

    A slot may be reused by another person, after a frame without a face or at a new shot.
    """
    tracker = MultiFaceTracker(detector, max_faces=max_faces, **options)  # type: ignore[arg-type]
    records = [_Record() for _ in range(max_faces)]
    for frame in frames:
        _write(records, tracker.push(frame))
    _write(records, tracker.finish())
    return [record.track(tracker.size) for record in records]


class _Record:
    """A track stored frame by frame at 61 bytes each, so hours of video fit in memory."""

    def __init__(self) -> None:
        self._boxes, self._points, self._found, self._shot = array("f"), array("f"), array("b"), array("i")

    def add(self, face: TrackedFace) -> None:
        self._boxes.frombytes(face.box.tobytes())
        self._points.frombytes(face.points.tobytes())
        self._found.append(face.found)
        self._shot.append(face.shot)

    def track(self, size: tuple[int, int] | None) -> FaceTrack:
        boxes = np.array(self._boxes, np.float32).reshape(-1, 4)
        points = np.array(self._points, np.float32).reshape(-1, 5, 2)
        return FaceTrack(boxes, points, np.array(self._found, bool), np.array(self._shot, np.int32), size)


def _write(records: list[_Record], frames: list[list[TrackedFace]]) -> None:
    for faces in frames:
        for record, face in zip(records, faces, strict=True):
            record.add(face)


def stream_face_track(frames: Iterable[np.ndarray], detector: FaceDetector, **options: object) -> Iterator[TrackedFace]:
    """Yields the tracked face of each frame, in order, with bounded delay; options as for MultiFaceTracker."""
    for (face,) in stream_face_tracks(frames, detector, max_faces=1, **options):
        yield face


def track_face(frames: Iterable[np.ndarray], detector: FaceDetector, **options: object) -> FaceTrack:
    """Tracks one face through all frames; options as for MultiFaceTracker."""
    (track,) = track_faces(frames, detector, max_faces=1, **options)
    return track
