"""Where the face is in each picture, known while the pictures are still being looked at."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from preprocessing.errors import UsageError
from preprocessing.faces.face_track import FaceTrack, TrackedFace, estimate_points

FADE = 4  # pictures over which the generated mouth fades in or out where the face comes and goes within a shot


class FaceTrackBuffer:
    """One person's face by picture number. Asking for a picture that the tracker has not reached waits for it."""

    def __init__(self, faces: Iterable[TrackedFace], size: tuple[int, int]) -> None:
        self.size = size
        self._faces: list[TrackedFace] = []
        self._changed = threading.Condition()
        self._done = False
        self._stop = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._follow, args=(faces,), daemon=True)
        self._thread.start()

    def _follow(self, faces: Iterable[TrackedFace]) -> None:
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
        """Ends the tracker's thread."""
        self._stop = True
        self._thread.join()

    def face(self, number: int) -> TrackedFace | None:
        """The face in picture `number`; None beyond the last picture."""
        with self._changed:
            self._changed.wait_for(lambda: self._done or len(self._faces) > number)
            if len(self._faces) > number:
                return self._faces[number]
        if self._error is not None:
            raise self._error
        return None

    def first_found(self) -> TrackedFace | None:
        """The first picture's face that is there at all; None when no picture has it."""
        number = 0
        while (face := self.face(number)) is not None:
            if face.found:
                return face
            number += 1
        return None

    def presence(self, number: int) -> float:
        """How much of the generated mouth is shown in picture `number`, 0 to 1.

        0 without a face; less than 1 within FADE pictures of one without a face in the same shot.
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
        """The whole path, when the tracker is done with it."""
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
    """The same box in every picture, as `--box` gives it: top, bottom, left, right."""
    top, bottom, left, right = box
    place = np.array([left, top, right, bottom], np.float32)
    points = estimate_points(place)
    for number in range(count):
        yield TrackedFace(number, place, points, True, 0)


def loaded_track(file: Path, size: tuple[int, int], count: int) -> Iterator[TrackedFace]:
    """A path saved earlier.

    Raises:
        UsageError: the file is no track, or one of another video.
    """
    track = FaceTrack.load(file)
    if track.size is not None and tuple(track.size) != size:
        raise UsageError(
            f"{file} was made for pictures of {track.size[0]}x{track.size[1]} pixels, these have {size[0]}x{size[1]}"
        )
    if len(track) < count:
        raise UsageError(f"{file} holds {len(track)} pictures, but {count} are needed: make it anew with --save-track")
    return (
        TrackedFace(i, track.boxes[i], track.points[i], bool(track.found[i]), int(track.shot[i]))
        for i in range(len(track))
    )
