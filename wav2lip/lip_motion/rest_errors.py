"""Faces at rest of the people of a corpus: to fit a `RestMap` on, and to judge it by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from preprocessing.faces.mesh import lower_face, opening
from wav2lip.lip_motion.rest_map import RestMap, rest_error
from wav2lip.lip_motion.training_set import Example

LARGEST_REST = 2.5  # units between the inner lips of a mouth that is at rest


def faces_at_rest(items: Sequence[Example], frames: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each person's (T, P, 3) lower faces seen, about `frames` of them, and (P, 3) at rest.

    Recordings in which the mouth never closes are left out, for they do not show it at rest.
    """
    people: dict[str, list[Example]] = {}
    for item in items:
        if opening(item.clip.motion.rest) <= LARGEST_REST:
            people.setdefault(item.clip.speaker, []).append(item)
    faces, rows = [], lower_face()
    for own in people.values():
        rest = np.median([item.clip.motion.rest[rows] for item in own], axis=0)
        shapes = [item.clip.motion.rest[rows] + item.clip.motion.values[item.clip.motion.valid] for item in own]
        seen = np.concatenate(shapes)
        faces.append((seen[:: max(1, len(seen) // frames)], rest))
    return faces


def rest_errors(rest_map: RestMap, items: Sequence[Example], frames: int = 60) -> tuple[float, float]:
    """Mean over people of the error of the shape seen, and of the mapped one, as the face at rest; units."""
    faces = faces_at_rest(items, frames)
    before = [rest_error(seen, rest) for seen, rest in faces]
    after = [rest_error(seen + rest_map.change(seen), rest) for seen, rest in faces]
    return float(np.mean(before)), float(np.mean(after))
