"""The missing wedge of the data compared with that of the 3D CTF, the sign of the tilts, and a figure of both."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from opustomo.data.particles import ParticleSet
from opustomo.data.voxels import VoxelSource
from opustomo.errors import UserError
from opustomo.io.ctf_tables import TiltTable
from opustomo.physics.ctf import TiltBatch, ctf_volume
from opustomo.physics.fourier import crop_center, frequencies, half_spectrum_weights, rfft3, squared_radius

LARGEST_BOX = 64
"""Larger subtomograms are cropped to this box, which contains the particle and resolves any wedge."""
SAMPLE_BYTES = 2**29
TABLES_AT_ONCE = 8
BAND = (0.125, 0.8)
"""Compared radii, as fractions of Nyquist."""
LEAST_RADIUS = 3.0
POWER_FLOOR = 1e-5
"""Shells with a smaller fraction of the power of the strongest shell contain only rounding errors."""
SYMMETRIC = 0.985
DECISIVE = 0.02
POOR = 0.5


@dataclass(frozen=True, eq=False)
class WedgePlanes:
    """Means over ky, normalized per shell and ring, in FFT order, (n, n/2+1).

    Attributes
    ----------
    data, model
        Power of the data, and |c|.
    band
        Frequencies at which the planes are compared.
    particles
        Number of averaged subtomograms.
    broken
        Reasons why other subtomograms could not be used.
    """

    data: Tensor
    model: Tensor
    band: Tensor
    particles: int
    broken: tuple[str, ...]


@dataclass(frozen=True)
class WedgeSummary:
    """Correlations of the power of the data with the 3D CTF.

    Attributes
    ----------
    correlation, mirrored
        Correlation for the tilts as given, and with their sign reversed.
    own_mirror
        Correlation of the 3D CTF with its own mirror image; near 1, the sign cannot be determined.
    particles
        Number of subtomograms.
    """

    correlation: float
    mirrored: float
    own_mirror: float
    particles: int

    @property
    def verdict(self) -> str:
        """``symmetric`` (the sign cannot be determined), ``right``, ``mirrored`` or ``unclear``."""
        if not self.own_mirror < SYMMETRIC:
            return "symmetric"
        if abs(self.correlation - self.mirrored) < DECISIVE:
            return "unclear"
        return "right" if self.correlation > self.mirrored else "mirrored"

    @property
    def line(self) -> str:
        """One line of text."""
        said = {
            "symmetric": "the tilts are symmetric, so their sign cannot be determined",
            "unclear": "the sign of the tilts cannot be determined from the data",
            "right": "the sign of the tilts is right",
            "mirrored": "the MIRRORED sign fits better",
        }[self.verdict]
        return (
            f"correlation of the power of the data with the 3D CTF {self.correlation:.3f}, with the tilt sign mirrored "
            f"{self.mirrored:.3f}: {said} ({self.particles} particles)"
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about implausible values."""
        if not math.isfinite(self.correlation):
            return (
                "the missing wedge could not be compared, because the data have no power at the compared frequencies",
            )
        if self.verdict == "mirrored":
            return (
                f"the missing wedge of the data fits the mirrored tilt angles better ({self.mirrored:.3f} against "
                f"{self.correlation:.3f}): reverse the sign of the tilts in the CTF tables",
            )
        if max(self.correlation, self.mirrored) < POOR:
            return (
                f"the missing wedge of the data does not agree with that of the 3D CTF (correlation "
                f"{self.correlation:.2f}): do the CTF tables belong to these subtomograms, is the tilt axis y, and "
                "were they extracted without rotation?",
            )
        return ()


def summarize_wedge(planes: WedgePlanes) -> WedgeSummary:
    """Correlate the power of the data with the 3D CTF and its mirror image."""
    mirror = mirror_kz(planes.model)
    return WedgeSummary(
        correlation=correlation(planes.data, planes.model, planes.band),
        mirrored=correlation(planes.data, mirror, planes.band),
        own_mirror=correlation(planes.model, mirror, planes.band),
        particles=planes.particles,
    )


def wedge_planes(particles: ParticleSet, source: VoxelSource, normalized: bool, sample: int = 64) -> WedgePlanes:
    """Average the power of a sample of subtomograms, and their 3D CTFs.

    Parameters
    ----------
    particles, source
        Particle set and its voxels.
    normalized
        Whether the subtomograms were divided by their sampling weights.
    sample
        Maximum number of subtomograms, evenly spread over the set.

    Raises
    ------
    UserError
        If none of the subtomograms can be read.
    """
    size, chosen = sample_of(particles, sample)
    power, read, broken = mean_power(source, chosen, size)
    data, shells = plane_of(power)
    tables, shares = np.unique(particles.table[read], return_counts=True)
    ctf = _mean_ctf([particles.tables[table] for table in tables], shares, size, particles.apix, normalized)
    model, _ = plane_of(ctf)
    radius = ring_radius(size)
    strong = torch.nonzero(shells > POWER_FLOOR * shells[1:].max()).flatten()
    finest = min(BAND[1] * size / 2, float(strong.max()) if len(strong) else 0.0)
    band = (radius >= max(LEAST_RADIUS, BAND[0] * size / 2)) & (radius <= finest)
    return WedgePlanes(data, model, band, len(read), tuple(broken))


def sample_of(particles: ParticleSet, sample: int) -> tuple[int, np.ndarray]:
    """Return the box of the comparison and the indices of at most ``sample`` subtomograms that are evenly spread.

    Fewer are chosen if they are large, so that reading takes little time.
    """
    fitting = max(8, SAMPLE_BYTES // int(np.prod(particles.images[0].shape) * particles.images[0].dtype.itemsize))
    chosen = np.unique(np.linspace(0, len(particles) - 1, min(sample, fitting, len(particles))).astype(int))
    return min(particles.box, LARGEST_BOX), chosen


def mean_power(source: VoxelSource, chosen: np.ndarray, size: int) -> tuple[Tensor, np.ndarray, list[str]]:
    """Return the mean power (n, n, n/2+1) of cropped subtomograms, the indices of those read, and errors of the others.

    A window that falls to zero at the edge prevents streaks along the axes.
    """
    at = (torch.arange(size) - size // 2) / (size / 2)
    radius = torch.sqrt(at[:, None, None] ** 2 + at[:, None] ** 2 + at**2)
    window = torch.where(radius < 1, torch.cos(0.5 * math.pi * radius) ** 2, 0.0)
    total = torch.zeros(size, size, size // 2 + 1)
    read, broken = [], []
    for index in chosen:
        try:
            voxels = crop_center(torch.from_numpy(source.read(int(index)).astype(np.float32)), size)
        except UserError as error:
            broken.append(str(error))
            continue
        power = rfft3((voxels - voxels.mean()) * window).abs().square()
        total += power / power.mean().clamp(min=1e-30)  # all particles have the same weight
        read.append(int(index))
    if not read:
        raise UserError(f"None of {len(chosen)} subtomograms can be used. The first error is: {broken[0]}")
    return total / len(read), np.array(read), broken


def _mean_ctf(tables: list[TiltTable], shares: np.ndarray, size: int, apix: float, normalized: bool) -> Tensor:
    """Return the mean |c| of tables, weighted by their numbers of particles ``shares``."""
    total = torch.zeros(size, size, size // 2 + 1)
    for start in range(0, len(tables), TABLES_AT_ONCE):
        some = slice(start, start + TABLES_AT_ONCE)
        ctf = ctf_volume(TiltBatch.pad(tables[some]), size, apix, normalized=normalized)
        total += torch.einsum("bzyx,b->zyx", ctf.abs(), torch.from_numpy(shares[some]).float())
    return total / float(shares.sum())


def plane_of(values: Tensor) -> tuple[Tensor, Tensor]:
    """Divide (n, n, n/2+1) by shell means, average over ky, divide by ring means: (n, n/2+1); shell means (n/2+1,)."""
    size = values.shape[0]
    last = size // 2
    weight = half_spectrum_weights(size)
    shell = (squared_radius(size).sqrt() * size).round().long()
    inside = shell <= last
    means = _binned_means(values, shell, weight)
    flat = torch.where(inside, values / means.clamp(min=1e-30)[shell.clamp(max=last)], 0.0)
    plane = flat.sum(1) / inside.sum(1).clamp(min=1)
    ring = ring_radius(size).round().long()
    rings = _binned_means(plane, ring, weight).clamp(min=1e-30)
    return torch.where(ring <= last, plane / rings[ring.clamp(max=last)], 0.0), means


def _binned_means(values: Tensor, where: Tensor, weight: Tensor) -> Tensor:
    """Return the means of half-spectrum values (…, n/2+1) in bins 0 … n/2."""
    inside = where < len(weight)
    weights = weight.expand_as(values)[inside]
    sums = torch.zeros(len(weight)).index_add_(0, where[inside], values[inside] * weights)
    return sums / torch.zeros(len(weight)).index_add_(0, where[inside], weights)


def ring_radius(size: int) -> Tensor:
    """Return the distance from the tilt axis y in voxels, (n, n/2+1)."""
    kz, _, kx = frequencies(size)
    return torch.sqrt(kz**2 + kx**2)[:, 0]


def mirror_kz(plane: Tensor) -> Tensor:
    """Return the plane mirrored to -kz."""
    return plane.flip(0).roll(1, 0)


def correlation(one: Tensor, two: Tensor, where: Tensor) -> float:
    """Correlate two half planes (n, n/2+1) with the weights of the full plane; NaN if one of them is constant."""
    weight = half_spectrum_weights(one.shape[0]).expand_as(one)[where].double()
    a, b = one[where].double(), two[where].double()
    if not len(a):
        return math.nan
    a, b = a - (weight * a).sum() / weight.sum(), b - (weight * b).sum() / weight.sum()
    return float((weight * a * b).sum() / torch.sqrt((weight * a * a).sum() * (weight * b * b).sum()))


def full_plane(half: Tensor) -> np.ndarray:
    """Convert a half plane in FFT order (n, n/2+1) to the full centered plane: kz -n/2 … n/2-1, kx -n/2 … n/2."""
    kept = half.roll(half.shape[0] // 2, 0)
    mates = mirror_kz(half).roll(half.shape[0] // 2, 0)[:, 1:].flip(1)
    return np.concatenate([mates.numpy(), kept.numpy()], axis=1)
