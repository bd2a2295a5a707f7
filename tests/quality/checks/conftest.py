"""Small simulated sets whose tilts are not symmetric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from opustomo.data.config import DataConfig
from opustomo.data.particles import ParticleSet, load_particles

Load = Callable[[float, float, bool], ParticleSet]


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Return a function that reads 16 simulated subtomograms of 32³ voxels with given tilts, normalized or not."""
    from opustomo.simulate.acquisition import regular_scheme
    from opustomo.simulate.dataset import SimulationConfig, simulate_dataset
    from opustomo.simulate.volumes import gather_volumes

    folders: dict[tuple[float, float, bool], Path] = {}

    def load(lowest: float, highest: float, normalize: bool = True) -> ParticleSet:
        key = (lowest, highest, normalize)
        if key not in folders:
            volumes, apix = gather_volumes([], ["50S"], None, 32)
            scheme = regular_scheme(lowest, highest, 3.0, 3.0)
            config = SimulationConfig(count=16, apix=apix, scheme=scheme, snr=0.1, normalize=normalize)
            folders[key] = tmp_path_factory.mktemp("one sided") / "set"
            simulate_dataset(volumes, config, folders[key])
        return load_particles(DataConfig(folders[key] / "particles.star"))

    return load


def reversed_tilts(particles: ParticleSet) -> ParticleSet:
    """Return the set with CTF tables whose tilts have the wrong sign."""
    return replace(particles, tables=[replace(table, tilt_deg=-table.tilt_deg) for table in particles.tables])
