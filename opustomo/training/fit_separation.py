"""Fit of what composition and conformation share within types of composition.

Within a type of composition, compositions μ and features φ of the conformation are normally distributed, with one
covariance for all types (a Gaussian mixture with tied covariance; BIC selects the number of types). The regression of μ
on φ within types, B = Σ_φφ⁻¹ Σ_φμ, is what they share; the means of the types keep what distinguishes them, also where
they differ in conformation. See docs/method.md, section 6.
"""

from __future__ import annotations

import warnings

import numpy as np

from opustomo.model.config import ModelConfig
from opustomo.model.separation import Separation, feature_count, features, mean_features

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
