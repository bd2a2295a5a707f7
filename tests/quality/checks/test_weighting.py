"""Whether subtomograms were divided by their sampling weights, told by their power."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from opustomo.data.config import DataConfig
from opustomo.data.particles import load_particles
from opustomo.data.voxels import VoxelSource, pooled_std
from opustomo.quality.checks.weighting import Divided, about_weighting, is_plain, power_exponent
from tests.quality.checks.conftest import Load


def test_plain_back_projections_are_told(simulated: Load) -> None:
    """Their noise grows with the number of slices, that of normalised ones falls."""
    plain, divided = (simulated(-60.0, 60.0, normalised) for normalised in (False, True))
    exponents = [power_exponent(some, VoxelSource(some.images)) for some in (plain, divided)]
    assert exponents[0] > 0.8 and is_plain(exponents[0])
    assert exponents[1] < -0.3 and not is_plain(exponents[1])
    assert power_exponent(plain, VoxelSource(plain.images), sample=3) == pytest.approx(exponents[0], abs=0.3)


def test_divided_subtomograms_are_told_as_divided(simulated: Load) -> None:
    """Those of the same noise that were divided when they were made correlate with them and have their exponent."""
    plain, made = (simulated(-60.0, 60.0, normalised) for normalised in (False, True))
    found, wanted = Divided(plain, VoxelSource(plain.images)), VoxelSource(made.images)
    assert found.box == 32
    for index in (0, 7):
        assert np.corrcoef(found.read(index).ravel(), wanted.read(index).ravel())[0, 1] > 0.9
        assert np.corrcoef(found.read(index).ravel(), VoxelSource(plain.images).read(index).ravel())[0, 1] < 0.9
    assert pooled_std(found, 16, 5) == pytest.approx(pooled_std(found, 16), rel=0.02)


def test_slices_that_nowhere_overlap_tell_nothing(simulated: Load) -> None:
    particles = simulated(-60.0, 60.0, False)
    one = [replace(table, scale=np.where(np.abs(table.tilt_deg) < 1, 1.0, 0.0)) for table in particles.tables]
    exponent = power_exponent(replace(particles, tables=one), VoxelSource(particles.images))
    assert math.isnan(exponent) and not is_plain(exponent)


def test_what_is_said() -> None:
    assert "w^1.02: plain back-projections, which are divided by w" in about_weighting(1.02, True)
    assert "look divided by their sampling weights; train with --normalizectf" in about_weighting(-0.9, False)
    assert about_weighting(0.1, False).endswith("they are taken as they are")
    assert about_weighting(math.nan, False).endswith("they are taken as they are")


def test_the_example_set_is_divided(shared_data: Path) -> None:
    particles = load_particles(DataConfig(shared_data / "sim_3state/particles.star"))
    assert power_exponent(particles, VoxelSource(particles.images)) < -0.5
