"""Residual features of particles relative to the consensus, their inner products and contrasts.

The spectrum of a particle is modeled as ``Y = c (Σ_b a_b V_b + Σ_t e_t ∂_t V) + noise``. V is the map of all
particles, V_b its part in a band of shells, and ∂_t V its derivatives for turns and shifts. The residual of the fit,
``c·Y - c²·(…)``, contains neither the contrast and B factor of the particle nor its pose error, and its expectation is
zero for any viewing direction if all particles show the same structure. Differences of classes are differences of mean
residuals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from opustomo.physics.backprojection import interpolate_rotated
from opustomo.quality.evidence.particle_spectra import ParticleSpectra

BAND = 2
"""Width in shells of the bands in which each particle has its own contrast."""
TURN_DEG = 2.0
"""Half the turn by which derivatives of the map are computed."""
EXPECTED_DIFFERENCE = 0.05
"""Power of a difference between classes over that of the map, which sets the weights of the shells."""
CHUNK = 256


@dataclass(frozen=True)
class ParticleFeatures:
    """Inner products of the residuals of n particles inside the mask, in units of their noise.

    Attributes
    ----------
    gram
        Inner products of all residuals, (n, n).
    gram_first, gram_second
        The same from two disjoint sets of frequencies with independent noise.
    signal_power
        Power of the map in the same units.
    contrast
        Contrast of each particle relative to the map, (n,).
    """

    gram: np.ndarray
    gram_first: np.ndarray
    gram_second: np.ndarray
    signal_power: float
    contrast: np.ndarray


@dataclass(frozen=True)
class Consensus:
    """Map of all particles, its noise and the weights of the shells.

    Attributes
    ----------
    spectrum
        Map, (M,).
    noise
        Noise variance of the spectra in each shell, (S,).
    shell_weight
        Factor that whitens residuals and weights the shells, (S,).
    """

    spectrum: Tensor
    noise: Tensor
    shell_weight: Tensor

    def importance(self, spectra: ParticleSpectra) -> Tensor:
        """Return the inverse noise variance of each frequency, (M,); 0 for the mean value, which is arbitrary."""
        shells = spectra.shells
        return torch.where(shells > 0, spectra.multiplicity / self.noise[shells], 0.0)


def shell_mean(values: Tensor, spectra: ParticleSpectra) -> Tensor:
    """Average values (M,) over the shells, (S,)."""
    shells, weight = spectra.shells, spectra.multiplicity
    total = torch.zeros(int(shells.max()) + 1)
    count = total.clone().index_add_(0, shells, weight).clamp(min=1)
    return total.index_add_(0, shells, values.float() * weight) / count


@torch.no_grad()
def fit_consensus(spectra: ParticleSpectra, halves: np.ndarray) -> Consensus:
    """Reconstruct the map of all particles and estimate the power of signal and noise in each shell.

    Parameters
    ----------
    spectra
        Spectra of n particles.
    halves
        Half set of each particle, 0 or 1, (n,).
    """
    half = [torch.from_numpy(np.flatnonzero(halves == number)) for number in (0, 1)]
    sums = [(spectra.signal[rows].sum(0), spectra.weight[rows].sum(0)) for rows in half]
    floors = [0.1 * shell_mean(weight, spectra)[spectra.shells] + 1e-12 for _, weight in sums]
    maps = [signal / (weight + floor) for (signal, weight), floor in zip(sums, floors, strict=True)]
    power = shell_mean((maps[0] * maps[1].conj()).real, spectra).clamp(min=0)
    signal, weight = spectra.signal.sum(0), spectra.weight.sum(0)
    plain = signal / (weight + 0.1 * shell_mean(weight, spectra)[spectra.shells] + 1e-12)
    residual = torch.zeros(len(spectra.frequencies))
    for start in range(0, len(spectra), CHUNK):
        rows = slice(start, start + CHUNK)
        residual += (spectra.signal[rows] - spectra.weight[rows] * plain).abs().square().sum(0)
    mean_weight = shell_mean(weight, spectra)
    noise = shell_mean(residual, spectra) / mean_weight.clamp(min=1e-12)
    noise = noise.clamp(min=1e-6 * float(noise.max()))
    ratio = power * mean_weight / noise  # signal-to-noise ratio of the map of all particles
    wiener = noise / power.clamp(min=1e-6 * float(power.max()))
    spectrum = signal / (weight + wiener[spectra.shells])
    expected = EXPECTED_DIFFERENCE * ratio
    shell_weight = (expected / (1 + expected)).sqrt() / (noise * mean_weight / len(spectra)).clamp(min=1e-20).sqrt()
    shell_weight[0] = 0.0
    return Consensus(spectrum, noise, shell_weight)


def nuisance_maps(spectra: ParticleSpectra, consensus: Consensus) -> Tensor:
    """Return the maps that a particle may contain besides its structure, (T, M): bands, turns and shifts of the map."""
    shells, spectrum = spectra.shells, consensus.spectrum
    bands = [torch.where((shells - 1).div(BAND, rounding_mode="floor") == band, spectrum, 0) for band in range(8)]
    bands = [band for band in bands if band.abs().sum() > 0]
    shifts = [2j * np.pi / spectra.box * spectra.frequencies[:, axis] * spectrum for axis in range(3)]
    full = torch.zeros(spectra.box * spectra.box * (spectra.box // 2 + 1), dtype=torch.complex64)
    full[spectra.flat_indices] = spectrum
    full = full.view(spectra.box, spectra.box, -1)
    sign = 1 - 2 * (torch.arange(spectra.box) % 2).float()  # interpolate_rotated expects phases about voxel D/2
    full = full * sign[:, None, None] * sign[:, None] * sign[: spectra.box // 2 + 1]
    turns = []
    for axis in range(3):
        pair = []
        for angle in (TURN_DEG, -TURN_DEG):
            vector = torch.zeros(3, 3)
            i, j = (axis + 1) % 3, (axis + 2) % 3
            vector[i, j], vector[j, i] = -np.deg2rad(angle), np.deg2rad(angle)
            pair.append(interpolate_rotated(full[None], torch.matrix_exp(vector)[None], spectra.frequencies)[0])
        turns.append(pair[0] - pair[1])
    return torch.stack([*bands, *shifts, *turns])


@dataclass(frozen=True)
class Residuals:
    """Residuals of the particles after subtraction of the nuisance maps.

    Attributes
    ----------
    spectra, consensus
        Spectra of n particles, and the map of all.
    halves
        Half set of each particle, 0 or 1, (n,).
    mask
        Mask on the box of the spectra, (box, box, box).
    values
        Residuals of c·Y, (n, M).
    contrast
        Contrast of each particle relative to the map, (n,).
    """

    spectra: ParticleSpectra
    consensus: Consensus
    halves: np.ndarray
    mask: Tensor
    values: Tensor
    contrast: np.ndarray


@torch.no_grad()
def fit_residuals(spectra: ParticleSpectra, halves: np.ndarray, mask: Tensor) -> Residuals:
    """Subtract the fitted nuisance maps from each particle.

    Parameters
    ----------
    spectra
        Spectra of n particles.
    halves
        Half set of each particle, 0 or 1, (n,).
    mask
        Mask on the box of the spectra, (box, box, box).
    """
    consensus = fit_consensus(spectra, halves)
    maps = nuisance_maps(spectra, consensus)
    importance = consensus.importance(spectra)
    maps = maps / ((maps.abs().square() * importance).sum(1, keepdim=True).sqrt() + 1e-20)
    count = len(maps)
    pairs = (maps[:, None] * maps[None].conj()).real * importance
    pairs = pairs.view(count * count, -1)
    result = torch.empty_like(spectra.signal)
    consensus_power = consensus.spectrum.abs().square() * importance
    contrast = np.empty(len(spectra))
    for start in range(0, len(spectra), CHUNK):
        rows = slice(start, start + CHUNK)
        signal, weight = spectra.signal[rows], spectra.weight[rows]
        normal = (weight @ pairs.T).view(-1, count, count)
        ridge = 1e-4 * normal.diagonal(dim1=1, dim2=2).mean(1)
        right = (signal @ (maps.conj() * importance).T).real
        fit = torch.linalg.solve(normal + ridge[:, None, None] * torch.eye(count), right)
        result[rows] = signal - weight * (fit.to(maps.dtype) @ maps)
        overlap = (signal * (consensus.spectrum.conj() * importance)).real.sum(1)
        contrast[rows] = (overlap / (weight @ consensus_power)).numpy()
    return Residuals(spectra, consensus, halves, mask, result, contrast)


def frequency_sets(spectra: ParticleSpectra) -> tuple[Tensor, Tensor]:
    """Return two disjoint sets of frequencies, (M,) bool, that share no neighbors and occur in all shells.

    They are the octants with positive and with negative kx·ky·kz; the planes between them are left out, because
    interpolation correlates the noise of neighboring frequencies.
    """
    product = spectra.frequencies.prod(1)
    return product > 0, product < 0


@torch.no_grad()
def particle_features(residuals: Residuals) -> ParticleFeatures:
    """Compute the inner products of the residuals of all particles inside the mask."""
    spectra, consensus, mask = residuals.spectra, residuals.consensus, residuals.mask
    factor = consensus.shell_weight[spectra.shells]
    inside = mask.flatten() > 0.05
    soft = mask.flatten()[inside]

    def masked(values: Tensor) -> Tensor:
        parts = []
        for start in range(0, len(values), CHUNK):
            volumes = spectra.volumes(values[start : start + CHUNK] * factor)
            parts.append(volumes.flatten(1)[:, inside] * soft)
        return torch.cat(parts)

    grams = []
    scale = 0.0
    for chosen in (None, *frequency_sets(spectra)):
        part = masked(residuals.values if chosen is None else torch.where(chosen, residuals.values, 0))
        if chosen is None:
            scale = float(part.square().sum(1).mean())
        grams.append((part @ part.T / scale).numpy().astype(np.float64))
    everything = masked(spectra.signal)
    total = everything.sum(0)
    count = len(spectra)
    cross = float(total.square().sum() - everything.square().sum()) / (count * (count - 1)) / scale
    return ParticleFeatures(grams[0], grams[1], grams[2], max(cross, 1e-12), residuals.contrast)
