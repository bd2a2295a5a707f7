"""Separation of composition and conformation: what they share within types of composition, its fit and its removal.

The network of the composition models what rigid bodies do not explain of a motion. The encoder therefore encodes a
motion twice: in the conformation c and, within each type of composition, as a curve μ = μ' + f(c). Files of an epoch
contain μ' and f. The decoder receives μ' + f(c), with which it was trained, where both are known. Without a
conformation, μ' is the composition at the mean of f, which is 0.

The compositions μ are regressed on features φ of the conformation, with one slope B for all types and an offset for
each. Types are clusters of what the regression leaves that are separated by regions of low density (HDBSCAN), such as
particles with and without a body. Regression and clusters alternate, beginning with a single type. The offsets keep
what distinguishes the types, also where these differ in conformation. See docs/method.md, section 6.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from opustomo.model.config import ModelConfig

Array = npt.NDArray[np.float64]
ROWS = 65_536
"""Number of particles whose features are in memory at a time."""
SAMPLE = 5_000
"""Particles that are fitted, evenly taken from all."""
PER_COLUMN = 10
"""Smallest number of particles per column of the regression (a rule of thumb: Harrell 2015)."""
SMALLEST_TYPE = 0.05
"""Smallest share of a type in all particles."""
ROUNDS = 10


@dataclass(frozen=True, eq=False)
class Separation:
    """Map f(c) = (φ(c) - centre) slope, where φ is the standardized conformation with its pairwise products.

    The names of the attributes are keys in weights.N.pkl.

    Attributes
    ----------
    mean, std
        Mean and standard deviation of the conformation over the particles, (C,); std is 1 where it does not vary.
    centre
        Mean of φ over the particles, (P,) with P = C + C (C + 1) / 2, so that f has mean 0.
    slope
        Composition per feature, (P, L).
    """

    mean: Array
    std: Array
    centre: Array
    slope: Array

    def __post_init__(self) -> None:
        (size,) = self.mean.shape
        count = feature_count(size)
        if self.std.shape != (size,) or self.centre.shape != (count,) or self.slope.shape[:-1] != (count,):
            raise ValueError(f"a conformation of {size} dimensions has {count} features, not {self.slope.shape}")
        if not all(np.isfinite(part).all() for part in (self.mean, self.std, self.centre, self.slope)):
            raise ValueError("not finite")
        if not (self.std > 0).all():
            raise ValueError("the spread of the conformation is not positive")

    @property
    def sizes(self) -> tuple[int, int]:
        """Dimensions of composition and conformation, (L, C)."""
        return self.slope.shape[1], len(self.mean)

    def shared(self, conformation: npt.ArrayLike) -> Array:
        """Return what compositions share with conformations (N, C): f, (N, L)."""
        values = np.asarray(conformation, dtype=np.float64)
        found = np.empty((len(values), self.slope.shape[1]))
        for rows in _parts(len(values)):
            found[rows] = (features(values[rows], self.mean, self.std) - self.centre) @ self.slope
        return found

    def apart(self, mu: npt.ArrayLike, conformation: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return the compositions in files, μ' (N, L), for those of the encoder, μ."""
        return np.asarray(np.asarray(mu, dtype=np.float64) - self.shared(conformation), dtype=np.float32)

    def together(self, composition: npt.ArrayLike, conformation: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return the compositions of the encoder, μ (N, L), for those in files; the inverse of :meth:`apart`."""
        return np.asarray(np.asarray(composition, dtype=np.float64) + self.shared(conformation), dtype=np.float32)


def feature_count(size: int) -> int:
    """Return the number of features P of a conformation of ``size`` dimensions."""
    return size + size * (size + 1) // 2


def features(conformation: Array, mean: Array, std: Array) -> Array:
    """Return the features φ, (N, P): the standardized conformations (N, C) and their pairwise products."""
    plain = (conformation - mean) / std
    one, other = np.triu_indices(plain.shape[1])
    return np.concatenate([plain, plain[:, one] * plain[:, other]], axis=1)


def mean_features(conformation: Array, mean: Array, std: Array) -> Array:
    """Return the mean (P,) of the features of conformations (N, C)."""
    sums = [features(conformation[rows], mean, std).sum(0) for rows in _parts(len(conformation))]
    return np.asarray(np.sum(sums, axis=0) / len(conformation))


def _parts(count: int) -> Iterator[slice]:
    return (slice(first, first + ROWS) for first in range(0, count, ROWS))


def separate_latents(latents: np.ndarray, config: ModelConfig) -> Separation | None:
    """Return the separation of the latents (N, zdim + zaffinedim) of an epoch; None without bodies or a fit."""
    if config.bodies is None:
        return None
    return find_separation(latents[:, : config.zdim], latents[:, config.zdim :])


def find_separation(mu: np.ndarray, conformation: np.ndarray) -> Separation | None:
    """Find what compositions (N, L) share with conformations (N, C) within types of composition.

    The result is deterministic.

    Returns
    -------
    Separation or None
        None if there are fewer than ``PER_COLUMN`` particles per column, or if latents are constant or not finite.
    """
    mu, conformation = np.asarray(mu, dtype=np.float64), np.asarray(conformation, dtype=np.float64)
    if len(mu) < PER_COLUMN * (mu.shape[1] + feature_count(conformation.shape[1])):
        return None
    if not (np.isfinite(mu).all() and np.isfinite(conformation).all()):
        return None
    if not (_varies(mu).any() and _varies(conformation).any()):
        return None
    mean, std = conformation.mean(0), np.where(_varies(conformation), conformation.std(0), 1.0)
    sample = np.linspace(0, len(mu) - 1, min(len(mu), SAMPLE)).round().astype(np.intp)
    phi, values = features(conformation[sample], mean, std), mu[sample]
    types = np.zeros(len(sample), dtype=np.intp)
    for _ in range(ROUNDS):
        slope = within_types(phi, values, types)
        before, types = types, dense_types(values - phi @ slope)
        if np.array_equal(before, types):
            break
    return Separation(mean, std, mean_features(conformation, mean, std), within_types(phi, values, types))


def within_types(phi: np.ndarray, mu: np.ndarray, types: np.ndarray) -> np.ndarray:
    """Return the slope (P, L) of compositions (n, L) on features (n, P), with an offset for each type (n,)."""
    member = np.eye(types.max() + 1)[types]
    mean = member / member.sum(0).clip(min=1.0)
    centered = [part - mean @ (member.T @ part) for part in (phi, mu)]
    return np.asarray(np.linalg.lstsq(centered[0], centered[1], rcond=None)[0])


def dense_types(values: np.ndarray) -> np.ndarray:
    """Return the clusters (n,) of values (n, L), each value outside of them in the cluster of the nearest mean.

    All values are of one type unless there are at least two clusters.
    """
    from sklearn.cluster import HDBSCAN

    smallest = max(5, round(SMALLEST_TYPE * len(values)))
    labels = HDBSCAN(min_cluster_size=smallest, min_samples=smallest // 2, copy=True).fit_predict(values)
    if labels.max() < 1:
        return np.zeros(len(values), dtype=np.intp)
    means = np.stack([values[labels == label].mean(0) for label in range(labels.max() + 1)])
    nearest = np.square(values[:, None] - means).sum(2).argmin(1)
    return np.where(labels < 0, nearest, labels)


def _varies(values: np.ndarray) -> np.ndarray:
    """Return which columns are not constant in single precision."""
    return np.asarray(values.std(0) > np.finfo(np.float32).eps * np.abs(values.mean(0)))
