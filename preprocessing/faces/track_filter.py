"""Tracks one face: optical flow between detections, then smoothing in head coordinates.

Detections are mapped into coordinates that move with the head. There they vary only by detector noise, so they can
be smoothed over many frames without lag.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from preprocessing.faces.optical_flow import HeadMotion, between, face_side, head_motion, smoothed

MAX_DOUBT = 0.25  # of the face's side: a detection farther from the flow's prediction needs a second to confirm it


@dataclass
class _Step:
    """One frame of the track.

    run: numbers the unbroken stretches of one person, 0 where no face is tracked; motion: from the first frame of the
    run to this one; key: the accepted detection in the coordinates of the run's first frame; blind: optical
    flow failed between the previous frame and this one.
    """

    shot: int
    run: int = 0
    motion: HeadMotion = field(default_factory=HeadMotion)
    key: np.ndarray | None = None
    blind: bool = False


class FaceTrackFilter:
    """Tracks one person at a time. For each frame, in order: `carry`, optionally `meet` or `begin`, then `release`.

    Faces are float64 (7, 2), two corners of a box and five points, in the pixels of the frames. Memory is constant.

    Args:
        every: frames between detector runs.
        max_gap: frames without a detection before the track is dropped; shorter gaps are filled.
        sigma: frames, the standard deviation of the smoothing; 0 for none.
        stiffness: frames squared, see `preprocessing.faces.optical_flow.smoothed`.
    """

    def __init__(self, every: int, max_gap: int, sigma: float, stiffness: float) -> None:
        self._every, self._max_gap, self._sigma, self._stiffness = every, max_gap, sigma, stiffness
        self._radius = round(2 * sigma)
        self.face: np.ndarray | None = None
        """The tracked face in the last frame; None while no face is tracked."""
        self.person = -1
        """Identity number of the current or last tracked person."""
        self._path: deque[_Step] = deque()
        self._index, self._gave_up = -1, -1
        self._start = self._released = self._settled = self._closed = 0
        self._shot = self._run = 0
        self._doubt: np.ndarray | None = None
        self._seen = self._since = 0
        self._missing = self._blind = False

    @property
    def lag(self) -> int:
        """Maximum delay of `release` in frames."""
        return self._max_gap + self._every + self._radius

    @property
    def urgent(self) -> bool:
        """Whether the face is lost, so that the detector must run on this frame."""
        return self.face is not None and (self._missing or self._path[-1].blind)

    def carry(self, before: np.ndarray, gray: np.ndarray, cut: bool) -> None:
        """Propagates the face from the previous frame to the next, both gray (H, W); resets at a cut."""
        if cut:
            self._lose()
            self._shot += 1
            self._closed = self._index + 1
        self._index += 1
        self._path.append(_Step(self._shot))
        if self.face is None:
            return
        moved = head_motion(before, gray, self.face)
        self._blind = self._blind or moved is None
        motion = moved or HeadMotion()
        self.face = motion.move(self.face)
        step = self._path[-1]
        step.run, step.motion = self._run, motion.after(self._step(self._index - 1).motion)
        step.blind = moved is None

    def meet(self, faces: Sequence[np.ndarray], numbers: Sequence[int]) -> None:
        """Updates the track with the detection of the tracked person, if it is among `faces` with these `numbers`."""
        if self.person in numbers and self._meet(faces[numbers.index(self.person)]):
            return
        self._missing = self.person not in numbers
        # A short track, perhaps a false positive, is kept alive only as long as it lasted.
        if self._index - self._seen >= min(self._max_gap, max(self._every, self._seen - self._since)):
            self._lose()
            self._gave_up = self._index

    def may_begin(self, number: int) -> bool:
        """Whether a track of that person may start here: two people are separated by a frame without a face."""
        return self._gave_up < self._index or number == self.person

    def begin(self, face: np.ndarray, number: int) -> None:
        """Starts tracking that person at this frame."""
        self.person = number
        self._run, self._since = self._run + 1, self._index
        self._path[-1].run = self._run
        self._accept(face)

    def drop(self) -> None:
        """Drops the track at this frame because identities may have swapped; no track starts in this frame."""
        self._path[-1].run = 0
        self._lose()
        self.person, self._gave_up = -1, self._index

    def release(self, finish: bool = False) -> list[tuple[np.ndarray | None, int]]:
        """Faces that are now final, None where no face is tracked, each with its shot number; all if `finish`."""
        if finish:
            self._lose()
        if self.face is None:
            self._settled = self._index + 1
        ready = self._settled - (0 if finish else self._radius)
        until = max(ready, self._closed, self._released)
        done = [(self._final(index), self._step(index).shot) for index in range(self._released, until)]
        self._released = until
        while self._start < self._released - self._radius - self._max_gap:
            self._path.popleft()
            self._start += 1
        return done

    def _step(self, index: int) -> _Step:
        return self._path[index - self._start]

    def _lose(self) -> None:
        """Drops the track; flow-propagated frames count until the next detection was due."""
        end = self._index + 1
        if self.face is not None:
            unseen = range(self._seen + 1, end)
            last = next((index for index in unseen if self._step(index).blind), self._seen + self._every)
            for index in range(min(last, self._seen + self._every), end):
                self._step(index).run = 0
        self.face = self._doubt = None
        self._missing = self._blind = False
        self._settled = end

    def _meet(self, face: np.ndarray) -> bool:
        """Accepts a detection of the tracked face, unless it is the only evidence of a jump."""
        assert self.face is not None
        near = _distance(face, self.face) <= MAX_DOUBT
        confirmed = self._doubt is not None and _distance(face, self._doubt) <= MAX_DOUBT
        if not (near or self._blind or confirmed):
            self._doubt = face
            return False
        if not near:
            self._bridge(face - self.face)
        self._accept(face)
        return True

    def _bridge(self, missed: np.ndarray) -> None:
        """Distributes motion missed by the flow evenly over the frames since the last accepted detection."""
        shift = complex(*missed.mean(axis=0)) / (self._index - self._seen)
        for index in range(self._seen + 1, self._index + 1):
            step = self._step(index)
            step.motion = HeadMotion(shift=shift * (index - self._seen)).after(step.motion)

    def _accept(self, face: np.ndarray) -> None:
        self.face = face
        self._path[-1].key = self._path[-1].motion.inverse().move(face)
        self._seen, self._settled = self._index, self._index + 1
        self._doubt, self._missing, self._blind = None, False, False

    def _final(self, index: int) -> np.ndarray | None:
        step = self._step(index)
        return step.motion.move(self._smoothed(index)) if step.run else None

    def _smoothed(self, index: int) -> np.ndarray:
        """The face in frame `index`, in the coordinates of its run's first frame."""
        steps = self._keys(index)
        times = np.array([time for time, _ in steps], np.float64)
        keys = np.stack([step.key for _, step in steps if step.key is not None])
        if not self._sigma:
            return between(times, keys)
        # Where flow fails, coordinates do not follow the head, so the slope must be free.
        spanned = range(index + steps[0][0] + 1, index + max(steps[-1][0], 0) + 1)
        stiffness = 1e-6 if any(self._step(i).blind for i in spanned) else self._stiffness
        return smoothed(times, keys, self._sigma, stiffness)

    def _keys(self, index: int) -> list[tuple[int, _Step]]:
        """Detections of the run within the smoothing window, and at least the nearest on each side, by time."""
        run, steps = self._step(index).run, enumerate(self._path, self._start - index)
        keys = [(time, step) for time, step in steps if step.run == run and step.key is not None]
        earlier = max((time for time, _ in keys if time <= 0), default=0)
        later = min((time for time, _ in keys if time > 0), default=0)
        reach = range(min(-self._radius - self._every, earlier), max(self._radius, later) + 1)
        return [(time, step) for time, step in keys if time in reach]


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """Mean distance of two faces' corners and points in units of the second one's side, or their change of size."""
    moved = float(np.linalg.norm(one - other, axis=1).mean()) / face_side(other)
    return max(moved, abs(math.log(face_side(one) / face_side(other))))
