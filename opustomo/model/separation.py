"""Separation of composition and conformation: what they share within types of composition, its fit and its removal.

The network of the composition models what rigid bodies do not explain of a motion. The encoder therefore encodes a
motion twice: in the conformation c and, within each type of composition, as a curve μ = μ' + f(c). Files of an epoch
contain μ' and f. The decoder receives μ' + f(c), with which it was trained, where both are known. Without a
conformation, μ' is the composition at the mean of f, which is 0.

Within a type of composition, compositions μ and features φ of the conformation are normally distributed, with one
covariance for all types (a Gaussian mixture with tied covariance; BIC selects the number of types). The regression of μ
on φ within types, B = Σ_φφ⁻¹ Σ_φμ, is what they share; the means of the types keep what distinguishes them, also where
they differ in conformation. See docs/method.md, section 6.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from opustomo.model.config import ModelConfig

Array = npt.NDArray[np.float64]
ROWS = 65_536
"""Number of particles whose features are in memory at a time."""


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


TYPES = 8
"""Largest number of types."""
SAMPLE = 20_000
"""Particles that are fitted, evenly taken from all."""
PER_COLUMN = 10
"""Smallest number of particles per type and column of a regression (a rule of thumb: Harrell 2015)."""


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
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    mu, conformation = np.asarray(mu, dtype=np.float64), np.asarray(conformation, dtype=np.float64)
    size, count = mu.shape[1], feature_count(conformation.shape[1])
    if not (np.isfinite(mu).all() and np.isfinite(conformation).all()):
        return None
    if len(mu) < PER_COLUMN * (size + count) or not (_varies(mu).any() and _varies(conformation).any()):
        return None
    mean, std = conformation.mean(0), np.where(_varies(conformation), conformation.std(0), 1.0)
    sample = np.linspace(0, len(mu) - 1, min(len(mu), SAMPLE)).round().astype(np.intp)
    phi, values = features(conformation[sample], mean, std), mu[sample] / mu.std(0).max()
    fits = []
    for scale in (1.0, _ratio(phi, values)):  # EM starts from k-means, led by the conformation or by both alike
        joint = np.concatenate([scale * values, phi], 1)
        for number in range(1, 1 + min(TYPES, len(joint) // (PER_COLUMN * joint.shape[1]))):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct latents than types
                fit = GaussianMixture(number, covariance_type="tied", random_state=0).fit(joint)
            criterion = fit.bic(joint) - 2.0 * size * len(joint) * np.log(scale)  # of the latents without scale
            fits.append((criterion, scale, fit.covariances_))
    _, scale, covariance = min(fits, key=lambda fit: fit[0])
    slope = np.linalg.solve(covariance[size:, size:], covariance[size:, :size]) / scale * mu.std(0).max()
    return Separation(mean, std, mean_features(conformation, mean, std), slope)


def _ratio(first: np.ndarray, second: np.ndarray) -> float:
    """Return the ratio of the total standard deviations of two sets of columns."""
    return float(np.sqrt(first.var(0).sum() / second.var(0).sum()))


def _varies(values: np.ndarray) -> np.ndarray:
    """Return which columns are not constant in single precision."""
    return np.asarray(values.std(0) > np.finfo(np.float32).eps * np.abs(values.mean(0)))
