"""One person followed through a video: looked for on key frames, carried between them, smoothed, never across a cut.

Every found face is brought, by the motion of the head since then, into coordinates that move with the head. There it
hardly changes but for the detector's noise, so it is smoothed there, over many frames, without lagging behind.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np

from preprocessing.faces import Detection, FaceDetector, FaceTrack, TrackedFace, estimate_points, reduce_frame
from preprocessing.motion import Motion, between, face_side, head_motion, smoothed
from preprocessing.people import Roster, choose, parse_select
from preprocessing.shots import AHEAD, CutFinder

MAX_DOUBT = 0.25  # of the face's side: a detection farther than this from where the flow puts the face needs a second
NOISE_TO_DRIFT = 0.15  # seconds: a detector's noise over what a face drifts in head coordinates each second


@dataclass
class _Step:
    """One frame of the path, in reduced pixels.

    run: numbers the unbroken stretches of one person, 0 where nobody is followed; motion: from the first frame of the
    run to this one; key: the accepted detection in the coordinates of the run's first frame; blind: the flow did not
    find the head's motion to this frame.
    """

    shot: int
    run: int = 0
    motion: Motion = field(default_factory=Motion)
    key: np.ndarray | None = None
    blind: bool = False


class FaceTracker:
    """Follows one face through frames that are pushed one by one. Memory is constant.

    Args:
        detector: who finds faces; asked for one reduced frame at a time.
        select: who is followed, from a shot's start or when nobody was for max_gap: largest, left, right, center, or
            the face nearest to the point 'X,Y' (pixels).
        face_id: follow the n-th face instead, from 0 in order of appearance, over the whole video.
        every: frames from one look to the next, 1 for a look at each; where the flow fails or the face is missing, the
            next frame is looked at anyway.
        detect_side: pixels of the longer side of the frames the detector is given.
        max_gap: seconds a face may be lost before it is given up; shorter gaps are filled.
        smooth: seconds, the standard deviation of the smoothing; 0 for none.
        fps: frames per second.

    Raises:
        ValueError: an option is out of its range.
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
        if every < 1 or detect_side < 32 or max_gap < 0 or smooth < 0 or fps <= 0 or (face_id or 0) < 0:
            raise ValueError(
                "tracking needs every >= 1, detect_side >= 32, max_gap >= 0, smooth >= 0, fps > 0 and face_id >= 0"
            )
        self._detector, self._every, self._side = detector, every, detect_side
        self._select, self._face_id = parse_select(select), face_id
        self._max_gap = max(every, round(max_gap * fps))
        self._sigma = max(smooth * fps, 0.8 * every) if smooth else 0.0
        self._radius = round(2 * self._sigma)
        self._stiffness = (NOISE_TO_DRIFT * fps) ** 2
        self.max_lag = AHEAD + self._max_gap + every + self._radius
        """Frames that the faces given back may be behind the frames pushed."""
        self._roster, self._cuts = Roster(self._max_gap), CutFinder()
        self._waiting: deque[np.ndarray] = deque()
        self.size: tuple[int, int] | None = None
        """Width and height of the frames, from the first push on."""
        self._scale = np.ones(2)
        self._grey: np.ndarray | None = None
        self._path: deque[_Step] = deque()
        self._start = self._index = self._released = self._settled = self._closed = 0
        self._shot = self._run = 0
        self._face: np.ndarray | None = None
        self._doubt: np.ndarray | None = None
        self._person = -1
        self._seen = self._since = self._looked = 0
        self._missing = self._blind = False

    def push(self, frame: np.ndarray) -> list[TrackedFace]:
        """Takes the next frame, uint8 BGR (H, W, 3); gives the faces that are final now, in order."""
        size = (frame.shape[1], frame.shape[0])
        if self.size not in (None, size):
            raise ValueError(f"frames of one size are needed, not {size} after {self.size}")
        small = reduce_frame(frame, self._side)
        self.size, self._scale = size, np.array([size[0] / small.shape[1], size[1] / small.shape[0]])
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
        """One frame, in order, with the verdict on it."""
        grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        if cut:
            self._new_shot()
        self._path.append(_Step(self._shot))
        if self._face is not None:
            self._carry(grey)
        self._grey = grey
        if cut or self._index == 0 or self._due():
            self._look(frame)
        self._index += 1
        if self._face is None:
            self._settled = self._index

    def _due(self) -> bool:
        """Whether to ask the detector: at once when the face is out of sight, else now and then."""
        wait = self._every if self._face is not None else (self._every + 1) // 2
        return self._missing or self._path[-1].blind or self._index - self._looked >= wait

    def _new_shot(self) -> None:
        self._lose()
        self._roster.new_shot()
        self._shot += 1
        self._closed = self._index

    def _lose(self) -> None:
        """Gives the followed face up; what the flow carried on counts until the next look was due."""
        end = self._start + len(self._path)
        if self._face is not None:
            unseen = range(self._seen + 1, end)
            last = next((index for index in unseen if self._step(index).blind), self._seen + self._every)
            for index in range(min(last, self._seen + self._every), end):
                self._step(index).run = 0
        self._face = self._doubt = None
        self._missing = self._blind = False
        self._settled = end

    def _step(self, index: int) -> _Step:
        return self._path[index - self._start]

    def _carry(self, grey: np.ndarray) -> None:
        """Moves the followed face on from the frame before."""
        assert self._face is not None
        assert self._grey is not None
        moved = head_motion(self._grey, grey, self._face)
        self._blind = self._blind or moved is None
        motion = moved or Motion()
        self._face = motion.move(self._face)
        step = self._path[-1]
        step.run, step.motion = self._run, motion.after(self._step(self._index - 1).motion)
        step.blind = moved is None

    def _look(self, frame: np.ndarray) -> None:
        """Asks the detector, and lets the path meet the followed face if it is there."""
        self._looked = self._index
        faces = [_as_face(found) for found in self._detector([frame])[0]]
        if self._face is not None:
            self._roster.move(self._person, self._face[:2].ravel())
        numbers = self._roster.update(self._index, [face[:2].ravel() for face in faces])
        met = self._face is not None and self._person in numbers and self._meet(faces[numbers.index(self._person)])
        if self._face is not None and not met:
            self._missing = self._person not in numbers
            # Who was followed but briefly, perhaps by mistake, is waited for as briefly.
            if self._index - self._seen >= min(self._max_gap, max(self._every, self._seen - self._since)):
                self._lose()
        if self._face is None:
            self._begin(faces, numbers, (frame.shape[1], frame.shape[0]))

    def _begin(self, faces: list[np.ndarray], numbers: list[int], size: tuple[int, int]) -> None:
        """Takes up the face that was asked for, if it is there."""
        if self._face_id is not None:
            chosen = numbers.index(self._face_id) if self._face_id in numbers else -1
        else:
            select = self._select if isinstance(self._select, str) else np.asarray(self._select) / self._scale
            chosen = choose([face[:2].ravel() for face in faces], select, size)
        if chosen >= 0:
            self._person = numbers[chosen]
            self._run, self._since = self._run + 1, self._index
            self._path[-1].run = self._run
            self._accept(faces[chosen])

    def _meet(self, face: np.ndarray) -> bool:
        """Accepts a detection of the followed face, unless it alone says that the face has jumped."""
        assert self._face is not None
        near = _distance(face, self._face) <= MAX_DOUBT
        confirmed = self._doubt is not None and _distance(face, self._doubt) <= MAX_DOUBT
        if not (near or self._blind or confirmed):
            self._doubt = face
            return False
        if not near:
            self._bridge(face - self._face)
        self._accept(face)
        return True

    def _bridge(self, missed: np.ndarray) -> None:
        """Spreads the motion that the flow has missed evenly over the frames since the last accepted detection."""
        shift = complex(*missed.mean(axis=0)) / (self._index - self._seen)
        for index in range(self._seen + 1, self._index + 1):
            step = self._step(index)
            step.motion = Motion(shift=shift * (index - self._seen)).after(step.motion)

    def _accept(self, face: np.ndarray) -> None:
        self._face = face
        self._path[-1].key = self._path[-1].motion.inverse().move(face)
        self._seen, self._settled = self._index, self._index + 1
        self._doubt, self._missing, self._blind = None, False, False

    def _release(self, until: int) -> list[TrackedFace]:
        """The final faces of the frames before `until`, and of every closed shot."""
        until = max(until, self._closed, self._released)
        done = [self._final(index) for index in range(self._released, until)]
        self._released = until
        while self._start < self._released - self._radius - self._max_gap:
            self._path.popleft()
            self._start += 1
        return done

    def _final(self, index: int) -> TrackedFace:
        step = self._step(index)
        if not step.run:
            nothing = np.full((7, 2), np.nan, np.float32)
            return TrackedFace(index, nothing[:2].ravel(), nothing[2:], False, step.shot)
        face = step.motion.move(self._smoothed(index))
        box, points = face[:2] * self._scale, (face[2:] + 0.5) * self._scale - 0.5  # edges; centres of pixels
        return TrackedFace(index, box.ravel().astype(np.float32), points.astype(np.float32), True, step.shot)

    def _smoothed(self, index: int) -> np.ndarray:
        """The face in frame `index`, in the coordinates of its run's first frame."""
        steps = self._keys(index)
        times = np.array([time for time, _ in steps], np.float64)
        keys = np.stack([step.key for _, step in steps if step.key is not None])
        if not self._sigma:
            return between(times, keys)
        # Where the flow fails, the coordinates do not move with the head, and the line must be free to follow it.
        spanned = range(index + steps[0][0] + 1, index + max(steps[-1][0], 0) + 1)
        stiffness = 1e-6 if any(self._step(i).blind for i in spanned) else self._stiffness
        return smoothed(times, keys, self._sigma, stiffness)

    def _keys(self, index: int) -> list[tuple[int, _Step]]:
        """The run's detections within the smoothing's reach, and at least the nearest on either side, by time."""
        run, steps = self._step(index).run, enumerate(self._path, self._start - index)
        keys = [(time, step) for time, step in steps if step.run == run and step.key is not None]
        earlier = max((time for time, _ in keys if time <= 0), default=0)
        later = min((time for time, _ in keys if time > 0), default=0)
        reach = range(min(-self._radius - self._every, earlier), max(self._radius, later) + 1)
        return [(time, step) for time, step in keys if time in reach]


def _as_face(found: Detection) -> np.ndarray:
    points = estimate_points(found.box) if found.points is None else found.points
    return np.vstack([found.box.reshape(2, 2), points]).astype(np.float64)


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """Mean distance of two faces' corners and points in units of the second one's side, or their change of size."""
    moved = float(np.linalg.norm(one - other, axis=1).mean()) / face_side(other)
    return max(moved, abs(math.log(face_side(one) / face_side(other))))


def follow(frames: Iterable[np.ndarray], detector: FaceDetector, **options: object) -> Iterator[TrackedFace]:
    """The followed face of each frame, in order, a bounded number of frames late; options as FaceTracker's."""
    tracker = FaceTracker(detector, **options)  # type: ignore[arg-type]
    for frame in frames:
        yield from tracker.push(frame)
    yield from tracker.finish()


def track_faces(frames: Iterable[np.ndarray], detector: FaceDetector, **options: object) -> FaceTrack:
    """The whole path of one face through the frames; options as FaceTracker's."""
    tracker = FaceTracker(detector, **options)  # type: ignore[arg-type]
    faces = [face for frame in frames for face in tracker.push(frame)] + tracker.finish()
    boxes = np.array([face.box for face in faces], np.float32).reshape(-1, 4)
    points = np.array([face.points for face in faces], np.float32).reshape(-1, 5, 2)
    found = np.array([face.found for face in faces], bool)
    shot = np.array([face.shot for face in faces], np.int32)
    return FaceTrack(boxes, points, found, shot, tracker.size)
