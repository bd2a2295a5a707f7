"""How each particle was imaged, as covariates that may explain a clustering."""

from __future__ import annotations

import numpy as np

from opustomo.data.particles import ParticleSet
from opustomo.io.tomograms import coordinates_of, scores_of, tomograms_of
from opustomo.quality.evidence.matched_controls import Covariate, categories, standardized


def imaging_covariates(particles: ParticleSet, chosen: np.ndarray, held_out: np.ndarray) -> list[Covariate]:
    """Return the covariates of the particles `chosen` (n,): view, tilt axis, defocus, tomogram, score, height, split.

    Covariates that are the same for all particles or that the table lacks are absent.

    Parameters
    ----------
    particles
        Particle set.
    chosen
        Particle indices, (n,).
    held_out
        Indices of the particles that were held out from training.
    """
    rotations = particles.poses.rotations[chosen].astype(np.float64)
    view, axis = rotations[:, 2], rotations[:, 1]  # beam and tilt axis in the frame of the reference: rows of A
    found = [
        Covariate("the viewing direction", standardized(np.concatenate([view, _products(view)], 1))),
        Covariate("the direction of the tilt axis", standardized(_products(axis))),
    ]
    defocus = np.array([float(np.mean(table.defocus_u_A)) for table in particles.tables])[particles.table[chosen]]
    found.append(Covariate("defocus", standardized(defocus)))
    tilts = np.array([len(table.tilt_deg) for table in particles.tables], dtype=np.float64)[particles.table[chosen]]
    found.append(Covariate("the number of tilts", standardized(tilts)))
    tomograms = tomograms_of(particles.star)
    if tomograms is not None and len(np.unique(tomograms.index[chosen])) > 1:
        found.append(Covariate("the tomogram", categories(tomograms.index[chosen])))
    for name, values in scores_of(particles.star).items():
        found.append(Covariate(f"the score {name}", standardized(values[chosen])))
    coordinates = coordinates_of(particles.star)
    if coordinates is not None:
        found.append(Covariate("the height in the tomogram", standardized(coordinates[chosen, 2])))
    split = np.isin(chosen, held_out).astype(np.float64)
    found.append(Covariate("being held out from training", standardized(split), matched=False))
    return [covariate for covariate in found if covariate.values.shape[1]]


def _products(vectors: np.ndarray) -> np.ndarray:
    """Return the products of the components of unit vectors (n, 3), which do not depend on their sign, (n, 5)."""
    x, y, z = vectors.T
    return np.stack([x * y, x * z, y * z, x**2 - y**2, z**2], 1)
