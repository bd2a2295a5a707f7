"""Tests of whether the data follow a coordinate of the particles more than matched random coordinates do.

The coordinate is the membership in one of two classes, or a position along a motion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from opustomo.quality.evidence.residual_features import ParticleFeatures

SPLITS = 300
"""Number of matched random splits; smaller p-values are estimated from their first three moments."""
BOOTSTRAP = 300
"""Number of bootstrap samples."""


@dataclass(frozen=True)
class SplitTest:
    """Change of the map with a coordinate of the particles.

    Attributes
    ----------
    change, change_error
        Power of the change of the map per unit of the coordinate over the power of the map of all particles, without
        bias by noise, and the standard deviation of this estimate for matched random splits.
    p_value
        Probability that the map changes as much with a matched random coordinate.
    confirmed, confirmed_low, confirmed_high
        Fraction of the change that is confirmed by frequencies with independent noise, and its 95 % interval; NaN if
        there is no change. It is 0 for coordinates that were made from noise.
    movable
        Fraction of the variance of the coordinate that lies within the strata of matched particles.
    """

    change: float
    change_error: float
    p_value: float
    confirmed: float
    confirmed_low: float
    confirmed_high: float
    movable: float

    @property
    def upper(self) -> float:
        """Upper end of the 98 % interval of the change."""
        return max(self.change, 0.0) + 2.33 * self.change_error


def matched_permutations(
    coordinate: np.ndarray, strata: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Permute the coordinates (n,) of particles within strata (n,), and return `count` permutations (count, n)."""
    result = np.repeat(coordinate[None], count, 0)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        order = rng.random((count, len(members))).argsort(1)
        result[:, members] = coordinate[members][order]
    return result


def tail_probability(value: float, null: np.ndarray) -> float:
    """Return the probability of `value` or more under a null sample, from its rank or, beyond it, its moments."""
    from scipy import stats

    rank = (1 + int((null >= value).sum())) / (1 + len(null))
    if rank > 5 / (1 + len(null)) or null.std() == 0:
        return float(rank)
    skew = float(np.clip(stats.skew(null), 0.0, 2.0))
    return float(stats.pearson3.sf(value, skew, loc=null.mean(), scale=null.std(ddof=1)))


def slope_coefficients(coordinates: np.ndarray) -> np.ndarray:
    """Return the coefficients (R, n) of the regression slopes of particles on coordinates (R, n).

    For a coordinate of 0 and 1 the slope is the difference of the class means.
    """
    centered = coordinates - coordinates.mean(1, keepdims=True)
    return np.asarray(centered / np.maximum((centered**2).sum(1, keepdims=True), 1e-12))


def slope_power(gram: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Return the squared lengths (R,) of slopes, from products of different particles only."""
    return np.asarray(((coefficients @ gram) * coefficients).sum(1) - coefficients**2 @ np.diag(gram))


def confirmed_fraction(
    scores: np.ndarray, coordinate: np.ndarray, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Estimate which fraction of the change with a coordinate is confirmed by independent noise.

    Regardless of the coordinate, the scores of a particle in both sets of frequencies covary over particles only as
    far as the particles differ. If they differ along the coordinate, this covariance equals that of the scores that
    the coordinate predicts. If the coordinate was made from the noise of the particles, it predicts the scores, but
    the scores do not covary.

    Parameters
    ----------
    scores
        Score of each particle along the change that the other particles show, in both sets of frequencies, (2, n).
    coordinate
        Coordinate of each particle, (n,).
    rng
        Random generator of the bootstrap.

    Returns
    -------
    fraction, low, high : float
        Ratio of both covariances and its 95 % interval; NaN if the coordinate does not predict the scores in both
        sets.
    """
    count = len(coordinate)
    draws = np.concatenate([np.arange(count)[None], rng.integers(0, count, (BOOTSTRAP, count))])
    drawn, at = scores[:, draws], coordinate[draws]
    drawn = drawn - drawn.mean(-1, keepdims=True)
    at = at - at.mean(-1, keepdims=True)
    variance = np.maximum((at**2).mean(-1), 1e-12)
    slopes = (drawn * at).mean(-1) / variance
    if not (slopes[:, 0] > 0).all():
        return float("nan"), float("nan"), float("nan")
    predicted = slopes.prod(0) * variance
    # Bootstrap samples without a change in both sets do not determine the ratio.
    ratio = np.where((slopes > 0).all(0), drawn.prod(0).mean(-1) / np.where(predicted > 0, predicted, 1), np.nan)
    low, high = np.nanpercentile(ratio[1:], [2.5, 97.5])
    return float(ratio[0]), float(low), float(high)


def compare_split(
    features: ParticleFeatures,
    chosen: np.ndarray,
    coordinate: np.ndarray,
    strata: np.ndarray,
    seed: int = 0,
) -> SplitTest:
    """Test whether particles change with a coordinate more than with matched random coordinates.

    Parameters
    ----------
    features
        Inner products of the residuals of all particles.
    chosen
        Rows of the particles that are compared, (n,).
    coordinate
        Coordinate of each of them, (n,).
    strata
        Stratum of each of them, (n,); random coordinates are permuted within strata.
    seed
        Random seed of the permutations and of the bootstrap.
    """
    rng = np.random.default_rng(seed)
    grid = np.ix_(chosen, chosen)
    coordinate = coordinate.astype(np.float64)
    coordinates = np.concatenate([coordinate[None], matched_permutations(coordinate, strata, SPLITS, rng)])
    coefficients = slope_coefficients(coordinates)
    power = slope_power(features.gram[grid], coefficients) / features.signal_power
    scores = np.stack(
        [
            coefficients[0] @ gram[grid] - coefficients[0] * np.diag(gram)[chosen]
            for gram in (features.gram_first, features.gram_second)
        ]
    )
    confirmed, low, high = confirmed_fraction(scores, coordinate, rng)
    within = sum(((coordinate[strata == s] - coordinate[strata == s].mean()) ** 2).sum() for s in np.unique(strata))
    return SplitTest(
        change=float(power[0] - power[1:].mean()),
        change_error=float(power[1:].std(ddof=1)),
        p_value=tail_probability(float(power[0]), power[1:]),
        confirmed=confirmed,
        confirmed_low=low,
        confirmed_high=high,
        movable=float(within / max(((coordinate - coordinate.mean()) ** 2).sum(), 1e-12)),
    )
