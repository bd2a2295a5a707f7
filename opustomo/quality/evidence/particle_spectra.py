"""Low-frequency spectra of single particles in the reference frame, held in memory.

Reconstructions of any grouping of the particles are sums of these spectra. Hundreds of matched random groupings
therefore cost matrix products instead of passes over the subtomograms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from opustomo.data.batches import load_batches
from opustomo.data.particles import ParticleSet
from opustomo.data.voxels import VoxelSource, examine_scale
from opustomo.io.progress_bar import progress
from opustomo.physics.backprojection import interpolate_rotated, interpolate_rotated_weights, sphere_frequencies
from opustomo.physics.ctf import TiltBatch, ctf_volume
from opustomo.physics.fourier import crop_in_fourier_space, crop_spectrum, irfft3, rfft3, shift_phases
from opustomo.quality.evidence.half_maps import DEFAULT_READING, ReadOptions

MAX_BOX = 32
"""Maximum side of the box to which spectra are cropped; 32 voxels hold 16 shells and 9,000 frequencies."""
MAX_PARTICLES = 4000
"""Maximum number of particles, which take 0.5 GB at the maximum box."""
BATCH = 16


@dataclass(frozen=True)
class ParticleSpectra:
    """Spectra of n particles in the reference frame, at M frequencies of the half space kx >= 0.

    Attributes
    ----------
    index
        Index of each particle in the particle set, ascending, (n,).
    signal
        Spectrum times CTF, c·Y, with phases about the center of the box, complex64, (n, M).
    weight
        Squared CTF, c², (n, M).
    frequencies
        Frequencies k (x, y, z) in Fourier voxels, (M, 3).
    flat_indices
        Flat indices of the frequencies in the half spectrum of `box`, (M,).
    box
        Side of the cropped box in voxels.
    apix
        Voxel size of the cropped box in Å.
    """

    index: np.ndarray
    signal: Tensor
    weight: Tensor
    frequencies: Tensor
    flat_indices: Tensor
    box: int
    apix: float

    def __len__(self) -> int:
        return len(self.index)

    @property
    def shells(self) -> Tensor:
        """Shell of each frequency, int64, (M,)."""
        return self.frequencies.norm(dim=1).round().long()

    @property
    def multiplicity(self) -> Tensor:
        """Number of times that each frequency occurs in the full spectrum, 1 at kx = 0 and otherwise 2, (M,)."""
        return torch.where(self.frequencies[:, 0] == 0, 1.0, 2.0)

    def volumes(self, spectra: Tensor) -> Tensor:
        """Transform spectra (R, M) to volumes (R, box, box, box)."""
        full = torch.zeros(len(spectra), self.box * self.box * (self.box // 2 + 1), dtype=torch.complex64)
        full[:, self.flat_indices] = spectra
        full = full.view(-1, self.box, self.box, self.box // 2 + 1)
        return torch.fft.fftshift(irfft3(full), dim=(-3, -2, -1))

    def spectra(self, volumes: Tensor) -> Tensor:
        """Transform volumes (R, box, box, box) to spectra (R, M)."""
        return rfft3(torch.fft.ifftshift(volumes, dim=(-3, -2, -1))).flatten(1)[:, self.flat_indices]


def sampled_particles(wanted: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return at most ``MAX_PARTICLES`` of the particle indices `wanted`, ascending."""
    if len(wanted) <= MAX_PARTICLES:
        return wanted
    return np.sort(np.random.default_rng(seed).choice(wanted, MAX_PARTICLES, replace=False))


@torch.no_grad()
def read_spectra(
    particles: ParticleSet,
    wanted: np.ndarray,
    reading: ReadOptions = DEFAULT_READING,
    phases_from: int | None = None,
) -> ParticleSpectra:
    """Read the spectra of the particles `wanted` in one pass; subtomograms that cannot be used are absent.

    Parameters
    ----------
    particles
        Particle set with the poses to use.
    wanted
        Particle indices, (n,).
    reading
        How subtomograms are read.
    phases_from
        Random seed with which all phases are replaced by those of white noise; None keeps them.
    """
    device = torch.device(reading.device)
    box = min(MAX_BOX, particles.box)
    flat_indices, frequencies = sphere_frequencies(box, device)
    keep = flat_indices % (box // 2 + 1) < box // 2  # frequencies at Nyquist have no conjugate mate
    keep &= frequencies.abs().amax(1) < box / 2
    flat_indices, frequencies = flat_indices[keep], frequencies[keep]
    tilts = TiltBatch.pad(particles.tables).to(device)
    rotations = torch.from_numpy(particles.poses.rotations)
    origins = torch.from_numpy((particles.poses.origins * particles.box).astype(np.float32))
    order = wanted[np.argsort(particles.table[wanted], kind="stable")]
    batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
    source = VoxelSource(particles.images, cache_bytes=0)
    examine_scale(source, len(particles))
    row = np.full(len(particles), -1)
    row[wanted] = np.arange(len(wanted))
    signal = torch.zeros(len(wanted), len(frequencies), dtype=torch.complex64)
    weight = torch.zeros(len(wanted), len(frequencies))
    usable = np.zeros(len(wanted), dtype=bool)
    cached: tuple[np.ndarray, Tensor] | None = None
    with progress(len(order), "particles compared") as advance:
        for indices, volumes in load_batches(
            source, batches, device, (0.0, 1.0), reading.workers, lambda index, reason: None
        ):
            if not len(indices):
                continue
            distinct, table = np.unique(particles.table[indices], return_inverse=True)
            if cached is None or not np.array_equal(cached[0], distinct):
                ctf = ctf_volume(
                    tilts[torch.from_numpy(distinct).to(device)],
                    particles.box,
                    particles.apix,
                    normalized=reading.ctf_normalized,
                )
                cached = distinct, crop_spectrum(ctf, box) * (particles.box / box) ** 3
            phases = shift_phases(origins[indices].to(device), particles.box, box)
            spectra = crop_spectrum(rfft3(volumes), box)
            if phases_from is not None:
                spectra = spectra.abs() * random_phases(indices, box, phases_from).to(device)
            spectra = spectra * phases
            turns = rotations[indices].to(device)
            transfer = interpolate_rotated_weights(cached[1][torch.from_numpy(table).to(device)], turns, frequencies)
            rows = row[indices]
            signal[rows] = (interpolate_rotated(spectra, turns, frequencies) * transfer).cpu()
            weight[rows] = transfer.square().cpu()
            usable[rows] = True
            advance(len(indices))
    return ParticleSpectra(
        index=wanted[usable],
        signal=signal[usable],
        weight=weight[usable],
        frequencies=frequencies.cpu(),
        flat_indices=flat_indices.cpu(),
        box=box,
        apix=particles.apix * particles.box / box,
    )


def random_phases(indices: np.ndarray, box: int, seed: int) -> Tensor:
    """Return the phase factors of white noise, complex64, (n, box, box, box/2+1); the same for the same particle."""
    noise = np.stack([np.random.default_rng([seed, int(i)]).normal(size=(box,) * 3) for i in indices])
    spectra = rfft3(torch.from_numpy(noise.astype(np.float32)))
    return spectra / spectra.abs().clamp(min=1e-12)


def mask_on_box(mask: np.ndarray | None, box: int) -> Tensor:
    """Resample a mask (D, D, D) to a box of `box` voxels, or return a spherical mask if it is None."""
    if mask is None:
        axis = torch.arange(box) - box // 2
        radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).float().sqrt()
        return ((0.45 * box - radius).clamp(-1, 1) + 1) / 2
    values = torch.from_numpy(np.asarray(mask, dtype=np.float32))
    if len(values) == box:
        return values.clamp(0, 1)
    return crop_in_fourier_space(values, box).clamp(0, 1)
