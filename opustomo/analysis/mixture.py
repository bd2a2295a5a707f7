"""Gaussian mixture models of latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from opustomo.analysis.pca import PrincipalComponents, fit_pca

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture


@dataclass(frozen=True)
class LatentMixture:
    """Gaussian mixture in the scaled principal components of the latents.

    Attributes
    ----------
    model
        Fitted mixture.
    pca
        Principal components of the latents.
    widths
        Scale of each component, shape (zdim,).
    """

    model: GaussianMixture
    pca: PrincipalComponents
    widths: np.ndarray

    @property
    def centers(self) -> np.ndarray:
        """Means of the Gaussians in latent space, shape (K, zdim)."""
        return self.pca.latents(self.model.means_ * self.widths)

    def predict(self, latents: np.ndarray) -> np.ndarray:
        """Return the most probable Gaussian of each latent, shape (N,), int64."""
        return self.model.predict(self._scores(latents)).astype(np.int64)

    def log_likelihood(self, latents: np.ndarray) -> float:
        """Return the mean log-likelihood of latents (N, zdim)."""
        return float(self.model.score(self._scores(latents)) - np.log(self.widths).sum())

    def bic(self, latents: np.ndarray) -> float:
        """Return the Bayesian information criterion for latents (N, zdim); lower is better."""
        scores = self._scores(latents)
        return float(self.model.bic(scores) + 2 * len(scores) * np.log(self.widths).sum())

    def _scores(self, latents: np.ndarray) -> np.ndarray:
        return self.pca.scores(latents) / self.widths


def fit_mixture(latents: np.ndarray, number: int, seed: int) -> LatentMixture:
    """Fit a Gaussian mixture.

    The covariances are full if there are on average at least five particles per parameter in each cluster, and
    diagonal otherwise. EM converges to a local optimum near its k-means initialization. K-means on unscaled axes splits
    elongated clusters, and k-means on whitened axes may split others. Both are run, and the solution of higher
    likelihood is returned.

    Parameters
    ----------
    latents
        Latents, shape (N, zdim), float64.
    number
        Number of Gaussians, K.
    seed
        Random seed.
    """
    from sklearn.mixture import GaussianMixture

    dimension = latents.shape[1]
    parameters = dimension * (dimension + 3) / 2
    covariance_type = "full" if len(latents) >= 5 * parameters * number else "diag"
    pca = fit_pca(latents)
    scale = float(np.sqrt(pca.variance.max())) or 1.0
    axis_scalings = [np.full(dimension, scale)]
    if pca.variance.min() > 1e-6 * pca.variance.max():
        axis_scalings.append(np.sqrt(pca.variance))
    fits = []
    for widths in axis_scalings:
        model = GaussianMixture(
            number, covariance_type=covariance_type, reg_covar=1e-4, max_iter=500, random_state=seed
        ).fit(pca.scores(latents) / widths)
        fits.append(LatentMixture(model, pca, widths))
    return max(fits, key=lambda fit: fit.log_likelihood(latents))
