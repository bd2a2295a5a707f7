"""Traversal of the latent space along one principal component."""

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
    by_percentile: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return latents along one component between two percentiles of its scores; all other scores are 0.

    Parameters
    ----------
    pca
        Principal components of the latents.
    scores
        Scores of the particles, shape (N, zdim).
    component
        Index of the component, counted from 0.
    num_points
        Number of points.
    percentiles
        Percentiles of the scores at which the traversal starts and ends.
    by_percentile
        Space the points evenly in percentiles, so that equal numbers of particles lie between consecutive points,
        instead of evenly in the score.

    Returns
    -------
    latents : numpy.ndarray
        Latents of the points, shape (num_points, zdim).
    positions : numpy.ndarray
        Scores of the points along the component, shape (num_points,).
    """
    if not 0 <= component < scores.shape[1]:
        raise ValueError(f"component {component} does not exist; there are {scores.shape[1]}")
    path = np.zeros((num_points, scores.shape[1]))
    if by_percentile:
        path[:, component] = np.percentile(scores[:, component], np.linspace(*percentiles, num_points))
    else:
        start, end = np.percentile(scores[:, component], percentiles)
        path[:, component] = np.linspace(start, end, num_points)
    return pca.latents(path), path[:, component]
