"""One person followed through a video: looked for on key frames, carried between them, smoothed, never across a cut."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from preprocessing.faces import Detection, FaceDetector, FaceTrack, estimate_points, reduce_frame
from preprocessing.motion import carry, face_side, smooth_at
from preprocessing.people import Roster, choose, parse_select
from preprocessing.shots import AHEAD, CutFinder

MAX_DOUBT = 0.25  # of the face's side: a detection farther than this from where the flow puts the face needs a second


@dataclass(frozen=True)
class TrackedFace:
    """The followed face in frame `index`: box float32 (4,) and points (5, 2), NaN when it was not found."""

    index: int
    box: np.ndarray
    points: np.ndarray
    found: bool
    shot: int


@dataclass
class _Step:
    """One frame's place on the path, in reduced pixels; `run` numbers the unbroken stretches of one person."""

    shot: int
    run: int = 0
    face: np.ndarray | None = None


class FaceTracker:
    """Follows one face through frames that are pushed one by one; see `follow` for the options.

    Memory is constant and the delay is at most `max_lag` frames.
    """

    def __init__(
        self,
        detector: FaceDetector,
        *,
        select: str = "largest",
        face_id: int | None = None,
        every: int = 5,
        detect_side: int = 640,
        max_gap: float = 0.5,
        smooth: float = 0.16,
        fps: float = 25.0,
    ) -> None:
        if every < 1 or detect_side < 32 or max_gap < 0 or smooth < 0 or fps <= 0:
            raise ValueError("every >= 1, detect_side >= 32, max_gap >= 0, smooth >= 0 and fps > 0 are needed")
        self._detector, self._every, self._side = detector, every, detect_side
        self._select, self._face_id = parse_select(select), face_id
        self._max_gap = max(every, round(max_gap * fps))
        self._radius = round(smooth * fps)
        self.max_lag = AHEAD + self._max_gap + every + self._radius
        self._roster = Roster(self._max_gap)
        self._cuts = CutFinder()
        self._waiting: deque[np.ndarray] = deque()
        self._scale: np.ndarray | None = None
        self._frame_shape: tuple[int, ...] = ()
        self._grey: np.ndarray | None = None
        self._path: deque[_Step] = deque()
        self._start = self._index = self._released = self._settled = self._closed = 0
        self._shot = self._run = 0
        self._face: np.ndarray | None = None
        self._person: int | None = None
        self._seen = self._looked = 0
        self._missing, self._blind = False, False
        self._doubt: np.ndarray | None = None

    def push(self, frame: np.ndarray) -> list[TrackedFace]:
        """Takes the next frame, uint8 BGR (H, W, 3); gives the faces that are final now, in order."""
        if self._scale is None:
            self._frame_shape = frame.shape
        elif frame.shape != self._frame_shape:
            raise ValueError(f"frames of one size are needed: {frame.shape} after {self._frame_shape}")
        small = reduce_frame(frame, self._side)
        self._scale = np.array([frame.shape[1] / small.shape[1], frame.shape[0] / small.shape[0]])
        self._waiting.append(small)
        verdict = self._cuts.push(small)
        if verdict is not None:
            self._advance(self._waiting.popleft(), verdict)
        return self._release(self._settled - self._radius)

    def finish(self) -> list[TrackedFace]:
        """The faces of the frames that are still open, after the last push."""
        for verdict in self._cuts.finish():
            self._advance(self._waiting.popleft(), verdict)
        self._lose()
        return self._release(self._index)

    def _advance(self, frame: np.ndarray, cut: bool) -> None:
        grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        if cut:
            self._new_shot()
        elif self._face is not None and self._grey is not None:
            carried = carry(self._grey, grey, self._face)
            self._blind = self._blind or carried is None
            self._face = self._face if carried is None else carried
        self._grey = grey
        self._path.append(_Step(self._shot, self._run, self._face))
        if cut or self._index == 0 or self._missing or self._index - self._looked >= self._every:
            self._look(frame)
        if self._face is not None and self._index - self._seen >= self._max_gap:
            self._lose()
        self._index += 1
        if self._face is None:
            self._settled = self._index

    def _new_shot(self) -> None:
        self._lose()
        self._roster.new_shot()
        self._shot += 1
        self._closed = self._index

    def _lose(self) -> None:
        """Gives the followed face up; what the flow carried on counts until the next look was due."""
        for index in range(max(self._seen + self._every, self._start), self._start + len(self._path)):
            if self._face is not None:
                self._path[index - self._start].face = None
        self._face = self._person = self._doubt = None
        self._missing = False
        self._settled = self._start + len(self._path)

    def _look(self, frame: np.ndarray) -> None:
        """Asks the detector, and lets the path meet the followed face if it is there."""
        self._looked = self._index
        faces = [self._as_face(found) for found in self._detector([frame])[0]]
        if self._person in self._roster.people and self._face is not None:
            self._roster.people[self._person].box = self._face[:2].ravel()
        numbers = self._roster.update(self._index, [face[:2].ravel() for face in faces])
        if self._face is None:
            self._begin(faces, numbers, (frame.shape[1], frame.shape[0]))
        elif self._person in numbers:
            self._meet(faces[numbers.index(self._person)])
        else:
            self._missing = True

    def _as_face(self, found: Detection) -> np.ndarray:
        points = found.points
        if points is None:
            points = estimate_points(found.box, getattr(self._detector, "kind", "tight"))
        return np.vstack([found.box.reshape(2, 2), points]).astype(np.float64)

    def _begin(self, faces: list[np.ndarray], numbers: list[int], size: tuple[int, int]) -> None:
        """Takes up the face that was asked for."""
        if self._face_id is not None:
            if self._face_id not in numbers:
                return
            chosen = numbers.index(self._face_id)
        elif faces:
            assert self._scale is not None
            select = self._select if isinstance(self._select, str) else tuple(np.asarray(self._select) / self._scale)
            chosen = choose(np.stack([face[:2].ravel() for face in faces]), select, size)
        else:
            return
        self._person = numbers[chosen]
        self._run += 1
        self._path[-1].run = self._run
        self._accept(faces[chosen])

    def _meet(self, face: np.ndarray) -> None:
        """Accepts a detection of the followed face, unless it alone says that the face has jumped."""
        assert self._face is not None
        self._missing = False
        near = _distance(face, self._face) <= MAX_DOUBT
        confirmed = self._doubt is not None and _distance(face, self._doubt) <= MAX_DOUBT
        if not (near or self._blind or confirmed):
            self._doubt = face
            return
        drift, frames = face - self._face, self._index - self._seen
        for index in range(max(self._seen + 1, self._start), self._index):
            step = self._path[index - self._start]
            assert step.face is not None
            step.face = step.face + drift * (index - self._seen) / frames
        self._accept(face)

    def _accept(self, face: np.ndarray) -> None:
        self._face = self._path[-1].face = face
        self._seen, self._settled = self._index, self._index + 1
        self._doubt, self._missing, self._blind = None, False, False

    def _release(self, until: int) -> list[TrackedFace]:
        """The final faces of the frames before `until`, and of every closed shot."""
        until = max(until, self._closed)
        done = [self._final(index) for index in range(self._released, until)]
        self._released = max(self._released, until)
        while self._start < self._released - self._radius:
            self._path.popleft()
            self._start += 1
        return done

    def _final(self, index: int) -> TrackedFace:
        step = self._path[index - self._start]
        if step.face is None or self._scale is None:
            nothing = np.full((7, 2), np.nan, np.float32)
            return TrackedFace(index, nothing[:2].ravel(), nothing[2:], False, step.shot)
        times, faces = self._neighbours(index)
        face = (smooth_at(times, faces, index, self._radius) * self._scale).astype(np.float32)
        return TrackedFace(index, face[:2].ravel(), face[2:], True, step.shot)

    def _neighbours(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Frame numbers and faces of the same run and shot within the smoothing's reach."""
        here = self._path[index - self._start]
        reach = range(max(index - self._radius, self._start), min(index + self._radius + 1, self._settled))
        steps = [(i, self._path[i - self._start]) for i in reach]
        same = [(i, s.face) for i, s in steps if s.face is not None and (s.run, s.shot) == (here.run, here.shot)]
        return np.array([i for i, _ in same]), np.stack([face for _, face in same])


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """Mean distance of two faces' corners and points, as a fraction of the face's side."""
    return float(np.linalg.norm(one - other, axis=1).mean()) / face_side(other)


def follow(frames: Iterable[np.ndarray], detector: FaceDetector, **options: object) -> Iterator[TrackedFace]:
    """The followed face of each frame, in order, a bounded number of frames late. Options are FaceTracker's."""
    tracker = FaceTracker(detector, **options)  # type: ignore[arg-type]
    for frame in frames:
        yield from tracker.push(frame)
    yield from tracker.finish()


def track_faces(frames: Iterable[np.ndarray], detector: FaceDetector, **options: object) -> FaceTrack:
    """The whole path of one face through the frames. Options are FaceTracker's."""
    faces = list(follow(frames, detector, **options))
    boxes = np.array([face.box for face in faces], np.float32).reshape(-1, 4)
    points = np.array([face.points for face in faces], np.float32).reshape(-1, 5, 2)
    found = np.array([face.found for face in faces], bool)
    return FaceTrack(boxes, points, found, np.array([face.shot for face in faces], np.int32))
