"""The people in a video: faces looked for on key frames, each followed in a slot of its own, none across a cut."""

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

NOISE_TO_DRIFT = 0.15  # seconds: a detector's noise over what a face drifts in head coordinates each second
# Shares of the smaller box. Heads side by side stay below the first, a second detection of one face above it; beyond
# the second the flow of the face behind begins to follow the one in front.
MAX_OVERLAP_TO_BEGIN, MAX_OVERLAP = 0.15, 0.3


class MultiFaceTracker:
    """Follows up to `max_faces` people through frames that are pushed one by one. Memory is constant.

    Each is followed in one of as many slots. A slot that is free takes up the face that `select` names among those
    that nobody follows. It never goes from one person to another without a frame in which it holds nobody, or a cut.

    Args:
        detector: who finds faces; asked for one reduced frame at a time, and once at most, however many are followed.
        max_faces: people followed at the same time.
        select: who is followed, from a shot's start or when nobody was for max_gap: largest, left, right, center, or
            the face nearest to the point 'X,Y' (pixels).
        face_id: follow the n-th face instead, from 0 in order of appearance, over the whole video; for one slot only.
        every: frames from one look to the next, 1 for a look at each; where the flow fails or a followed face is
            missing, the next frame is looked at anyway.
        detect_side: pixels of the longer side of the frames the detector is given.
        max_gap: seconds a face may be lost before it is given up; shorter gaps are filled.
        smooth: seconds, the standard deviation of the smoothing; 0 for none.
        fps: frames per second.

    Raises:
        UsageError: an option is out of its range.
    """

    def __init__(
        self,
        detector: FaceDetector,
        *,
        max_faces: int = 1,
        select: str = "largest",
        face_id: int | None = None,
        every: int = 5,
        detect_side: int = 640,
        max_gap: float = 0.5,
        smooth: float = 0.16,
        fps: float = 25.0,
    ) -> None:
        if every < 1 or detect_side < 32 or max_gap < 0 or smooth < 0 or fps <= 0 or (face_id or 0) < 0:
            raise UsageError(
                "tracking needs every >= 1, detect_side >= 32, max_gap >= 0, smooth >= 0, fps > 0 and face_id >= 0"
            )
        if max_faces < 1 or (face_id is not None and max_faces > 1):
            raise UsageError("tracking needs max_faces >= 1, and max_faces = 1 with a face_id")
        self._detector, self._every, self._side = detector, every, detect_side
        self._select, self._face_id = parse_select(select), face_id
        gap, sigma = max(every, round(max_gap * fps)), max(smooth * fps, 0.8 * every) if smooth else 0.0
        self._slots = [FaceTrackFilter(every, gap, sigma, (NOISE_TO_DRIFT * fps) ** 2) for _ in range(max_faces)]
        self._ready: list[deque[tuple[np.ndarray | None, int]]] = [deque() for _ in range(max_faces)]
        self.max_lag = AHEAD + self._slots[0].lag
        """Frames that the faces given back may be behind the frames pushed."""
        self.size: tuple[int, int] | None = None
        """Width and height of the frames, from the first push on."""
        self._roster, self._cuts = IdentityAssigner(gap), SceneCutDetector()
        self._waiting: deque[np.ndarray] = deque()
        self._scale = np.ones(2)
        self._grey: np.ndarray = np.zeros((1, 1), np.uint8)
        self._index = self._looked = self._given = 0

    def push(self, frame: np.ndarray) -> list[list[TrackedFace]]:
        """Takes the next frame, uint8 BGR (H, W, 3); gives the frames that are final now, in order: a face a slot."""
        size = (frame.shape[1], frame.shape[0])
        if self.size not in (None, size):
            raise UsageError(f"frames of one size are needed, not {size} after {self.size}")
        small = reduce_frame(frame, self._side)
        self.size, self._scale = size, np.array([size[0] / small.shape[1], size[1] / small.shape[0]])
        self._waiting.append(small)
        verdict = self._cuts.push(small)
        if verdict is not None:
            self._advance(self._waiting.popleft(), verdict)
        return self._release()

    def finish(self) -> list[list[TrackedFace]]:
        """The frames that are still open, after the last push."""
        for verdict in self._cuts.finish():
            self._advance(self._waiting.popleft(), verdict)
        return self._release(finish=True)

    def _advance(self, frame: np.ndarray, cut: bool) -> None:
        """One frame, in order, with the verdict on it."""
        grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        if cut:
            self._roster.new_shot()
        for slot in self._slots:
            slot.carry(self._grey, grey, cut)
        self._part()
        self._grey = grey
        if cut or self._index == 0 or self._due():
            self._look(frame)
        self._index += 1

    def _part(self) -> None:
        """Gives up faces that have come to cover each other: whose is whose could no longer be told.

        Of two whose sizes differ as one person's never would, only the smaller, which is farther away.
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
        """Whether to ask the detector: at once when a followed face is out of sight, else now and then."""
        followed = any(slot.face is not None for slot in self._slots)
        wait = self._every if followed else (self._every + 1) // 2
        return any(slot.urgent for slot in self._slots) or self._index - self._looked >= wait

    def _look(self, frame: np.ndarray) -> None:
        """Asks the detector; every path may meet its face, and every free slot take one up."""
        self._looked = self._index
        faces = [_as_face(found) for found in self._detector([frame])[0]]
        followed = [(slot, slot.face) for slot in self._slots if slot.face is not None]
        for slot, face in followed:
            self._roster.move(slot.person, _box(face))
        numbers = self._roster.update(self._index, [_box(face) for face in faces])
        for slot, _ in followed:
            slot.meet(faces, numbers)
        for slot in self._slots:
            if slot.face is None:
                self._begin(slot, faces, numbers, (frame.shape[1], frame.shape[0]))

    def _begin(self, slot: FaceTrackFilter, faces: list[np.ndarray], numbers: list[int], size: tuple[int, int]) -> None:
        """Takes up the face that was asked for, if it is there, is nobody else's, and the slot may."""
        free = [i for i in range(len(faces)) if slot.may_begin(numbers[i]) and self._is_free(faces[i], numbers[i])]
        if self._face_id is not None:
            chosen = [i for i in free if numbers[i] == self._face_id]
        else:
            select = self._select if isinstance(self._select, str) else np.asarray(self._select) / self._scale
            best = choose([_box(faces[i]) for i in free], select, size)
            chosen = [free[best]] if best >= 0 else []
        for i in chosen:
            slot.begin(faces[i], numbers[i])

    def _is_free(self, face: np.ndarray, number: int) -> bool:
        """Whether no slot follows that face."""
        return not any(
            slot.person == number or overlap(_box(face), _box(slot.face)) > MAX_OVERLAP_TO_BEGIN
            for slot in self._slots
            if slot.face is not None
        )

    def _release(self, finish: bool = False) -> list[list[TrackedFace]]:
        """The frames that are final in every slot."""
        for slot, ready in zip(self._slots, self._ready, strict=True):
            ready.extend(slot.release(finish))
        count = min(map(len, self._ready))
        self._given += count
        return [
            [self._tracked(index, *ready.popleft()) for ready in self._ready]
            for index in range(self._given - count, self._given)
        ]

    def _tracked(self, index: int, face: np.ndarray | None, shot: int) -> TrackedFace:
        """A face of the reduced frames in the pixels of the frames given: edges for the box, centres for the points."""
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
    """The followed faces of each frame, one a slot, in order, a bounded number of frames late; options as MultiFaceTracker's."""
    crowd = MultiFaceTracker(detector, max_faces=max_faces, **options)  # type: ignore[arg-type]
    for frame in frames:
        yield from crowd.push(frame)
    yield from crowd.finish()


def track_faces(
    frames: Iterable[np.ndarray], detector: FaceDetector, *, max_faces: int, **options: object
) -> list[FaceTrack]:  # fmt: skip
    """The whole path of each slot through the frames; options as MultiFaceTracker's.

    A slot may hold one person and later another; between them lies a frame without a face or the start of a shot.
    """
    crowd = MultiFaceTracker(detector, max_faces=max_faces, **options)  # type: ignore[arg-type]
    records = [_Record() for _ in range(max_faces)]
    for frame in frames:
        _write(records, crowd.push(frame))
    _write(records, crowd.finish())
    return [record.track(crowd.size) for record in records]


class _Record:
    """A track that grows frame by frame, 61 bytes each, so that hours of it are small."""

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
    """The followed face of each frame, in order, a bounded number of frames late; options as MultiFaceTracker's."""
    for (face,) in stream_face_tracks(frames, detector, max_faces=1, **options):
        yield face


def track_face(frames: Iterable[np.ndarray], detector: FaceDetector, **options: object) -> FaceTrack:
    """The whole path of one face through the frames; options as MultiFaceTracker's."""
    (track,) = track_faces(frames, detector, max_faces=1, **options)
    return track
