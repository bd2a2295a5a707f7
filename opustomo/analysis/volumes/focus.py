"""Analysis of decoded volumes inside a mask, without new training (``--focus``).

The volume of every particle is decoded. Its coordinates are the scores along the principal components of the volumes
inside the mask, so that differences outside of the mask do not affect distances between particles.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from opustomo.analysis.results import ResultDir
from opustomo.analysis.volumes.decoding import VolumeDecoder
from opustomo.analysis.volumes.masked_volumes import (
    MaskedVolumes,
    VolumeComponents,
    fit_volume_components,
    masked_volumes,
)
from opustomo.errors import UserError
from opustomo.io.atomic import atomic_path
from opustomo.io.mrc import write_volume
from opustomo.model.device import choose_device

SAMPLES = 500
"""Largest number of particles to which the principal components are fitted."""
COMPONENTS_FOLDER = "focus"


def focus_scores(
    volumes: MaskedVolumes, latents: np.ndarray, num_components: int, seed: int = 0
) -> tuple[np.ndarray, VolumeComponents]:
    """Compute the coordinates of all particles inside the mask.

    Parameters
    ----------
    volumes
        Decoder and mask.
    latents
        Composition latents of all particles, shape (N, zdim).
    num_components
        Number of principal components.
    seed
        Random seed of the particles to which the components are fitted.

    Returns
    -------
    scores : numpy.ndarray
        Scores of all particles, shape (N, C), float32.
    components : VolumeComponents
        Principal components of the volumes inside the mask.

    Raises
    ------
    UserError
        If all volumes are equal inside the mask.
    """
    rng = np.random.default_rng(seed)
    sampled = np.sort(rng.choice(len(latents), min(SAMPLES, len(latents)), replace=False))
    components = fit_volume_components(volumes.voxels(latents[sampled], "volumes for components"), num_components)
    if not components.variance[0] > 0:
        raise UserError("The decoded volumes are all equal inside the mask of --focus. Give another mask.")
    return volumes.scores(latents, components).astype(np.float32), components


def write_focus(
    results: ResultDir, epoch: int, mask: Path, latents: np.ndarray, outdir: Path, say: Callable[[str], None]
) -> np.ndarray:
    """Compute the coordinates of all particles inside a mask, and write the mask and components to ``focus``.

    Parameters
    ----------
    results, epoch
        Result directory of the run and epoch.
    mask
        MRC mask in the box of the subtomograms.
    latents
        Composition latents of all particles, shape (N, zdim).
    outdir
        Output folder of the analysis.
    say
        Callback that receives progress messages.

    Returns
    -------
    numpy.ndarray
        Scores along the principal components, shape (N, C), float32.
    """
    decoder = VolumeDecoder(results.epoch_file("weights", epoch), results.config(), choose_device(None))
    volumes = masked_volumes(decoder, mask, None)
    say(f"{outdir.name}: decoding {len(latents):,} particles; {int(volumes.inside.sum()):,} voxels lie inside {mask}.")
    scores, components = focus_scores(volumes, latents, latents.shape[1])
    folder = outdir / COMPONENTS_FOLDER
    with atomic_path(folder) as partial:
        partial.mkdir()
        write_volume(partial / "mask.mrc", volumes.mask, volumes.apix, volumes.origin_A)
        write_volume(partial / "mean.mrc", volumes.as_volume(components.mean), volumes.apix, volumes.origin_A)
        for number, axis in enumerate(components.components, start=1):
            scaled = axis * np.sqrt(components.variance[number - 1])
            write_volume(partial / f"component{number}.mrc", volumes.as_volume(scaled), volumes.apix, volumes.origin_A)
        if folder.is_dir():
            shutil.rmtree(folder)
    return scores
