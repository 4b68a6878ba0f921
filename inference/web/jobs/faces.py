"""Lists the people in an uploaded face file, with thumbnails; runs in the process of `inspection`."""

from __future__ import annotations

import base64
from typing import Any

import cv2
import numpy as np

from inference.casting import Census
from inference.faces import thumbnails
from inference.web.jobs.files import FACE
from preprocessing.errors import MediaError
from preprocessing.faces.people import Person

SECONDS = 60.0  # of a video that are searched: the numbers, in order of appearance, are those of the whole video


def list_people(census: Census) -> list[dict[str, Any]]:
    """The people in a video or photo, as the API tells of them; see `inference.web.api.schemas.Person`.

    Raises:
        MediaError: there is no face.
    """
    if not census.people:
        raise MediaError(f"{FACE} shows no face: choose a video or photo with a face that looks at the camera")
    speaking = census.speaking if len(census.people) > 1 else None  # a single person needs no telling apart
    return [
        _told(person, float(census.source.fps), picture, None if speaking is None else speaking.seconds(index) > 0)
        for index, (person, picture) in enumerate(zip(census.people, thumbnails(census), strict=True))
    ]


def _told(person: Person, fps: float, picture: np.ndarray, speaks: bool | None) -> dict[str, Any]:
    return {
        "id": person.number, "start": round(person.first / fps, 3), "end": round(person.last / fps, 3),
        "share": round(person.frames / person.length, 4), "speaking": speaks, "thumbnail": data_url(picture),
    }  # fmt: skip


def data_url(picture: np.ndarray) -> str:
    """A picture as a data: URL of a JPEG."""
    data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
