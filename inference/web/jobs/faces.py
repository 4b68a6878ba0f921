"""Lists the people in an uploaded face file, with thumbnails; runs in the process of `inspection`."""

from __future__ import annotations

import base64
from typing import Any

import cv2
import numpy as np

from inference.face_source import FaceSource
from inference.options import Options
from inference.web.jobs.files import FACE
from preprocessing.errors import MediaError
from preprocessing.faces.detectors import load_detector
from preprocessing.faces.people import Person, find_people

SECONDS = 60.0  # of a video that are searched: the numbers, in order of appearance, are those of the whole video
DETECT_EVERY = 0.4  # seconds
THUMBNAIL = 192  # pixels
MARGIN = 0.35  # of the face's side around it


def list_people(source: FaceSource, options: Options) -> list[dict[str, Any]]:
    """The people in the first SECONDS, as the API tells of them; see `inference.web.api.schemas.Person`.

    Raises:
        MediaError: there is no face.
    """
    detector = load_detector(options.detector, yunet=options.yunet, sfd=options.s3fd)
    frames = source.frames(0, max(1, round(SECONDS * source.fps)))
    people = find_people(frames, detector, fps=float(source.fps), every=max(1, round(source.fps * DETECT_EVERY)))
    if not people:
        raise MediaError(f"{FACE} shows no face: choose a video or photo with a face that looks at the camera")
    return [_told(person, source) for person in people]


def _told(person: Person, source: FaceSource) -> dict[str, Any]:
    number, fps = person.best_frame(), float(source.fps)
    frame = next(source.frames(number, number + 1))
    return {
        "id": person.number, "start": round(person.first / fps, 3), "end": round(person.last / fps, 3),
        "share": round(person.frames / person.length, 4), "speaking": None,
        "thumbnail": data_url(crop_face(frame, person.box(number))),
    }  # fmt: skip


def crop_face(frame: np.ndarray, box: np.ndarray) -> np.ndarray:
    """A square picture of a face with some of its surroundings, (THUMBNAIL, THUMBNAIL, 3) uint8 BGR."""
    center, side = (box[:2] + box[2:]) / 2, float((box[2:] - box[:2]).max()) * (1 + 2 * MARGIN)
    scale = THUMBNAIL / max(side, 1.0)
    matrix = np.array([[scale, 0, THUMBNAIL / 2 - scale * center[0]], [0, scale, THUMBNAIL / 2 - scale * center[1]]])
    return cv2.warpAffine(frame, matrix, (THUMBNAIL, THUMBNAIL), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)


def data_url(picture: np.ndarray) -> str:
    """A picture as a data: URL of a JPEG."""
    data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
