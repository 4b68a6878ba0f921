"""A face track that can be read while it is still being computed, and tracks from a box or a file."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from preprocessing.errors import UsageError
from preprocessing.faces.face_track import FaceTrack, TrackedFace, estimate_points

FADE = 4  # frames over which the generated mouth fades in or out where the face appears or disappears within a shot


class FaceTrackBuffer:
    """One person's face by frame. Reading a frame that the tracker has not reached blocks until it has."""

    def __init__(self, faces: Iterable[TrackedFace], size: tuple[int, int]) -> None:
        self.size = size
        self._faces: list[TrackedFace] = []
        self._changed = threading.Condition()
        self._done = False
        self._stop = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._collect, args=(faces,), daemon=True)
        self._thread.start()

    def _collect(self, faces: Iterable[TrackedFace]) -> None:
        try:
            for face in faces:
                with self._changed:
                    self._faces.append(face)
                    self._changed.notify_all()
                if self._stop:
                    break
        except BaseException as error:
            self._error = error
        finally:
            if hasattr(faces, "close"):
                faces.close()
            with self._changed:
                self._done = True
                self._changed.notify_all()

    def close(self) -> None:
        """Stops the tracker thread."""
        self._stop = True
        self._thread.join()

    def face(self, number: int) -> TrackedFace | None:
        """The face in frame `number`; None beyond the last frame."""
        with self._changed:
            self._changed.wait_for(lambda: self._done or len(self._faces) > number)
            if len(self._faces) > number:
                return self._faces[number]
        if self._error is not None:
            raise self._error
        return None

    def first_found(self) -> TrackedFace | None:
        """The face in the first frame that has it; None if no frame does."""
        number = 0
        while (face := self.face(number)) is not None:
            if face.found:
                return face
            number += 1
        return None

    def presence(self, number: int) -> float:
        """Weight of the generated mouth in frame `number`, 0 to 1.

        0 without a face; below 1 within FADE frames of one without a face in the same shot.
        """
        face = self.face(number)
        if face is None or not face.found:
            return 0.0
        distance = FADE
        for step in range(1, FADE):
            for near in (self.face(number - step) if number >= step else None, self.face(number + step)):
                if near is not None and near.shot == face.shot and not near.found:
                    distance = min(distance, step)
        return distance / FADE

    def track(self) -> FaceTrack:
        """The whole track; waits for the tracker to finish."""
        with self._changed:
            self._changed.wait_for(lambda: self._done)
        if self._error is not None:
            raise self._error
        boxes = np.array([face.box for face in self._faces], np.float32).reshape(-1, 4)
        points = np.array([face.points for face in self._faces], np.float32).reshape(-1, 5, 2)
        found = np.array([face.found for face in self._faces], bool)
        shot = np.array([face.shot for face in self._faces], np.int32)
        return FaceTrack(boxes, points, found, shot, size=self.size)


def constant_track(box: tuple[int, int, int, int], count: int) -> Iterator[TrackedFace]:
    """The same box (top, bottom, left, right) in every frame, as given by `--box`."""
    top, bottom, left, right = box
    corners = np.array([left, top, right, bottom], np.float32)
    points = estimate_points(corners)
    for number in range(count):
        yield TrackedFace(number, corners, points, True, 0)


def loaded_track(file: Path, size: tuple[int, int], count: int) -> Iterator[TrackedFace]:
    """Loads a saved face track.

    Raises:
        UsageError: the file is not a face track, or belongs to another video.
    """
    track = FaceTrack.load(file)
    if track.size is not None and tuple(track.size) != size:
        raise UsageError(
            f"{file} was saved for frames of {track.size[0]}x{track.size[1]} pixels, but these have {size[0]}x{size[1]}"
        )
    if len(track) < count:
        raise UsageError(f"{file} has {len(track)} frames, but {count} are needed: save it again with --save-track")
    return (
        TrackedFace(i, track.boxes[i], track.points[i], bool(track.found[i]), int(track.shot[i]))
        for i in range(len(track))
    )
