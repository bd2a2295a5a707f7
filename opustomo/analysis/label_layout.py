"""Placement of labels in a figure without overlaps."""

from __future__ import annotations

import numpy as np


def spread_labels(anchors: np.ndarray, distance: float, iterations: int = 200) -> np.ndarray:
    """Move labels away from each other until their centers are at least `distance` apart.

    Parameters
    ----------
    anchors
        Initial positions of the labels, shape (K, 2), in the unit of `distance` (for example points on the page).
    distance
        Minimum distance between the centers of two labels.
    iterations
        Maximum number of iterations of pairwise repulsion; stops early when no pair is too close.

    Returns
    -------
    numpy.ndarray
        Centers of the labels, shape (K, 2). Labels without overlap stay exactly at their anchor.
    """
    positions = np.array(anchors, dtype=np.float64)
    count = len(positions)
    if count < 2:
        return positions
    # Coincident labels have no direction of repulsion, so each label gets a different default direction.
    angles = np.arange(count) * 2.399963
    unit_vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    default_direction = unit_vectors[:, None] - unit_vectors[None, :]
    default_direction /= np.linalg.norm(default_direction, axis=-1, keepdims=True) + np.eye(count)[..., None]
    for _ in range(iterations):
        offset = positions[:, None] - positions[None, :]
        separation = np.linalg.norm(offset, axis=-1)
        np.fill_diagonal(separation, np.inf)
        overlap = distance - separation
        if overlap.max() <= 1e-3 * distance:
            break
        direction = offset / np.maximum(separation, 1e-12)[..., None]
        direction = np.where(separation[..., None] > 1e-6 * distance, direction, default_direction)
        positions += 0.5 * (np.clip(overlap, 0.0, None)[..., None] * direction).sum(axis=1)
    return positions
