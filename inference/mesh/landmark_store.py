"""Landmarks by frame, stored in a temporary file so that memory does not grow with the length of the video."""

from __future__ import annotations

import os
import tempfile

import numpy as np

from preprocessing.faces.mesh import (
    LEFT_CORNER,
    LEFT_EYE,
    MESH_INDICES,
    POINT,
    RIGHT_CORNER,
    RIGHT_EYE,
    HeadPose,
    Landmarks,
    opening,
)

MIN_PRESENCE = 0.6  # below this the face counts as lost, or its mouth as covered
MAX_YAW = 60.0  # degrees; beyond it half of the mouth is hidden
REST_YAW = 30.0  # degrees; limit for frames used for the rest shape
REST_FRAMES = 400  # maximum number of frames used for the rest shape
FADE = 5  # frames over which the generated mouth fades in or out where the face appears or disappears
_RECORD_LENGTH = 1 + 3 * len(MESH_INDICES)


class LandmarkStore:
    """Landmarks of the tracked face, appended frame by frame; `close` removes the temporary file."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="wav2lip-landmarks-")  # noqa: SIM115  closed by close()
        self._usable = bytearray()
        self._openings: list[float] = []

    def __len__(self) -> int:
        return len(self._usable)

    def append(self, found: Landmarks | None) -> None:
        """Appends the next frame's landmarks; None if it has no face."""
        record = np.zeros(_RECORD_LENGTH, np.float32)
        usable, gap = False, np.inf
        if found is not None:
            record[0], record[1:] = found.presence, found.points.ravel()
            pose = found.pose
            yaw = abs(float(pose.yaw()))
            usable = found.presence >= MIN_PRESENCE and yaw <= MAX_YAW
            if usable and yaw <= REST_YAW:
                gap = float(opening(pose.unpose(found.points)))
        self._usable.append(usable)
        self._openings.append(gap)
        self._file.write(record.tobytes())
        self._file.flush()

    def landmarks(self, number: int) -> Landmarks | None:
        """Landmarks of a frame; None if the face is lost, covered or turned away, and beyond the last frame."""
        if not (number < len(self) and self._usable[number]):
            return None
        return self._read(number)

    def amount(self, number: int) -> float:
        """Weight of the generated mouth in a frame, 0 to 1: below 1 within FADE frames of one without a usable face."""
        if not (number < len(self) and self._usable[number]):
            return 0.0
        distances = [
            step for step in range(1, FADE) for other in (number - step, number + step)
            if 0 <= other < len(self) and not self._usable[other]
        ]  # fmt: skip
        return min(distances, default=FADE) / FADE

    def any_face(self) -> bool:
        """Whether any frame has a usable face."""
        return any(self._usable)

    def shapes(self) -> np.ndarray:
        """(N, 206, 3) unposed faces, mesh units: up to `REST_FRAMES` frames that face the camera.

        Raises:
            ValueError: no frame has a usable face.
        """
        frames = np.flatnonzero(np.isfinite(self._openings))
        if not len(frames):  # all are turned away
            frames = np.flatnonzero(np.frombuffer(self._usable, np.uint8))
        sampled = frames[np.linspace(0, len(frames) - 1, min(REST_FRAMES, len(frames))).astype(int)]
        points = np.stack([self._read(int(number)).points for number in sampled])
        return HeadPose.of(points).unpose(points)

    def boxes_and_points(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For a saved track: (N, 4) boxes, (N, 5, 2) eyes, nose and mouth corners, (N,) bool found."""
        count = len(self)
        boxes, points = np.full((count, 4), np.nan, np.float32), np.full((count, 5, 2), np.nan, np.float32)
        for number in np.flatnonzero(np.frombuffer(self._usable, np.uint8)):
            mesh = self._read(int(number)).points
            boxes[number] = [*mesh[:, :2].min(0), *mesh[:, :2].max(0)]
            points[number] = [
                mesh[RIGHT_EYE, :2].mean(0), mesh[LEFT_EYE, :2].mean(0), mesh[POINT[1], :2],
                mesh[RIGHT_CORNER, :2], mesh[LEFT_CORNER, :2],
            ]  # fmt: skip
        return boxes, points, np.isfinite(boxes[:, 0])

    def close(self) -> None:
        """Removes the file."""
        self._file.close()

    def _read(self, number: int) -> Landmarks:
        size = 4 * _RECORD_LENGTH
        record = np.frombuffer(os.pread(self._file.fileno(), size, number * size), np.float32)
        return Landmarks(record[1:].reshape(-1, 3).copy(), float(record[0]))
