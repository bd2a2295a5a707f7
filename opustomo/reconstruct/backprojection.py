"""CTF-weighted back-projection of subtomograms in Fourier space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from opustomo.data.loader import load_batches
from opustomo.data.particles import ParticleSet, tolerated
from opustomo.data.scale import examine_scale
from opustomo.data.source import VoxelSource
from opustomo.errors import UserError
from opustomo.io.poses import Poses
from opustomo.io.progress import progress
from opustomo.physics.ctf3d import ctf_volume
from opustomo.physics.tilts import TiltBatch
from opustomo.reconstruct.accumulator import PADDING, Backprojection

BATCH_BYTES = 2**28
PADDED_COPIES = 6
"""Number of padded complex boxes that one particle requires in memory."""


@dataclass(frozen=True)
class Assignment:
    """Assignment of particles to sums.

    Attributes
    ----------
    members
        Index of the sum that each particle is added to, or -1 for none, (S, n). A particle can be added to several
        sums, one per row.
    sums
        Number of sums.
    """

    members: np.ndarray
    sums: int


def batch_size_for(box: int) -> int:
    """Return the number of particles per batch for a given box size and memory limit."""
    return max(1, min(16, BATCH_BYTES // (PADDED_COPIES * 8 * (2 * box) ** 2 * (box + 1))))


def back_project(
    particles: ParticleSet,
    assignment: Assignment,
    poses: Poses | None = None,
    *,
    ctf_normalised: bool = False,
    device: torch.device | str = "cpu",
    workers: int = 2,
    padding: int = PADDING,
) -> Backprojection:
    """Back-project the subtomograms of a particle set into their assigned sums.

    Parameters
    ----------
    particles
        Particle set, n particles.
    assignment
        Assignment of the particles to sums.
    poses
        Poses that replace those of the particle set; None keeps them.
    ctf_normalised
        Whether the subtomograms were divided by their sampling weights (``--normalizectf``).
    device, workers
        Device of the computation and number of prefetching threads.
    padding
        Padding factor, see ``PADDING``.

    Raises
    ------
    UserError
        If too many subtomograms cannot be used.
    """
    poses = particles.poses if poses is None else poses
    device = torch.device(device)
    tilts = TiltBatch.pad(particles.tables).to(device)
    result = Backprojection(particles.box, assignment.sums, device, padding)
    rotations, origins = poses.rotations, (poses.origins * particles.box).astype(np.float32)
    assigned = np.flatnonzero((assignment.members >= 0).any(0))
    # Sort the particles by CTF table so that each 3D CTF is evaluated once.
    assigned = assigned[np.argsort(particles.table[assigned], kind="stable")]
    size = batch_size_for(particles.box)
    batches = [assigned[i : i + size] for i in range(0, len(assigned), size)]
    cached_ctf: tuple[np.ndarray, Tensor] | None = None
    source = VoxelSource(particles.images, cache_bytes=0)
    examine_scale(source, len(particles))

    def leave_out(index: int, reason: str) -> None:
        result.left_out[index] = reason
        if len(result.left_out) > tolerated(len(particles)):
            raise UserError(
                f"{len(result.left_out)} of {len(particles)} subtomograms cannot be used, the last because {reason}. "
                "Repair them or remove them from the STAR file."
            )

    with progress(len(assigned), "back-projected") as advance:
        for indices, volumes in load_batches(source, batches, device, (0.0, 1.0), workers, leave_out):
            if not len(indices):
                continue
            distinct, table = np.unique(particles.table[indices], return_inverse=True)
            if cached_ctf is None or not np.array_equal(cached_ctf[0], distinct):
                selected = tilts[torch.from_numpy(distinct).to(device)]
                ctf = ctf_volume(selected, particles.box, particles.apix, normalised=ctf_normalised)
                cached_ctf = distinct, ctf
            result.add(
                volumes,
                cached_ctf[1][torch.from_numpy(table).to(device)],
                torch.from_numpy(rotations[indices]).to(device),
                torch.from_numpy(origins[indices]).to(device),
                torch.from_numpy(assignment.members[:, indices]).to(device),
            )
            advance(len(indices))
    return result
