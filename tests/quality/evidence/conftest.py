"""One simulated set that all tests of the reconstruction share."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from opustomo.data.config import DataConfig
from opustomo.data.particles import ParticleSet, load_particles
from opustomo.io.poses import Poses


@dataclass(frozen=True)
class Simulated:
    """Set of one state: its folder, particles with given poses, true poses, and true density (D, D, D)."""

    folder: Path
    particles: ParticleSet
    true_poses: Poses
    density: np.ndarray

    @property
    def star(self) -> Path:
        return self.folder / "particles.star"


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    """Return 80 subtomograms of the large subunit with poses off by 6°; tests must not write into it."""
    from opustomo.simulate.acquisition import regular_scheme
    from opustomo.simulate.dataset import SimulationConfig, simulate_dataset
    from opustomo.simulate.volumes import gather_volumes

    volumes, apix = gather_volumes([], ["50S"], 12.0, 24)
    scheme = regular_scheme(-60.0, 60.0, 4.0, 3.0)
    config = SimulationConfig(count=80, apix=apix, scheme=scheme, snr=1.0, rot_err=6.0, shift_err=0.3)
    folder = tmp_path_factory.mktemp("reconstruct") / "a set"
    simulate_dataset(volumes, config, folder)
    truth = np.load(folder / "truth.npz")
    particles = load_particles(DataConfig(star=folder / "particles.star"))
    return Simulated(folder, particles, Poses(truth["eulers"], truth["origin"] / 24), volumes[0])
