"""Principal components of latents, always as many as the latent has dimensions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PrincipalComponents:
    """A linear change of axes of the latent space.

    Attributes
    ----------
    mean
        Mean latent, shape (zdim,).
    components
        Unit axes as rows, by decreasing variance, shape (zdim, zdim).
    variance
        Variance along each axis (N - 1 in the denominator), shape (zdim,).
    """

    mean: np.ndarray
    components: np.ndarray
    variance: np.ndarray

    @property
    def variance_ratio(self) -> np.ndarray:
        """Share of the variance along each axis, shape (zdim,); zeros when all latents are equal."""
        total = self.variance.sum()
        return self.variance / total if total > 0 else np.zeros_like(self.variance)

    def scores(self, latents: np.ndarray) -> np.ndarray:
        """Coordinates (N, zdim) of latents (N, zdim) along the axes."""
        return (latents - self.mean) @ self.components.T

    def latents(self, scores: np.ndarray) -> np.ndarray:
        """Latents (N, zdim) at given scores (N, zdim); the inverse of :meth:`scores`."""
        return scores @ self.components + self.mean


def fit_pca(latents: np.ndarray) -> PrincipalComponents:
    """Principal components of raw latents, without scaling of the dimensions.

    Unlike ``sklearn.decomposition.PCA`` this gives zdim axes for fewer than zdim particles too, so that files
    keep their shapes. The entry of largest magnitude of every axis is positive, so that repeated runs agree
    in sign.

    Parameters
    ----------
    latents
        Shape (N, zdim), finite.

    Raises
    ------
    ValueError
        Not a matrix with at least one row and one column.
    """
    if latents.ndim != 2 or 0 in latents.shape:
        raise ValueError(f"latents must be (N, zdim) with N, zdim > 0, got {latents.shape}")
    values = latents.astype(np.float64)
    mean = values.mean(axis=0)
    centred = values - mean
    covariance = centred.T @ centred / max(len(values) - 1, 1)
    variance, axes = np.linalg.eigh(covariance)
    variance, components = np.clip(variance[::-1], 0.0, None), axes[:, ::-1].T
    # Variance at rounding level is none: equal latents must not show a leading axis made of noise.
    variance[variance <= (np.finfo(np.float32).eps * np.abs(values).max()) ** 2] = 0.0
    largest = np.abs(components).argmax(axis=1)
    components = components * np.sign(components[np.arange(len(components)), largest])[:, None]
    return PrincipalComponents(mean, components, variance)
