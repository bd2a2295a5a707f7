"""Sums of turned, CTF-weighted subtomograms, and the volumes made of them."""

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
from opustomo.physics.fourier import crop_centre, irfft3, rfft3, shift_phases
from opustomo.physics.tilts import TiltBatch
from opustomo.reconstruct.turning import read_turned, read_turned_weights, sphere_frequencies

REGULARISER = 0.1
"""Added to the weights, as a share of their mean in the shell: what is seen much less than its shell is damped."""
PADDING = 2
"""Sums are kept on the grid of a box this many times as large, which is cropped at last.

Weights that differ from voxel to voxel spread noise beyond the box; on the grid of the box itself it would fold back.
With 267 real ribosomes (box 48) the mean shell correlation of the largest ball with the atomic model is 0.723 instead
of 0.701. Inside the mask of the particle it is the same within 0.002.
"""
BATCH_BYTES = 2**28
PADDED_COPIES = 6
"""Padded complex boxes that one particle needs at a time."""


@dataclass(frozen=True)
class Assignment:
    """Which sums each particle enters: rows of ``members`` (S, n), each entry a sum's number or -1 for none."""

    members: np.ndarray
    sums: int


class Backprojection:
    """Weighted sums Σ c·Y and Σ c² in the reference frame, several at a time.

    Parameters
    ----------
    box
        D of the subtomograms, voxels.
    sums
        How many sums are kept.
    device
        Where to compute.
    padding
        See ``PADDING``; the sums take this to the third power as much memory.
    """

    def __init__(self, box: int, sums: int, device: torch.device | str, padding: int = PADDING) -> None:
        self.box, self.padding, self.device = box, padding, torch.device(device)
        self.left_out: dict[int, str] = {}
        """Why particles were left out, by index."""
        self._places, self._at = sphere_frequencies(box, self.device, padding)
        self._signal = torch.zeros(sums, len(self._at), dtype=torch.complex64, device=self.device)
        self._weight = torch.zeros(sums, len(self._at), device=self.device)
        self._counts = torch.zeros(sums, dtype=torch.long, device=self.device)

    @torch.no_grad()
    def add(self, volumes: Tensor, ctf: Tensor, rotations: Tensor, origins_px: Tensor, members: Tensor) -> None:
        """Add a batch.

        Parameters
        ----------
        volumes
            (B, D, D, D) subtomograms.
        ctf
            (B, D, D, D/2+1) 3D CTFs in their frames.
        rotations, origins_px
            (B, 3, 3) RELION A, and (B, 3) shifts that centre them.
        members
            (S, B) sums that each one enters, -1 for none.
        """
        spectra = rfft3(volumes) * shift_phases(origins_px, self.box, self.box)
        # read apart from each other: the product reaches beyond the box, and would be folded back into it
        transfer = read_turned_weights(ctf, rotations, self._at)
        signal = read_turned(spectra, rotations, self._at) * transfer
        weight = transfer.square()
        for row in members:
            inside = row >= 0
            if inside.any():
                self._signal.index_add_(0, row[inside], signal[inside])
                self._weight.index_add_(0, row[inside], weight[inside])
                self._counts.index_add_(0, row[inside], torch.ones_like(row[inside]))

    def count(self, *sums: int) -> int:
        """Particles in the given sums together."""
        return int(self._counts[list(sums)].sum())

    def volume(self, *sums: int) -> Tensor:
        """Reconstruction (D, D, D) on the CPU from the given sums together; zeros without particles.

        ``V̂ = Σ c·Y / (Σ c² + r)``, r = 0.1 of the mean of Σ c² in the shell (a Wiener filter for a signal that is ten
        times the noise of a shell's average voxel).
        """
        signal, weight = self._signal[list(sums)].sum(0), self._weight[list(sums)].sum(0)
        shells = self._at.norm(dim=1).round().long()
        number = torch.bincount(shells).clamp(min=1)
        mean = torch.zeros(len(number), device=self.device).index_add_(0, shells, weight) / number
        floor = (REGULARISER * mean[shells]).clamp(min=torch.finfo(torch.float32).tiny)
        size = self.padding * self.box
        spectrum = torch.zeros(size * size * (size // 2 + 1), dtype=torch.complex64, device=self.device)
        spectrum[self._places] = signal / (weight + floor)
        centred = torch.fft.fftshift(irfft3(spectrum.view(size, size, -1)))
        return crop_centre(centred, self.box).clone().cpu()


def batch_size_for(box: int) -> int:
    """Particles that fit the memory set aside for a batch."""
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
    """Sum the subtomograms of a set that belong to any sum.

    Parameters
    ----------
    particles
        The set, n particles.
    assignment
        The sums of each.
    poses
        Instead of the set's own.
    ctf_normalised
        Subtomograms were divided by their sampling weights (``--normalizectf``).
    device, workers
        Where to compute; threads that read ahead.
    padding
        See ``PADDING``.
    """
    poses = particles.poses if poses is None else poses
    device = torch.device(device)
    tilts = TiltBatch.pad(particles.tables).to(device)
    result = Backprojection(particles.box, assignment.sums, device, padding)
    rotations, origins = poses.rotations, (poses.origins * particles.box).astype(np.float32)
    wanted = np.flatnonzero((assignment.members >= 0).any(0))
    # particles that share a CTF table follow each other, so that it is evaluated once
    wanted = wanted[np.argsort(particles.table[wanted], kind="stable")]
    size = batch_size_for(particles.box)
    batches = [wanted[i : i + size] for i in range(0, len(wanted), size)]
    kept: tuple[np.ndarray, Tensor] | None = None
    source = VoxelSource(particles.images, cache_bytes=0)
    examine_scale(source, len(particles))

    def leave_out(index: int, reason: str) -> None:
        result.left_out[index] = reason
        if len(result.left_out) > tolerated(len(particles)):
            raise UserError(
                f"{len(result.left_out)} of {len(particles)} subtomograms cannot be used, the last because {reason}; "
                "repair them or take them out of the STAR file"
            )

    with progress(len(wanted), "back-projected") as advance:
        for indices, volumes in load_batches(source, batches, device, (0.0, 1.0), workers, leave_out):
            if not len(indices):
                continue
            distinct, table = np.unique(particles.table[indices], return_inverse=True)
            if kept is None or not np.array_equal(kept[0], distinct):
                chosen = tilts[torch.from_numpy(distinct).to(device)]
                kept = distinct, ctf_volume(chosen, particles.box, particles.apix, normalised=ctf_normalised)
            result.add(
                volumes,
                kept[1][torch.from_numpy(table).to(device)],
                torch.from_numpy(rotations[indices]).to(device),
                torch.from_numpy(origins[indices]).to(device),
                torch.from_numpy(assignment.members[:, indices]).to(device),
            )
            advance(len(indices))
    return result
