"""Rest shapes of the people in a corpus, to fit and evaluate a `RestMap`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from preprocessing.faces.mesh import lower_face, opening
from wav2lip.lip_motion.data.training_set import MotionExample
from wav2lip.lip_motion.rest_map import RestMap, rest_error

MAX_REST_GAP = 2.5  # maximum gap in units between the inner lips of a mouth at rest


def faces_at_rest(items: Sequence[MotionExample], frames: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each person's observed (T, P, 3) lower faces, about `frames` of them, and (P, 3) rest shape.

    Recordings in which the mouth never closes are excluded because they do not show it at rest.
    """
    people: dict[str, list[MotionExample]] = {}
    for item in items:
        if opening(item.clip.motion.rest) <= MAX_REST_GAP:
            people.setdefault(item.clip.speaker, []).append(item)
    faces, rows = [], lower_face()
    for own in people.values():
        rest = np.median([item.clip.motion.rest[rows] for item in own], axis=0)
        shapes = [item.clip.motion.rest[rows] + item.clip.motion.values[item.clip.motion.valid] for item in own]
        seen = np.concatenate(shapes)
        faces.append((seen[:: max(1, len(seen) // frames)], rest))
    return faces


def rest_errors(rest_map: RestMap, items: Sequence[MotionExample], frames: int = 60) -> tuple[float, float]:
    """RMS distance of the observed and of the mapped shapes from the rest shape, mean over people; units."""
    faces = faces_at_rest(items, frames)
    before = [rest_error(seen, rest) for seen, rest in faces]
    after = [rest_error(seen + rest_map.change(seen), rest) for seen, rest in faces]
    return float(np.mean(before)), float(np.mean(after))
