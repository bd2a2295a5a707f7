"""Batches of one viewing direction, every particle once per epoch."""

from __future__ import annotations

import numpy as np


def viewing_batches(
    members: np.ndarray, groups: np.ndarray, batch_size: int, rng: np.random.Generator, smallest: int = 1
) -> list[np.ndarray]:
    """Cut particles into batches that each see, as far as possible, one viewing-direction group.

    What does not fill a batch within its group is joined, in the order of the nested HEALPix index, with what is
    left of neighbouring groups; only the very last batch can be smaller than ``batch_size``.

    Parameters
    ----------
    members
        (M,) particle indices to visit.
    groups
        (N,) viewing group of every particle of the set.
    batch_size
        Particles per batch.
    rng
        Shuffles particles within groups, and the batches.
    smallest
        A last batch of fewer particles goes with the one before it.

    Returns
    -------
    list of ndarray
        Index arrays that together hold each member exactly once.
    """
    if batch_size < 1:
        raise ValueError(f"batch size must be at least 1, got {batch_size}")
    batches: list[np.ndarray] = []
    leftovers: list[np.ndarray] = []
    shuffled = rng.permutation(members)
    for group in np.unique(groups[members]):
        inside = shuffled[groups[shuffled] == group]
        full = len(inside) // batch_size * batch_size
        batches += list(inside[:full].reshape(-1, batch_size))
        leftovers.append(inside[full:])
    rest = np.concatenate(leftovers) if leftovers else shuffled[:0]
    batches += [rest[i : i + batch_size] for i in range(0, len(rest), batch_size)]
    if len(batches) > 1 and len(batches[-1]) < smallest:
        last = batches.pop()
        batches[-1] = np.concatenate([batches[-1], last])
    return [batches[i] for i in rng.permutation(len(batches))]
