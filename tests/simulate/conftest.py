"""Particle sets to simulate."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from opustomo.simulate.acquisition import Defoci, Optics, TiltScheme
from opustomo.simulate.orientations import PoseSet
from opustomo.simulate.subtomograms import ParticleSet

#: amplitude contrast 1 and no defocus: the contrast transfer is 1 everywhere
NO_CTF = Optics(amplitude_contrast=1.0, cs_mm=0.0)


@pytest.fixture
def make_particles() -> Callable[..., ParticleSet]:
    """A set of given labels and poses; by default without CTF, dose and scale effects but cos t."""

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
