"""Composition and conformation taken apart: what the one shares with the other within kinds of composition.

The decoder draws what rigid bodies leave over of a motion, so the encoder tells the motion twice: in the conformation c
and, within every kind of composition, as a curve mu = mu' + f(c). Files of an epoch hold mu' and f. The decoder
is always given mu' + f(c), which is what it was trained with, where both are known; where the conformation is not, mu'
is the composition at the mean of f, which is 0. How f is found: :mod:`opustomo.training.fit_separation`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
ROWS = 65_536
"""Particles whose features are in memory at a time."""


@dataclass(frozen=True, eq=False)
class Separation:
    """The map f(c) = (φ(c) - centre) slope, φ the standardised conformation and its products of two.

    Attributes
    ----------
    mean, std
        (C,) of the conformation over the particles, in its own units; std is 1 where it does not vary.
    centre
        (P,) mean of φ over the particles, P = C + C (C + 1) / 2: f has mean 0 over them.
    slope
        (P, L) composition per feature.
    """

    mean: Array
    std: Array
    centre: Array
    slope: Array

    def __post_init__(self) -> None:
        (size,) = self.mean.shape
        count = feature_count(size)
        if self.std.shape != (size,) or self.centre.shape != (count,) or self.slope.shape[:-1] != (count,):
            raise ValueError(f"a conformation of {size} numbers has {count} features, not {self.slope.shape}")
        if not all(np.isfinite(part).all() for part in (self.mean, self.std, self.centre, self.slope)):
            raise ValueError("not finite")
        if not (self.std > 0).all():
            raise ValueError("the spread of the conformation is not positive")

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers of the composition and of the conformation, (L, C)."""
        return self.slope.shape[1], len(self.mean)

    def shared(self, conformation: npt.ArrayLike) -> Array:
        """What the composition shares with conformations (N, C): f, (N, L)."""
        values = np.asarray(conformation, dtype=np.float64)
        found = np.empty((len(values), self.slope.shape[1]))
        for rows in _parts(len(values)):
            found[rows] = (features(values[rows], self.mean, self.std) - self.centre) @ self.slope
        return found

    def apart(self, mu: npt.ArrayLike, conformation: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Compositions as files hold them, mu' (N, L), from those of the encoder."""
        return np.asarray(np.asarray(mu, dtype=np.float64) - self.shared(conformation), dtype=np.float32)

    def together(self, composition: npt.ArrayLike, conformation: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Compositions as encoder and decoder know them, mu (N, L), from those of the files; undoes :meth:`apart`."""
        return np.asarray(np.asarray(composition, dtype=np.float64) + self.shared(conformation), dtype=np.float32)


def feature_count(size: int) -> int:
    """Features of a conformation of ``size`` numbers."""
    return size + size * (size + 1) // 2


def features(conformation: Array, mean: Array, std: Array) -> Array:
    """Standardised conformation (N, C) and its products of two, φ (N, C + C (C + 1) / 2)."""
    plain = (conformation - mean) / std
    one, other = np.triu_indices(plain.shape[1])
    return np.concatenate([plain, plain[:, one] * plain[:, other]], axis=1)


def mean_features(conformation: Array, mean: Array, std: Array) -> Array:
    """Mean (P,) of the features of conformations (N, C)."""
    sums = [features(conformation[rows], mean, std).sum(0) for rows in _parts(len(conformation))]
    return np.asarray(np.sum(sums, axis=0) / len(conformation))


def _parts(count: int) -> Iterator[slice]:
    return (slice(first, first + ROWS) for first in range(0, count, ROWS))
