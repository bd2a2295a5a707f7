"""Finds what composition and conformation share within kinds of composition.

A mixture of regressions with one slope for all kinds: mu = m_k + B φ(c) + noise of one full covariance, fitted by
expectation-maximisation (Dempster, Laird and Rubin 1977; regressions: DeSarbo and Cron 1988), the number of kinds
by the Bayesian information criterion (Schwarz 1978). Kinds keep what tells them apart, m_k, also where they differ in
conformation: without kinds, an absent body, whose conformation is another, would be taken away with the motion.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from opustomo.model.config import ModelConfig
from opustomo.model.separation import Separation, feature_count, features, mean_features

Array = npt.NDArray[np.float64]
KINDS = (1, 2, 3, 4, 6, 8)
"""Numbers of kinds that are tried."""
STARTS = 3
"""Fits from different divisions, for each number of kinds."""
ITERATIONS = 60
TOLERANCE = 1e-6
"""Gain in log-likelihood per particle below which a fit has ended."""
SAMPLE = 20_000
"""Particles that are fitted, evenly taken from all; the slope needs no more."""
PER_UNKNOWN = 3
"""Particles per unknown below which nothing is fitted, as it would fit noise."""
LEAST_SPREAD = 1e-6
"""Of a number relative to its mean: below, all particles have the same in single precision."""
RIDGE = 1e-6
"""Of the features' and the noise's variance, so that numbers that do not vary do no harm."""


@dataclass(frozen=True, eq=False)
class MixtureFit:
    """A fitted mixture of regressions.

    Attributes
    ----------
    slope
        (P, L), common to all kinds.
    kinds
        (n,) the likeliest kind of each particle.
    bic
        Bayesian information criterion, less is better.
    """

    slope: Array
    kinds: npt.NDArray[np.intp]
    bic: float


def separate_latents(latents: np.ndarray, config: ModelConfig) -> Separation | None:
    """Separation of the latents (N, zdim + zaffinedim) of an epoch; None without bodies or when it cannot be found."""
    if config.bodies is None:
        return None
    return find_separation(latents[:, : config.zdim], latents[:, config.zdim :])


def find_separation(mu: np.ndarray, conformation: np.ndarray) -> Separation | None:
    """Find what compositions (N, L) share with conformations (N, C) within kinds of composition.

    The same latents always give the same.

    Returns
    -------
    Separation or None
        None when there are fewer than ``PER_UNKNOWN`` particles per unknown, or the latents do not vary or are not
        finite.
    """
    mu, conformation = np.asarray(mu, dtype=np.float64), np.asarray(conformation, dtype=np.float64)
    if len(mu) < PER_UNKNOWN * unknowns(1, feature_count(conformation.shape[1]), mu.shape[1]):
        return None
    if not (np.isfinite(mu).all() and np.isfinite(conformation).all()):
        return None
    mean, std, varies = _spread(conformation)
    _, spread, some = _spread(mu)
    if not (varies.any() and some.any()):
        return None
    sample = np.linspace(0, len(mu) - 1, min(len(mu), SAMPLE)).round().astype(np.intp)
    phi = features(conformation[sample], mean, std)
    unit = spread[some].max()  # one for all, so that what tells much keeps its weight in the division into kinds
    fits = [
        fit_mixture(mu[sample] / unit, phi - phi.mean(0), kinds)
        for kinds in KINDS
        if len(sample) >= PER_UNKNOWN * unknowns(kinds, phi.shape[1], mu.shape[1])
    ]
    slope = min(fits, key=lambda fit: fit.bic).slope * unit
    if not np.isfinite(slope).all():
        return None
    return Separation(mean, std, mean_features(conformation, mean, std), slope)


def fit_mixture(mu: Array, phi: Array, kinds: int) -> MixtureFit:
    """Fit ``mu`` (n, L) by ``kinds`` regressions on features ``phi`` (n, P), centred, that share slope and covariance.

    Fits start from k-means of what the slope found before leaves over, at first none; the one of least BIC is given.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    slope = np.zeros((phi.shape[1], mu.shape[1]))
    best: MixtureFit | None = None
    for start in range(STARTS if kinds > 1 else 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct latents than kinds
            labels = KMeans(kinds, n_init=2, random_state=start).fit_predict(mu - phi @ slope)
        found = _expectation_maximisation(mu, phi, np.eye(kinds)[labels])
        slope = found.slope
        if best is None or found.bic < best.bic:
            best = found
    assert best is not None
    return best


def unknowns(kinds: int, count: int, size: int) -> int:
    """Free numbers of a mixture: means, weights, slope (count, size) and covariance."""
    return kinds * size + kinds - 1 + count * size + size * (size + 1) // 2


def _expectation_maximisation(mu: Array, phi: Array, shares: Array) -> MixtureFit:
    """From the share (n, K) that each kind has in each particle."""
    number, size = mu.shape
    count, kinds = phi.shape[1], shares.shape[1]
    phi_phi = phi.T @ phi + RIDGE * number * np.eye(count)
    phi_mu = phi.T @ mu
    likelihood = -np.inf
    for _ in range(ITERATIONS):
        weights = shares.sum(0) + 1e-9
        mean_phi, mean_mu = (shares.T @ phi) / weights[:, None], (shares.T @ mu) / weights[:, None]
        weighted = mean_phi.T * weights
        slope = np.linalg.solve(phi_phi - weighted @ mean_phi, phi_mu - weighted @ mean_mu)
        rest, means = mu - phi @ slope, mean_mu - mean_phi @ slope
        noise = (rest.T @ rest - (means.T * weights) @ means) / number + RIDGE * np.eye(size)
        whiten = np.linalg.inv(np.linalg.cholesky(noise)).T
        white, places = rest @ whiten, means @ whiten
        squares = (white**2).sum(1)[:, None] - 2.0 * white @ places.T + (places**2).sum(1)
        logs = np.log(weights / number) - 0.5 * squares
        logs += np.log(np.diag(whiten)).sum() - 0.5 * size * np.log(2.0 * np.pi)
        most = logs.max(1, keepdims=True)
        shares = np.exp(logs - most)
        sums = shares.sum(1, keepdims=True)
        shares /= sums
        before, likelihood = likelihood, float((most + np.log(sums)).sum())
        if likelihood - before < TOLERANCE * number:
            break
    bic = -2.0 * likelihood + np.log(number) * unknowns(kinds, count, size)
    return MixtureFit(slope, shares.argmax(1), bic)


def _spread(values: Array) -> tuple[Array, Array, npt.NDArray[np.bool_]]:
    """Mean and standard deviation of columns, 1 where they do not vary, and which do."""
    mean, std = values.mean(0), values.std(0)
    varies = std > LEAST_SPREAD * np.abs(mean)
    return mean, np.where(varies, std, 1.0), varies
