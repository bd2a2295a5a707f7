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
    by_percentile: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Latents spaced along one component between two percentiles of its scores, all other scores 0.

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
    by_percentile
        Space the points evenly in percentiles, so that as many particles lie between any two, instead of evenly
        along the component.

    Returns
    -------
    latents : numpy.ndarray
        Shape (num_points, zdim).
    positions : numpy.ndarray
        Scores of the points along the component, shape (num_points,).
    """
    if not 0 <= component < scores.shape[1]:
        raise ValueError(f"component {component} of {scores.shape[1]}")
    path = np.zeros((num_points, scores.shape[1]))
    if by_percentile:
        path[:, component] = np.percentile(scores[:, component], np.linspace(*percentiles, num_points))
    else:
        start, end = np.percentile(scores[:, component], percentiles)
        path[:, component] = np.linspace(start, end, num_points)
    return pca.latents(path), path[:, component]
