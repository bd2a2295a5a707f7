"""Analytic densities, and particle sets to simulate."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from opustomo.simulate.acquisition import Defoci, Optics, TiltScheme
from opustomo.simulate.forward_model import ParticleSet, PoseSet

#: amplitude contrast 1 and no defocus: the contrast transfer is 1 everywhere
NO_CTF = Optics(amplitude_contrast=1.0, cs_mm=0.0)


BOX = 32


def _gaussian_blob(center_xyz: np.ndarray, sigma: float = 1.6, box: int = BOX) -> np.ndarray:
    """Return a density (box, box, box) of one Gaussian at `center_xyz` voxels from the center of the box."""
    axis = np.arange(box) - box // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    squared = (x - center_xyz[0]) ** 2 + (y - center_xyz[1]) ** 2 + (z - center_xyz[2]) ** 2
    return np.exp(-0.5 * squared / sigma**2).astype(np.float32)


def _centroid(density: np.ndarray) -> np.ndarray:
    """Return the center of mass x, y, z of |density|³ in voxels from the center of the box."""
    weight = np.abs(density.astype(np.float64)) ** 3
    axis = np.arange(density.shape[0]) - density.shape[0] // 2
    sums = [weight.sum(axis=other) @ axis for other in ((0, 1), (0, 2), (1, 2))]
    return np.array(sums) / weight.sum()


@pytest.fixture
def gaussian_blob() -> Callable[..., np.ndarray]:
    """Return the function that makes the density of a Gaussian from its center, sigma and box."""
    return _gaussian_blob


@pytest.fixture
def centroid() -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that computes the center of mass x, y, z of |density|³."""
    return _centroid


@pytest.fixture
def make_particles() -> Callable[..., ParticleSet]:
    """Return a function that makes a set with given labels and poses, by default without CTF and dose."""

    def make(
        labels: list[int],
        poses: PoseSet,
        tilt_deg: np.ndarray,
        *,
        defocus: float = 0.0,
        dose: float = 0.0,
        optics: Optics = NO_CTF,
    ) -> ParticleSet:
        flat = np.full((len(labels), len(tilt_deg)), defocus)
        scheme = TiltScheme(np.asarray(tilt_deg, dtype=float), np.full(len(tilt_deg), dose))
        return ParticleSet(np.array(labels), poses, Defoci(flat, flat, np.zeros_like(flat)), scheme, optics)

    return make
