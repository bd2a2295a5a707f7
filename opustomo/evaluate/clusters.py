"""What speaks for each class of a k-means: its numbers, its own half maps, its held-out likelihood."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from opustomo.data.particles import ParticleSet
from opustomo.io.star_places import Tomograms, tomograms_of
from opustomo.physics.fsc import ShellCorrelation, half_map_correlation
from opustomo.reconstruct.backprojection import Assignment, back_project
from opustomo.reconstruct.halves import half_sets


@dataclass(frozen=True)
class ClusterEvidence:
    """Evidence for one class.

    Attributes
    ----------
    particles, halves
        Number of particles, and of those in each half.
    volume
        (D, D, D) back-projection of all its particles, None without any.
    curve
        FSC of its half maps; None when a half is empty.
    control
        The same for as many particles drawn from all classes: what numbers alone would give.
    held_out, loss, loss_error
        Held-out particles, the mean of their generative losses and its standard error; NaN without any.
    per_tomogram
        Particles in each tomogram, (T,); empty when the table names none.
    """

    particles: int
    halves: tuple[int, int]
    volume: Tensor | None
    curve: ShellCorrelation | None
    control: ShellCorrelation | None
    held_out: int
    loss: float
    loss_error: float
    per_tomogram: np.ndarray


@dataclass(frozen=True)
class Validation:
    """Evidence for all classes, the tomograms it counts by, and in words how half sets were made.

    ``left_out`` says why subtomograms could not be used.
    """

    clusters: list[ClusterEvidence]
    tomograms: Tomograms | None
    half_origin: str
    left_out: tuple[str, ...] = ()


def validate_clusters(
    particles: ParticleSet,
    labels: np.ndarray,
    num_clusters: int,
    mask: np.ndarray | None,
    held_out: np.ndarray,
    losses: np.ndarray,
    *,
    ctf_normalised: bool = False,
    device: str = "cpu",
    workers: int = 2,
    seed: int = 0,
) -> Validation:
    """Collect the evidence in one pass over the subtomograms.

    Parameters
    ----------
    particles
        The set, with the poses to be used.
    labels
        (N,) class of each; labels from ``num_clusters`` on belong to none (left out by a second round).
    mask
        (D, D, D) for the FSC, or None.
    held_out, losses
        (n,) particles that were held out, and their generative losses.
    ctf_normalised, device, workers
        As :func:`back_project`.
    seed
        Of the control's draw.
    """
    halves, origin = half_sets(particles.star)
    inside = labels < num_clusters
    shuffled = shuffled_within(labels, halves, inside, np.random.default_rng(seed))
    members = np.full((2, len(labels)), -1, dtype=np.int64)
    for row, chosen in enumerate((labels, shuffled)):
        members[row, inside] = (2 * chosen + halves + 2 * num_clusters * row)[inside]
    sums = back_project(
        particles,
        Assignment(members, 4 * num_clusters),
        ctf_normalised=ctf_normalised,
        device=device,
        workers=workers,
        padding=1,  # four sums a class would need too much memory; classes and control are treated alike
    )
    soft = None if mask is None else torch.from_numpy(mask)

    def curve(first: int) -> ShellCorrelation | None:
        if min(sums.count(first), sums.count(first + 1)) == 0:
            return None
        return half_map_correlation(sums.volume(first), sums.volume(first + 1), particles.apix, soft)

    tomograms = tomograms_of(particles.star)
    found = []
    for cluster in range(num_clusters):
        first = 2 * cluster
        count = sums.count(first, first + 1)
        own = losses[labels[held_out] == cluster]
        own = own[np.isfinite(own)]
        found.append(
            ClusterEvidence(
                particles=count,
                halves=(sums.count(first), sums.count(first + 1)),
                volume=sums.volume(first, first + 1) if count else None,
                curve=curve(first),
                control=curve(first + 2 * num_clusters),
                held_out=len(own),
                loss=float(own.mean()) if len(own) else float("nan"),
                loss_error=float(own.std(ddof=1) / np.sqrt(len(own))) if len(own) > 1 else float("nan"),
                per_tomogram=_per_tomogram(tomograms, labels == cluster),
            )
        )
    return Validation(found, tomograms, origin, tuple(sums.left_out.values()))


def shuffled_within(labels: np.ndarray, halves: np.ndarray, inside: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Labels dealt anew among the particles ``inside``, within each half: every class keeps its numbers in both."""
    shuffled = labels.copy()
    for half in (0, 1):
        places = np.flatnonzero(inside & (halves == half))
        shuffled[places] = labels[rng.permutation(places)]
    return shuffled


def _per_tomogram(tomograms: Tomograms | None, members: np.ndarray) -> np.ndarray:
    if tomograms is None:
        return np.empty(0, dtype=np.int64)
    return np.bincount(tomograms.index[members], minlength=len(tomograms))
