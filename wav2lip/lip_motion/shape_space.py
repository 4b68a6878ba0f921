"""A low-dimensional space of lip shapes: principal components of the lower face's displacement from rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from preprocessing.faces.mesh import (
    LEFT_CORNER,
    LIPS_INNER,
    LIPS_OUTER,
    LOWER_LIP,
    RIGHT_CORNER,
    UPPER_LIP,
    lower_face,
)  # fmt: skip

LIPS_WEIGHT, DEPTH_WEIGHT = 3.0, 0.4  # coordinate weights: lips relative to skin, z relative to x and y
SILENT_GAIN = 0.5  # fraction of the usual gain; with less motion a person is not speaking
MAX_PERSONAL = 1.3  # largest factor between a person's gain and the usual one
MAX_FRAMES_PER_PERSON = 900  # so that no single person dominates the components


def point_weights() -> np.ndarray:
    """(P, 3) float64 weights of the lower face's coordinates."""
    rows = lower_face()
    weights = np.where(np.isin(rows, np.concatenate([LIPS_INNER, LIPS_OUTER])), LIPS_WEIGHT, 1.0)
    return weights[:, None] * np.array([1.0, 1.0, DEPTH_WEIGHT])


def gain_of(displacements: np.ndarray) -> float:
    """How much a person's face moves: weighted RMS of (T, P, 3) displacements in speech, units."""
    return float(np.sqrt(np.mean((displacements * point_weights()) ** 2)))


def personal_gain(own: float, usual: float) -> float:
    """Gain for a person whose face moves by `own` units in their video: halfway, in logarithms, to that of others.

    Someone who hardly moves in it is silent rather than lazy and gets the `usual` gain; nobody strays from it by more
    than `MAX_PERSONAL`, since a few seconds of video tell little.
    """
    if own < SILENT_GAIN * usual:
        return usual
    return usual * float(np.clip(np.sqrt(own / usual), 1 / MAX_PERSONAL, MAX_PERSONAL))


@dataclass(frozen=True)
class ShapeSpace:
    """K principal components, about zero, of displacements divided by the person's gain.

    Attributes:
        basis: (K, P * 3) float32, orthonormal, of weighted displacements.
        deviations: (K,) float32 standard deviation of each coefficient.
        gain: gain of an unknown person: the median over the people in training.
    """

    basis: np.ndarray
    deviations: np.ndarray
    gain: float

    @classmethod
    def fit(cls, people: list[np.ndarray], gains: list[float], components: int, seed: int = 0) -> ShapeSpace:
        """Fits the space to each person's (T, P, 3) displacements and gain, using at most 900 frames per person."""
        rng, weights, rows = np.random.default_rng(seed), point_weights(), []
        for values, gain in zip(people, gains, strict=True):
            chosen = rng.choice(len(values), min(len(values), MAX_FRAMES_PER_PERSON), replace=False)
            rows.append((values[chosen] * (weights / gain)).reshape(len(chosen), -1))
        every = np.concatenate(rows).astype(np.float64)
        variances, vectors = np.linalg.eigh(every.T @ every / len(every))
        basis = vectors[:, ::-1][:, :components].T
        basis *= np.sign(basis[np.arange(len(basis)), np.abs(basis).argmax(axis=1)])[:, None]
        deviations = np.sqrt(np.maximum(variances[::-1][:components], 1e-12))
        return cls(basis.astype(np.float32), deviations.astype(np.float32), float(np.median(gains)))

    @property
    def components(self) -> int:
        """Number of components K."""
        return len(self.basis)

    def coefficients(self, displacement: np.ndarray, gain: float) -> np.ndarray:
        """(..., P, 3) displacements in units → (..., K) float32 coefficients."""
        weighted = displacement * (point_weights() / gain)
        return (weighted.reshape(*weighted.shape[:-2], -1) @ self.basis.T).astype(np.float32)

    def displacement(self, coefficients: np.ndarray, gain: float) -> np.ndarray:
        """(..., K) coefficients → (..., P, 3) float32 displacements in units."""
        flat = coefficients @ (self.basis * (gain / point_weights().reshape(-1))).astype(np.float32)
        return flat.reshape(*flat.shape[:-1], -1, 3)

    def difference(self, plus: int, minus: int, axis: int) -> np.ndarray:
        """(K,) gradient of the difference of one coordinate between two mesh rows, at gain 1."""
        rows = lower_face().tolist()
        vectors = (self.basis / point_weights().reshape(-1)).reshape(len(self.basis), -1, 3)
        return (vectors[:, rows.index(plus), axis] - vectors[:, rows.index(minus), axis]).astype(np.float32)

    @property
    def opening(self) -> np.ndarray:
        """(K,) gradient of the gap between the inner lips (y downwards)."""
        return self.difference(LOWER_LIP, UPPER_LIP, 1)

    @property
    def width(self) -> np.ndarray:
        """(K,) gradient of the distance between the mouth corners (x)."""
        return self.difference(LEFT_CORNER, RIGHT_CORNER, 0)

    @property
    def opening_direction(self) -> np.ndarray:
        """(K,) the most likely change of the coefficients, given their covariance, that opens the lips by one unit."""
        direction = self.opening * self.deviations**2
        return direction / (direction @ self.opening)
