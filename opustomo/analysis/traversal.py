"""Straight paths through the latent space along one principal component."""

from __future__ import annotations

import numpy as np

from opustomo.analysis.pca import PrincipalComponents

NUM_POINTS = 10
PERCENTILES = (1.0, 99.0)


def pc_traversal(
    pca: PrincipalComponents,
    scores: np.ndarray,
    component: int,
    num_points: int = NUM_POINTS,
    percentiles: tuple[float, float] = PERCENTILES,
) -> tuple[np.ndarray, np.ndarray]:
    """Evenly spaced latents along one component between two percentiles of its scores, all other scores 0.

    Parameters
    ----------
    pca
        The components.
    scores
        Scores of the particles, shape (N, zdim).
    component
        Index of the component, from 0.
    num_points
        Number of points.
    percentiles
        Percentiles of the particles' scores at which the path starts and ends.

    Returns
    -------
    latents : numpy.ndarray
        Shape (num_points, zdim).
    positions : numpy.ndarray
        Scores of the points along the component, shape (num_points,).
    """
    if not 0 <= component < scores.shape[1]:
        raise ValueError(f"component {component} of {scores.shape[1]}")
    start, end = np.percentile(scores[:, component], percentiles)
    path = np.zeros((num_points, scores.shape[1]))
    path[:, component] = np.linspace(start, end, num_points)
    return pca.latents(path), path[:, component]
