"""Lists the people in a video: when each is visible, who speaks, and a contact sheet of their faces."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from inference.casting import Census
from inference.files.preview import write_picture
from preprocessing.faces.people import Person

TILE = 192  # pixels: side of a face on the contact sheet
COLUMNS = 6
CAPTION = 26  # pixels below a face
FACE_MARGIN = 0.35  # of the face's longer side, around it


@dataclass(frozen=True)
class ListedFace:
    """One person of a video.

    Attributes:
        number: for `--face-id` and job files.
        start, end: seconds at which the person is first and last visible.
        share: of the frames that show them, 0 to 1.
        box: left, top, right, bottom in pixels at second `at`.
        speaks: seconds in which they speak the video's own sound; None if it has no speech.
    """

    number: int
    start: float
    end: float
    share: float
    box: tuple[int, int, int, int]
    at: float
    speaks: float | None

    def values(self) -> dict[str, object]:
        """The entry as JSON values."""
        return {
            "person": self.number, "from": round(self.start, 3), "to": round(self.end, 3),
            "share": round(self.share, 4), "box": list(self.box), "at": round(self.at, 3),
            "speaks": None if self.speaks is None else self.speaks > 0,
            "speaks_seconds": None if self.speaks is None else round(self.speaks, 2),
        }  # fmt: skip


def list_faces(census: Census) -> list[ListedFace]:
    """The people in a video, by number."""
    fps, speaking = float(census.source.fps), census.speaking
    return [
        _listed(person, fps, None if speaking is None else speaking.seconds(index))
        for index, person in enumerate(census.people)
    ]


def _listed(person: Person, fps: float, speaks: float | None) -> ListedFace:
    best = person.best_frame()
    left, top, right, bottom = (round(float(edge)) for edge in person.box(best))
    return ListedFace(
        person.number, person.first / fps, person.last / fps, person.frames / max(person.length, 1),
        (left, top, right, bottom), best / fps, speaks,
    )  # fmt: skip


def table(faces: list[ListedFace]) -> str:
    """The people as text for a terminal."""
    lines = [f"{'person':>6} {'from':>8} {'to':>8} {'in view':>8}  speaks"]
    for face in faces:
        speaks = "?" if face.speaks is None else f"{face.speaks:.1f} s" if face.speaks else "no"
        lines.append(f"{face.number:6} {face.start:8.2f} {face.end:8.2f} {face.share:8.0%}  {speaks}")
    return "\n".join(lines)


def thumbnails(census: Census) -> list[np.ndarray]:
    """The face of each person, (TILE, TILE, 3) uint8 BGR, by number."""
    return [_thumbnail(census, person) for person in census.people]


def _thumbnail(census: Census, person: Person) -> np.ndarray:
    number = person.best_frame()
    frame = next(census.source.frames(number, number + 1), None)
    if frame is None:  # a damaged file
        return np.zeros((TILE, TILE, 3), np.uint8)
    box = person.box(number)
    center, side = (box[:2] + box[2:]) / 2, float((box[2:] - box[:2]).max()) * (1 + 2 * FACE_MARGIN)
    scale = TILE / max(side, 1.0)
    matrix = np.array([[scale, 0, TILE / 2 - scale * center[0]], [0, scale, TILE / 2 - scale * center[1]]])
    flags = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.warpAffine(frame, matrix, (TILE, TILE), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def save_sheet(census: Census, faces: list[ListedFace], path: Path) -> Path:
    """Writes the contact sheet: each face with its number, and a mark if it speaks.

    Raises:
        MediaError: it cannot be written.
    """
    tiles = [_tile(picture, face) for picture, face in zip(thumbnails(census), faces, strict=True)]
    blank = np.full_like(tiles[0], 32)
    columns = min(COLUMNS, len(tiles))
    tiles += [blank] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[k : k + columns]) for k in range(0, len(tiles), columns)]
    return write_picture(path, np.vstack(rows))


def _tile(picture: np.ndarray, face: ListedFace) -> np.ndarray:
    caption = np.full((CAPTION, TILE, 3), 32, np.uint8)
    text = f"{face.number}" + (" speaks" if face.speaks else "")
    cv2.putText(caption, text, (8, CAPTION - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1, cv2.LINE_AA)
    return np.vstack([picture, caption])
