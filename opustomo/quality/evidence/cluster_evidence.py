"""Evidence supporting each cluster: particle counts, half-map FSC, held-out likelihood, resemblance to a reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from opustomo.data.particles import ParticleSet
from opustomo.errors import UserError
from opustomo.io.atomic import write_csv
from opustomo.io.mrc import pixel_sizes_differ, read_volume
from opustomo.io.tomograms import Tomograms, tomograms_of
from opustomo.physics.fourier import irfft3, rfft3
from opustomo.physics.fsc import ShellCorrelation, half_map_correlation, shell_correlation
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


def read_reference(path: Path, box: int, apix: float) -> np.ndarray:
    """Read a reference map, (D, D, D), in the box of the subtomograms.

    Raises
    ------
    UserError
        If box or pixel size are not those of the subtomograms, or if the map is constant or not finite.
    """
    volume, own = read_volume(path)
    if volume.shape != (box,) * 3 or pixel_sizes_differ(own, apix):
        shape = "×".join(str(n) for n in reversed(volume.shape))
        size = "no pixel size" if own is None else f"a pixel size of {own:.4g} Å"
        raise UserError(
            f"The reference {path} has {shape} voxels and {size}, but the subtomograms have {box}³ voxels of "
            f"{apix:.4g} Å. Resample it to their box."
        )
    if not np.isfinite(volume).all() or not volume.std() > 0:
        raise UserError(f"The reference {path} is constant or contains values that are not finite.")
    return np.asarray(volume, dtype=np.float32)


@dataclass(frozen=True)
class ReferenceMatch:
    """Which clusters show the object of a reference.

    Attributes
    ----------
    mean_fsc
        Mean FSC of the back-projection of each cluster with the reference, shape (K,); NaN for empty clusters.
    kept
        Numbers of the cluster with the largest mean FSC and of those that cannot be distinguished from it, ascending.
    undecided
        Numbers of the clusters for which the evidence does not decide whether they differ from these, ascending.
    displacement_px
        Displacement z, y, x of the clusters from the reference in whole pixels, for which ``mean_fsc`` was computed.
    """

    mean_fsc: np.ndarray
    kept: list[int]
    undecided: list[int]
    displacement_px: tuple[int, int, int] = (0, 0, 0)

    @property
    def best(self) -> int:
        """Number of the cluster with the largest mean FSC."""
        return int(np.nanargmax(self.mean_fsc))

    def lines(self, name: str) -> list[str]:
        """Return the result in sentences; `name` is the file of the reference."""
        rest = np.where(np.isin(np.arange(len(self.mean_fsc)), self.kept), np.nan, self.mean_fsc)
        said = [f"Class {self.best} resembles {name} most, with a mean FSC of {self.mean_fsc[self.best]:.3f}."]
        if others := [number for number in self.kept if number != self.best]:
            said.append(f"The evidence does not distinguish it from {self._named(others)}.")
        if np.isfinite(rest).any():
            said.append(f"The next is {self._named([int(np.nanargmax(rest))])}.")
        if self.undecided:
            said.append(
                f"The evidence does not decide about {self._named(self.undecided)}; fewer clusters may decide it."
            )
        lines = [" ".join(said)]
        if any(self.displacement_px):
            x, y, z = reversed(self.displacement_px)
            lines.append(
                f"Note: the maps are displaced by ({x}, {y}, {z}) px (x, y, z) from {name}, and were compared at this "
                "displacement. The picks are displaced in the frame of the particle, or the reference is not that of "
                "the picking."
            )
        return lines

    def _named(self, numbers: list[int]) -> str:
        named = ", ".join(f"{number} ({self.mean_fsc[number]:.3f})" for number in numbers)
        return f"{'class' if len(numbers) == 1 else 'classes'} {named}"

    def write(self, path: Path) -> None:
        """Write the mean FSC of each cluster and whether the cluster is kept."""
        rows = [
            [number, "" if np.isnan(value) else f"{value:.4f}", int(number in self.kept)]
            for number, value in enumerate(self.mean_fsc)
        ]
        write_csv(path, [["cluster", "reference_fsc", "kept"], *rows])


def match_reference(
    volumes: Sequence[Tensor | None],
    reference: np.ndarray,
    mask: np.ndarray | None,
    same: Sequence[tuple[int, int]] = (),
    unclear: Sequence[tuple[int, int]] = (),
) -> ReferenceMatch:
    """Compare clusters with a reference inside a mask.

    All clusters are compared at one displacement from the reference. It is zero unless a map resembles the reference
    more at another one than all maps do at zero: programs of template matching may displace the frame of the particle
    by a part of a voxel of a binned tomogram.

    Parameters
    ----------
    volumes
        Back-projection of each cluster, (D, D, D), or None for empty clusters.
    reference, mask
        Reference map and solvent mask, (D, D, D); no mask if it is None.
    same, unclear
        Pairs of clusters that cannot be distinguished from each other, and about which the evidence does not decide.

    Raises
    ------
    UserError
        If all clusters are empty.
    """
    soft = torch.ones(reference.shape) if mask is None else torch.from_numpy(mask)
    template = torch.from_numpy(reference) * soft

    def resemblance(volume: Tensor, displacement: tuple[int, int, int]) -> float:
        moved = volume.float().roll([-step for step in displacement], (0, 1, 2))
        return float(shell_correlation(moved * soft, template)[1:].mean())

    maps = {number: volume for number, volume in enumerate(volumes) if volume is not None}
    if not maps:
        raise UserError("All clusters are empty, so that none can be compared with the reference.")
    tried = [displacement_px(volume.float(), template) for volume in maps.values()]
    displacement = max(
        dict.fromkeys([(0, 0, 0), *tried]),  # the first of equal ones counts
        key=lambda one: max(resemblance(volume, one) for volume in maps.values()),
    )
    found = np.full(len(volumes), np.nan)
    for number, volume in maps.items():
        found[number] = resemblance(volume, displacement)
    best = int(np.nanargmax(found))
    kept = {best}
    while grown := [pair for pair in same if len(kept.intersection(pair)) == 1]:
        kept.update(*grown)
    undecided = set().union(*(pair for pair in unclear if kept.intersection(pair))) - kept
    return ReferenceMatch(found, sorted(kept), sorted(undecided), displacement)


def displacement_px(volume: Tensor, template: Tensor) -> tuple[int, int, int]:
    """Return the displacement z, y, x in whole pixels at which a volume (D, D, D) correlates most with a template.

    The displacement is at most an eighth of the box along each axis.
    """
    size = len(template)
    product = rfft3(volume) * rfft3(template - template.mean()).conj()
    correlation = torch.fft.fftshift(irfft3(product))
    reach, center = size // 8, size // 2
    near = correlation[(slice(center - reach, center + reach + 1),) * 3]
    z, y, x = (int(index) - reach for index in np.unravel_index(int(near.argmax()), near.shape))
    return z, y, x
