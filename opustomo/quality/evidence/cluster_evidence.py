"""Evidence supporting each cluster: particle counts, half-map FSC and held-out likelihood."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from opustomo.data.particles import ParticleSet
from opustomo.io.tomograms import Tomograms, tomograms_of
from opustomo.physics.fsc import ShellCorrelation, half_map_correlation
from opustomo.quality.evidence.half_maps import DEFAULT_READING, Assignment, ReadOptions, back_project, half_sets


@dataclass(frozen=True)
class ClusterEvidence:
    """Evidence supporting one cluster.

    Attributes
    ----------
    particles, halves
        Number of particles in the cluster and in each half set.
    volume
        Back-projection of all particles of the cluster, (D, D, D); None for an empty cluster.
    curve
        FSC between the half maps; None if a half set is empty.
    control
        FSC for the same number of particles drawn from all clusters, which depends only on the number of particles.
    held_out, loss, loss_error
        Number of held-out particles, mean of their generative losses and its standard error; NaN if undefined.
    per_tomogram
        Number of particles in each tomogram, (T,); empty if the particle table has no tomogram names.
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
    """Evidence supporting all clusters.

    Attributes
    ----------
    clusters
        Evidence of each cluster.
    tomograms
        Tomogram of each particle; None if the particle table has no tomogram names.
    half_origin
        Description of how the half sets were assigned.
    left_out
        Reason for each excluded subtomogram.
    """

    clusters: list[ClusterEvidence]
    tomograms: Tomograms | None
    half_origin: str
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class HeldOutLosses:
    """Indices of the held-out particles and their generative losses, both (n,)."""

    indices: np.ndarray
    losses: np.ndarray


def validate_clusters(
    particles: ParticleSet,
    labels: np.ndarray,
    num_clusters: int,
    mask: np.ndarray | None,
    held_out: HeldOutLosses,
    reading: ReadOptions = DEFAULT_READING,
) -> Validation:
    """Compute the evidence for all clusters in one pass over the subtomograms.

    Parameters
    ----------
    particles
        Particle set with the poses to use.
    labels
        Cluster of each particle, (N,). Labels of `num_clusters` or more mark particles excluded by a second round.
    num_clusters
        Number of clusters.
    mask
        Mask for the FSC, (D, D, D), or None.
    held_out
        Losses of the held-out particles.
    reading
        How subtomograms are read.
    """
    halves, origin = half_sets(particles.star)
    inside = labels < num_clusters
    shuffled = shuffled_within(labels, halves, inside, np.random.default_rng(0))
    members = np.full((2, len(labels)), -1, dtype=np.int64)
    for row, assignment in enumerate((labels, shuffled)):
        members[row, inside] = (2 * assignment + halves + 2 * num_clusters * row)[inside]
    sums = back_project(
        particles,
        Assignment(members, 4 * num_clusters),
        reading=reading,
        padding=1,  # limits the memory of the four sums per cluster; cluster and control are treated equally
    )
    soft_mask = None if mask is None else torch.from_numpy(mask)

    def curve(first: int) -> ShellCorrelation | None:
        if min(sums.count(first), sums.count(first + 1)) == 0:
            return None
        return half_map_correlation(sums.volume(first), sums.volume(first + 1), particles.apix, soft_mask)

    tomograms = tomograms_of(particles.star)
    clusters = []
    for cluster in range(num_clusters):
        first = 2 * cluster
        count = sums.count(first, first + 1)
        cluster_losses = held_out.losses[labels[held_out.indices] == cluster]
        cluster_losses = cluster_losses[np.isfinite(cluster_losses)]
        n = len(cluster_losses)
        clusters.append(
            ClusterEvidence(
                particles=count,
                halves=(sums.count(first), sums.count(first + 1)),
                volume=sums.volume(first, first + 1) if count else None,
                curve=curve(first),
                control=curve(first + 2 * num_clusters),
                held_out=n,
                loss=float(cluster_losses.mean()) if n else float("nan"),
                loss_error=float(cluster_losses.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan"),
                per_tomogram=_per_tomogram(tomograms, labels == cluster),
            )
        )
    return Validation(clusters, tomograms, origin, tuple(sums.left_out.values()))


def shuffled_within(labels: np.ndarray, halves: np.ndarray, inside: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Permute the labels of the particles `inside` within each half set, which keeps the cluster sizes in both."""
    shuffled = labels.copy()
    for half in (0, 1):
        indices = np.flatnonzero(inside & (halves == half))
        shuffled[indices] = labels[rng.permutation(indices)]
    return shuffled


def _per_tomogram(tomograms: Tomograms | None, members: np.ndarray) -> np.ndarray:
    if tomograms is None:
        return np.empty(0, dtype=np.int64)
    return np.bincount(tomograms.index[members], minlength=len(tomograms))
