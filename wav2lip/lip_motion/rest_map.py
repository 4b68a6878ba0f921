"""From the one shape that a photo shows to the same face at rest: a smile closes, an open mouth seals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from preprocessing.faces.mesh import LIPS_INNER, lower_face, opening

COMPONENTS = 14  # of the shape seen
PENALTY = 1e-2  # of squared coefficients, per unit of people
AT_REST, OPEN = 0.5, 2.0  # openings, units: below the first a shape is left, above the second it is mapped fully
SEALED = 0.9  # share of the gap that is left after mapping which is closed
UPPER, LOWER = LIPS_INNER[19:10:-1], LIPS_INNER[1:10]  # rows of the inner ring, from the right corner to the left


@dataclass(frozen=True)
class RestMap:
    """A ridge regression from principal components of the lower face's shape to its displacement from rest.

    Attributes:
        mean: (P * 3,) float32 units.
        basis: (K, P * 3) float32 orthonormal.
        deviations: (K,) float32 of the components.
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
        """From each person's (T, P, 3) unposed lower faces and their (P, 3) face at rest; everybody counts alike."""
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
        """(..., P, 3) unposed lower faces → their displacement to rest, the same shape, units."""
        flat = shapes.reshape(*shapes.shape[:-2], -1)
        scores = (flat - self.mean) @ self.basis.T / self.deviations
        found = scores @ self.coefficients[:-1] + self.coefficients[-1]
        return found.reshape(shapes.shape)

    def rest(self, shape: np.ndarray) -> np.ndarray:
        """The face at rest of one whose mouth is seen open or closed.

        A mouth that is closed already is left as it is; an open one is mapped, and its inner lips are brought together.

        Args:
            shape: (206, 3) unposed.

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
    """Root mean square over the coordinates of (..., P, 3) shapes, units."""
    return float(np.sqrt(np.mean((rested - rest) ** 2)))
