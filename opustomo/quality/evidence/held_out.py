"""Generative loss of single particles, which measures how well a model explains held-out data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from opustomo.data.batches import load_batches
from opustomo.data.particles import ParticleSet
from opustomo.data.voxels import VoxelSource, examine_scale
from opustomo.io.progress_bar import progress
from opustomo.model.autoencoder import Autoencoder
from opustomo.model.batch import Batch
from opustomo.model.step import StepState
from opustomo.physics.ctf import TiltBatch


@dataclass(frozen=True)
class ComparisonSettings:
    """How the training compares voxels with the model.

    Attributes
    ----------
    norm
        Shift and scale of the voxels.
    bfactor_A2
        B factor of the comparison at the epoch of the model.
    per_particle
        Whether each subtomogram was divided by its own standard deviation.
    """

    norm: tuple[float, float]
    bfactor_A2: float
    per_particle: bool = False


@torch.no_grad()
def particle_losses(
    model: Autoencoder,
    particles: ParticleSet,
    indices: np.ndarray,
    settings: ComparisonSettings,
    batch_size: int = 8,
    workers: int = 2,
) -> np.ndarray:
    """Return the generative loss of each particle, as validation computes it: no augmentation, z = mu.

    Parameters
    ----------
    model
        In evaluation mode, on its device.
    particles
        The set, with the poses to be used.
    indices
        (n,) particles to look at.
    settings
        How the training compares voxels with the model.
    batch_size, workers
        Number of particles per batch and of prefetching threads.

    Returns
    -------
    ndarray
        (n,) float64, ``Σ x² - 2 Σ x r`` over N_norm (docs/method.md, sections 3 and 7): 0 for a model that explains
        nothing, negative the better it explains; NaN for a subtomogram that cannot be used. Poses were inferred from
        the same data, so the gain that this brings on average is added.
    """
    device = model.mask.device
    tilts = TiltBatch.pad(particles.tables).to(device)
    table = torch.from_numpy(particles.table)
    rotations = torch.from_numpy(particles.poses.rotations)
    origins = torch.from_numpy((particles.poses.origins * particles.box).astype(np.float32))
    # pose.N.pkl holds poses as corrected
    state = StepState(settings.bfactor_A2, 0.0, 0.0, 0.0, torch.tensor(0.0, device=device), None, moves_pose=False)
    inferred = model.config.estimate_pose and not model.physics.original
    losses = np.full(len(particles), np.nan)
    batches = [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]
    source = VoxelSource(particles.images, cache_bytes=0)
    examine_scale(source, len(particles), settings.per_particle)
    with progress(len(indices), "held-out particles") as advance:
        for chosen, volumes in load_batches(
            source, batches, device, settings.norm, workers, lambda index, reason: None
        ):
            if len(chosen):
                index = torch.from_numpy(chosen)
                distinct, rows = torch.unique(table[index], return_inverse=True)
                batch = Batch(
                    index.to(device),
                    volumes,
                    tilts[distinct.to(device)],
                    rows.to(device),
                    rotations[index].to(device),
                    origins[index].to(device),
                    deviation=torch.zeros(len(index), 6, device=device) if inferred else None,
                )
                generated = model.generative(batch, model.inference(batch, state), state)
                losses[chosen] = model.reconstruction(generated, held_out=True)[0].double().cpu().numpy()
            advance(len(chosen))
    return losses[indices]
