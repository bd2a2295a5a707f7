"""Power of the data against the number of slices per voxel, and division of the data by that number."""

from __future__ import annotations

import math

import numpy as np
import torch

from opustomo.data.particles import ParticleSet
from opustomo.data.voxels import VoxelSource
from opustomo.physics.ctf import TiltBatch, division_filters, sampling_weights
from opustomo.physics.fourier import frequencies, irfft3, rfft3, squared_radius
from opustomo.quality.checks.wedge import mean_power, sample_of

BAND = (0.5, 0.9)
"""Shells looked at, as fractions of Nyquist: there most of the power is noise."""


def power_exponent(particles: ParticleSet, source: VoxelSource, sample: int = 64) -> float:
    """Exponent p of ``power ~ w^p`` within shells, where slices overlap (w ≥ 1); nan if they nowhere do.

    Parameters
    ----------
    particles, source
        The set.
    sample
        At most so many subtomograms are looked at, evenly spread over the set.

    Raises
    ------
    UserError
        None of the subtomograms can be read.
    """
    size, chosen = sample_of(particles, sample)
    power, read, _ = mean_power(source, chosen, size)
    tables = TiltBatch.pad([particles.tables[table] for table in particles.table[read]])
    weights = sampling_weights(tables, size).mean(0).expand_as(power)
    shell = (squared_radius(size).sqrt() * size).round().long()
    overlap = (weights >= 1.0) & (power > 0) & (frequencies(size)[2] > 0)
    slopes = scale = 0.0
    for radius in range(math.ceil(BAND[0] * size / 2), int(BAND[1] * size / 2) + 1):
        inside = overlap & (shell == radius)
        if inside.any():
            x, y = (torch.log(values[inside]) for values in (weights, power))
            x = x - x.mean()
            slopes, scale = slopes + float((x * y).sum()), scale + float(x.square().sum())
    return slopes / scale if scale > 0 else math.nan


class Divided:
    """Voxels of plain back-projections after division by their sampling weights.

    Parameters
    ----------
    particles, source
        The set, and its voxels as stored.
    """

    def __init__(self, particles: ParticleSet, source: VoxelSource) -> None:
        self.box = source.box
        self._particles, self._source = particles, source

    def read(self, index: int) -> np.ndarray:
        """Voxels (D, D, D); errors are those of the source."""
        tilts = TiltBatch.pad([self._particles.tables[self._particles.table[index]]])
        voxels = torch.from_numpy(self._source.read(index).astype(np.float32))
        return irfft3(rfft3(voxels) * division_filters(tilts, self.box)[0]).numpy()
