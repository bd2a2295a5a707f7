"""Positions of numbers in a picture such that none hides another."""

from __future__ import annotations

import numpy as np


def spread_labels(anchors: np.ndarray, distance: float, iterations: int = 200) -> np.ndarray:
    """Move labels apart until their centres keep a distance, starting from their anchors.

    Parameters
    ----------
    anchors
        Where the labels belong, shape (K, 2), in the unit of ``distance`` (points on the page, say).
    distance
        Wanted distance between the centres of two labels.
    iterations
        Rounds of pairwise pushing; it ends early when no pair is too close.

    Returns
    -------
    numpy.ndarray
        Centres of the labels, shape (K, 2). Labels that collide with none stay on their anchor exactly.
    """
    places = np.array(anchors, dtype=np.float64)
    count = len(places)
    if count < 2:
        return places
    # Labels on one spot leave it in directions that differ, else they would be pushed nowhere.
    turn = np.arange(count) * 2.399963
    apart = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    tie = apart[:, None] - apart[None, :]
    tie /= np.linalg.norm(tie, axis=-1, keepdims=True) + np.eye(count)[..., None]
    for _ in range(iterations):
        offset = places[:, None] - places[None, :]
        gap = np.linalg.norm(offset, axis=-1)
        np.fill_diagonal(gap, np.inf)
        lack = distance - gap
        if lack.max() <= 1e-3 * distance:
            break
        direction = np.where(gap[..., None] > 1e-6 * distance, offset / np.maximum(gap, 1e-12)[..., None], tie)
        places += 0.5 * (np.clip(lack, 0.0, None)[..., None] * direction).sum(axis=1)
    return places
