"""Maps a face shape, as seen in a photo, to the same face at rest, with the mouth closed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from preprocessing.faces.mesh import LIPS_INNER, lower_face, opening

COMPONENTS = 14  # principal components of the observed shape
PENALTY = 1e-2  # ridge penalty; each person counts 1 in total
AT_REST, OPEN = 0.5, 2.0  # openings in units: shapes below the first are unchanged, above the second fully mapped
SEALED = 0.9  # fraction of the gap remaining after mapping that is closed
UPPER, LOWER = LIPS_INNER[19:10:-1], LIPS_INNER[1:10]  # rows of the inner ring, from the right corner to the left


@dataclass(frozen=True)
class RestMap:
    """A ridge regression from principal components of the lower face's shape to its displacement from rest.

    Attributes:
        mean: (P * 3,) float32 units.
        basis: (K, P * 3) float32 orthonormal.
        deviations: (K,) float32 standard deviations of the components.
        coefficients: (K + 1, P * 3) float32; the last row is the intercept.
    """

    mean: np.ndarray
    basis: np.ndarray
    deviations: np.ndarray
    coefficients: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """The attributes by name."""
        return {name: getattr(self, name) for name in ("mean", "basis", "deviations", "coefficients")}

    @classmethod
    def fit(cls, people: Sequence[np.ndarray], rests: Sequence[np.ndarray], components: int = COMPONENTS) -> RestMap:
        """Fits each person's (T, P, 3) unposed lower faces to their (P, 3) rest shape; people have equal weight."""
        seen = np.concatenate([shapes.reshape(len(shapes), -1) for shapes in people]).astype(np.float64)
        change = np.concatenate(
            [(rest - shapes).reshape(len(shapes), -1) for shapes, rest in zip(people, rests, strict=True)]
        )
        weight = np.sqrt(np.concatenate([np.full(len(shapes), 1 / len(shapes)) for shapes in people]))[:, None]
        mean = (seen * weight**2).sum(0) / (weight**2).sum()
        centred = (seen - mean) * weight
        vectors = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :components].T
        scores = (seen - mean) @ vectors.T
        deviations = scores.std(0)
        rows = np.hstack([scores / deviations, np.ones((len(scores), 1))]) * weight
        normal = rows.T @ rows + PENALTY * np.eye(components + 1)
        solved = np.linalg.solve(normal, rows.T @ (change * weight))
        return cls(*(part.astype(np.float32) for part in (mean, vectors, deviations, solved)))

    def change(self, shapes: np.ndarray) -> np.ndarray:
        """(..., P, 3) unposed lower faces → (..., P, 3) displacements to rest, units."""
        flat = shapes.reshape(*shapes.shape[:-2], -1)
        scores = (flat - self.mean) @ self.basis.T / self.deviations
        found = scores @ self.coefficients[:-1] + self.coefficients[-1]
        return found.reshape(shapes.shape)

    def rest(self, shape: np.ndarray) -> np.ndarray:
        """The rest shape of a face.

        A closed mouth is unchanged; an open one is mapped, and its inner lips are brought together.

        Args:
            shape: (206, 3) unposed face, units.

        Returns:
            (206, 3).
        """
        share = float(np.clip((opening(shape) - AT_REST) / (OPEN - AT_REST), 0, 1))
        rested = np.array(shape, np.float64)
        rested[lower_face()] += share * self.change(rested[lower_face()])
        middle = (rested[UPPER] + rested[LOWER]) / 2
        for rows in (UPPER, LOWER):
            rested[rows] += share * SEALED * (middle - rested[rows])
        return rested


def rest_error(rested: np.ndarray, rest: np.ndarray) -> float:
    """RMS over the coordinates of (..., P, 3) shapes, units."""
    return float(np.sqrt(np.mean((rested - rest) ** 2)))
