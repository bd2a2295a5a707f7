"""Power of the data compared with the number of slices per voxel, and division by that number."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from opustomo.data.config import DataConfig
from opustomo.data.particles import load_particles
from opustomo.data.voxels import VoxelSource, pooled_std
from opustomo.quality.checks.reconstruction_kind import Divided, power_exponent
from tests.quality.checks.conftest import Load


def test_power_of_plain_back_projections(simulated: Load) -> None:
    """Their noise grows with the number of slices, that of normalized ones falls."""
    plain, divided = (simulated(-60.0, 60.0, normalized) for normalized in (False, True))
    exponents = [power_exponent(some, VoxelSource(some.images)) for some in (plain, divided)]
    assert exponents[0] > 0.8
    assert exponents[1] < -0.3
    assert power_exponent(plain, VoxelSource(plain.images), sample=3) == pytest.approx(exponents[0], abs=0.3)


def test_divided_subtomograms_are_reported_as_divided(simulated: Load) -> None:
    """Those of the same noise that were divided when they were made correlate with them and have their exponent."""
    plain, made = (simulated(-60.0, 60.0, normalized) for normalized in (False, True))
    found, wanted = Divided(plain, VoxelSource(plain.images)), VoxelSource(made.images)
    assert found.box == 32
    for index in (0, 7):
        assert np.corrcoef(found.read(index).ravel(), wanted.read(index).ravel())[0, 1] > 0.9
        assert np.corrcoef(found.read(index).ravel(), VoxelSource(plain.images).read(index).ravel())[0, 1] < 0.9
    assert pooled_std(found, 16, 5) == pytest.approx(pooled_std(found, 16), rel=0.02)


def test_slices_that_nowhere_overlap_tell_nothing(simulated: Load) -> None:
    particles = simulated(-60.0, 60.0, False)
    one = [replace(table, scale=np.where(np.abs(table.tilt_deg) < 1, 1.0, 0.0)) for table in particles.tables]
    assert math.isnan(power_exponent(replace(particles, tables=one), VoxelSource(particles.images)))


def test_the_example_set_is_divided(shared_data: Path) -> None:
    particles = load_particles(DataConfig(shared_data / "sim_3state/particles.star"))
    assert power_exponent(particles, VoxelSource(particles.images)) < -0.5
