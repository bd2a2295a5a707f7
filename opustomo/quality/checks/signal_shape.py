"""Shape of the signal in Fourier space, which shows how the subtomograms were reconstructed.

The power of a subtomogram is mostly noise, and any filter of the reconstruction changes it. The signal is measured
instead: particles of one half set are compared with the average of the other half set, posed and multiplied by their
3D CTFs. Within each shell the amplitude of the signal is modeled as ``g · w^q`` relative to the 3D CTF of a
reconstruction that was divided by its sampling weights w (number of slices per voxel). A plain back-projection has
q = 1, a reconstruction that was weighted in any way has q near 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from opustomo.data.particles import ParticleSet
from opustomo.data.voxels import VoxelSource
from opustomo.errors import UserError
from opustomo.physics.backprojection import Backprojection
from opustomo.physics.ctf import TiltBatch, ctf_volume, sampling_weights
from opustomo.physics.fourier import crop_spectrum, frequencies, irfft3, rfft3, shift_phases, squared_radius
from opustomo.physics.sampling import sample_posed

SAMPLE = 128
SIZE = 48
"""Side of the Fourier crop that is compared; its low frequencies contain most of the signal."""
TOGETHER = 8
FEWEST = 8
WEIGHT_EDGES = (1.0, 1.5, 2.2, 3.2, 4.6, 6.6, 10.0, 15.0, 22.0, math.inf)
EXPONENTS = np.arange(-0.5, 1.751, 0.05)
LOWEST_SHELL = 2
SOFT_EDGE = 0.15
LEAST_RAMP = 0.25
"""Value of a ramp filter on the tilt axis, in Fourier voxels."""
BOOTSTRAPS = 100
LEAST_CTF_SPREAD = 0.05
"""Smallest standard deviation of the log of squared CTFs between particles from which e is measured."""


@dataclass(frozen=True, eq=False)
class SignalShape:
    """Signal of a sample of particles relative to the 3D CTF of a normalized reconstruction.

    Attributes
    ----------
    exponent, error
        Exponent q of the amplitude, ``w^q``, and its standard error from bootstraps over particles.
    plain_z
        Evidence for q = 1 against q = 0, in standard errors over particles; negative values support q = 0.
    ramp_z
        Evidence for a ramp filter against division by w, in standard errors.
    explained
        Fraction of the power that the average explains in held-out particles.
    ctf_exponent, ctf_error
        Exponent e of ``power ~ |CTF|^(2e)`` and its standard error; NaN if the CTFs of all particles agree. The noise
        of images that were multiplied by their CTF vanishes at the zeros of the CTF, e = 1; other noise does not depend
        on the CTF, e = 0.
    phase_z
        Evidence for a signal that follows |CTF| (phases of the images flipped, or images multiplied by their CTF)
        against one that follows the CTF with its sign, in standard errors; 0 if the CTF changes its sign nowhere.
    contrast
        Correlation of the averages with the particle's region: positive if the particle is bright. It is the smaller
        one of both half sets, and 0 if their signs differ.
    particles
        Number of particles compared.
    weights, gain : ndarray, (bins,)
        Mean sampling weight of each bin, and the signal's amplitude in it relative to the mean of its shell.
    average : ndarray, (n, n, n)
        Average of all particles compared.
    """

    exponent: float
    error: float
    plain_z: float
    ramp_z: float
    explained: float
    ctf_exponent: float
    ctf_error: float
    phase_z: float
    contrast: float
    particles: int
    weights: np.ndarray
    gain: np.ndarray
    average: np.ndarray


def measure_signal(
    particles: ParticleSet,
    source: VoxelSource,
    mask: np.ndarray | None = None,
    sample: int = SAMPLE,
    device: torch.device | str = "cpu",
) -> SignalShape | None:
    """Compare up to `sample` particles with the average of the other half set.

    Parameters
    ----------
    particles, source
        Particle set and its voxels.
    mask
        Solvent mask (N, N, N), which only serves to find the contrast; None for a ball.
    sample
        Largest number of particles, evenly spread over the set.
    device
        Device that computes.

    Returns
    -------
    SignalShape or None
        None if fewer than eight subtomograms can be read or slices do not overlap anywhere.
    """
    size = min(particles.box, SIZE)
    chosen = np.unique(np.linspace(0, len(particles) - 1, min(sample, len(particles))).astype(int))
    spectra, read = _centered_spectra(particles, source, chosen, size)
    if len(read) < FEWEST:
        return None
    spectra = spectra.to(device)
    ctf, weights = _models(particles, read, size, spectra.device)
    rotations = torch.from_numpy(particles.poses.rotations[read]).float().to(device)
    half = torch.arange(len(read), device=spectra.device) % 2
    # Averages that are computed and posed with |CTF| are compared with those of the CTF, if it changes its sign.
    transfers = [ctf, ctf.abs()] if bool((ctf < 0).any()) else [ctf]
    halves, *unsigned_halves = _averages(spectra, transfers, rotations, half)
    predicted = _predictions(halves, rotations, half) * ctf
    bins = _Bins(spectra, weights)
    sums = _Sums(bins, predicted)
    if not sums.usable:
        return None
    # With gains taken from all particles, a particle contributes to its own gain; a shell has many voxels, so the
    # bias is negligible.
    plain, divided = sums.gains_in_likelihood(1.0), sums.gains_in_likelihood(0.0)
    ramped = predicted * _ramp(size).to(spectra.device) * weights.clamp(min=1.0)
    ramp = _Sums(bins, ramped).gains_in_likelihood(0.0)
    curve = torch.stack([sums.gains_in_likelihood(q) for q in EXPONENTS])
    best = int(curve.sum(1).argmax())
    draws = np.random.default_rng(0).integers(0, len(read), (BOOTSTRAPS, len(read)))
    spread = np.std([EXPONENTS[int(curve[:, draw].sum(1).argmax())] for draw in draws])
    ctf_exponent, ctf_error = _ctf_exponent(spectra, ctf, weights)
    phase_z = 0.0
    for those in unsigned_halves:
        unsigned = _Sums(bins, _predictions(those, rotations, half) * ctf.abs())
        exponent, signed = (1.0, plain) if EXPONENTS[best] > 0.5 else (0.0, divided)
        phase_z = _standard_errors(unsigned.gains_in_likelihood(exponent) - signed)
    average = 0.5 * (halves[0] + halves[1])
    at, gain = sums.amplitude()
    return SignalShape(
        exponent=round(float(EXPONENTS[best]), 2) + 0.0,
        error=float(math.hypot(spread, 0.5 * (EXPONENTS[1] - EXPONENTS[0]))),
        plain_z=_standard_errors(plain - divided),
        ramp_z=_standard_errors(ramp - divided),
        explained=float(curve[best].sum()) / max(sums.voxels, 1.0),
        ctf_exponent=ctf_exponent,
        ctf_error=ctf_error,
        phase_z=phase_z,
        contrast=_contrast(halves, mask),
        particles=len(read),
        weights=at,
        gain=gain,
        average=average.numpy(),
    )


def _ctf_exponent(spectra: Tensor, ctf: Tensor, weights: Tensor) -> tuple[float, float]:
    """Compare power and squared CTF per shell between particles of different defocus.

    The means of each shell and of each particle are removed, so that neither spectra nor scales of particles matter.
    """
    size = spectra.shape[-2]
    shell = _shells(size).to(spectra.device)
    half_space = frequencies(size, spectra.device)[2] > 0
    inside = (weights >= 1.0) & (shell > LOWEST_SHELL) & (shell < size // 2) & half_space
    powers: list[Tensor] = []
    models: list[Tensor] = []
    for row in range(len(spectra)):
        where = inside[row]
        count = torch.bincount(shell[where], minlength=size // 2).clamp(min=1)
        for values, means in ((spectra[row].abs().square(), powers), (ctf[row].square(), models)):
            means.append(torch.bincount(shell[where], values[where].double(), size // 2) / count)
    power, model = (torch.stack(means)[:, LOWEST_SHELL + 1 :].cpu().numpy() for means in (powers, models))
    held = (power > 0).all(0) & (model > 0).all(0)
    if held.sum() < 2:
        return math.nan, math.nan
    y, x = (_double_centered(np.log(values[:, held])) for values in (power, model))
    if x.std() < LEAST_CTF_SPREAD:
        return math.nan, math.nan
    slopes = len(spectra) * (x * y).sum(1) / (x * x).sum()
    return float(slopes.mean()), float(slopes.std() / math.sqrt(len(spectra)))


def _double_centered(values: np.ndarray) -> np.ndarray:
    return values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()


def _shells(size: int) -> Tensor:
    return (squared_radius(size).sqrt() * size).round().long()


def _ramp(size: int) -> Tensor:
    """Return the ramp filter |x'| of slices, which for slices near a voxel is its distance from the tilt axis."""
    kz, _, kx = frequencies(size)
    return torch.sqrt(kz**2 + kx**2).clamp(min=LEAST_RAMP)


def _centered_spectra(
    particles: ParticleSet, source: VoxelSource, chosen: np.ndarray, size: int
) -> tuple[Tensor, np.ndarray]:
    """Read subtomograms, scale them to unit variance, and return their centered, cropped spectra."""
    spectra, read = [], []
    for index in map(int, chosen):
        try:
            voxels = torch.from_numpy(source.read(index).astype(np.float32))
        except UserError:
            continue  # the preflight reports what cannot be read
        voxels = voxels - voxels.mean()
        deviation = voxels.std()
        if deviation > 0:
            spectra.append(crop_spectrum(rfft3(voxels / deviation), size))
            read.append(index)
    if not read:
        return torch.zeros(0), np.zeros(0, dtype=int)
    origins = torch.from_numpy(particles.poses.origins[read] * particles.box).float()
    return torch.stack(spectra) * shift_phases(origins, particles.box, size), np.array(read)


def _models(particles: ParticleSet, read: np.ndarray, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the 3D CTFs of normalized reconstructions and the sampling weights, (n, size, size, size/2+1)."""
    apix = particles.apix * particles.box / size
    distinct, place = np.unique(particles.table[read], return_inverse=True)
    ctf, weights = [], []
    for table in distinct:
        tilts = TiltBatch.pad([particles.tables[table]]).to(device)
        ctf.append(ctf_volume(tilts, size, apix, normalized=True, nyquist=particles.box / 2)[0])
        weights.append(sampling_weights(tilts, size, particles.box / 2)[0].expand_as(ctf[-1]))
    return torch.stack(ctf)[place], torch.stack(weights)[place]


def _averages(spectra: Tensor, transfers: list[Tensor], rotations: Tensor, half: Tensor) -> list[list[Tensor]]:
    """Return the averages (n, n, n) of both half sets inside a soft sphere, for each kind of CTFs."""
    size = spectra.shape[-2]
    kinds = [Backprojection(size, 2, spectra.device, 1) for _ in transfers]
    for start in range(0, len(spectra), TOGETHER):
        some = slice(start, start + TOGETHER)
        signal = kinds[0].interpolated(spectra[some], rotations[some])
        for sums, ctf in zip(kinds, transfers, strict=True):
            sums.add_interpolated(signal, ctf[some], rotations[some], half[None, some])
    at = (torch.arange(size) - size // 2).float()
    radius = torch.sqrt(at[:, None, None] ** 2 + at[:, None] ** 2 + at**2)
    ball = ((size / 2 - radius) / (SOFT_EDGE * size)).clamp(0.0, 1.0)
    return [[sums.volume(0) * ball, sums.volume(1) * ball] for sums in kinds]


def _predictions(halves: list[Tensor], rotations: Tensor, half: Tensor) -> Tensor:
    """Return the spectra of the average of the other half set in the pose of each particle."""
    size, device = halves[0].shape[-1], half.device
    posed = torch.zeros(len(half), size, size, size // 2 + 1, dtype=torch.complex64, device=device)
    for this in (0, 1):
        for rows in torch.nonzero(half == this).flatten().split(TOGETHER):
            posed[rows] = rfft3(sample_posed(halves[1 - this][None].to(device), rotations[rows].mT[None], size)[0])
    return posed


class _Bins:
    """Shells and bins of sampling weights of the voxels of particles, and the noise variance in them.

    The noise variance of each shell and bin is the mean power of all particles.
    """

    def __init__(self, spectra: Tensor, weights: Tensor) -> None:
        size, device = spectra.shape[-2], spectra.device
        shell = _shells(size).to(device)
        self.shells, self.bins = size // 2, len(WEIGHT_EDGES) - 1
        bins = torch.bucketize(weights, torch.tensor(WEIGHT_EDGES, device=device), right=True) - 1
        inside = (bins >= 0) & (shell >= LOWEST_SHELL) & (shell < size // 2) & (frequencies(size, device)[2] > 0)
        key = shell.clamp(max=self.shells - 1) * self.bins + bins.clamp(min=0)
        self.rows: list[tuple[Tensor, Tensor, Tensor]] = []
        power, number, log_weight = (torch.zeros(self.count, dtype=torch.float64, device=device) for _ in range(3))
        for row in range(len(spectra)):
            where = inside[row].flatten().nonzero().flatten()
            at, data = key[row].flatten()[where], spectra[row].flatten()[where]
            self.rows.append((where, at, data))
            power += self.summed(at, data.abs().square())
            number += torch.bincount(at, minlength=self.count)
            log_weight += self.summed(at, weights[row].flatten()[where].log())
        self.number = number.clamp(min=1.0)
        self.variance = (power / self.number).clamp(min=1e-30)
        self.log_weight = log_weight / self.number
        self.voxels = float(inside.sum())
        self.varied = len(torch.unique(bins[inside])) > 2

    @property
    def count(self) -> int:
        """Number of bins in all shells."""
        return self.shells * self.bins

    def summed(self, at: Tensor, values: Tensor) -> Tensor:
        """Return the sums of values over bins ``at``, float64."""
        return torch.bincount(at, values.double(), self.count)


class _Sums:
    """Products of data and predictions of each particle in each shell and bin, divided by the noise variance."""

    def __init__(self, bins: _Bins, predicted: Tensor) -> None:
        self._shells, self._bins, self.voxels = bins.shells, bins.bins, bins.voxels
        self._log_weight, self._number = bins.log_weight.cpu(), bins.number.cpu()
        products, squares = [], []
        for (where, at, data), particle in zip(bins.rows, predicted, strict=True):
            model = particle.flatten()[where]
            products.append(bins.summed(at, (data.conj() * model).real) / bins.variance)
            squares.append(bins.summed(at, model.abs().square()) / bins.variance)
        self._product, self._square = torch.stack(products).cpu(), torch.stack(squares).cpu()
        self.usable = bool(self._square.sum() > 0) and bins.varied

    def gains_in_likelihood(self, exponent: float) -> Tensor:
        """Return what the model ``g(shell) · w^exponent`` gains in twice the log-likelihood, per particle."""
        product, square, gain = self._fit(torch.exp(exponent * self._log_weight))
        return (2 * gain * product - gain**2 * square).sum(1)

    def _fit(self, factor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shape = (-1, self._shells, self._bins)
        product = (self._product * factor).view(shape).sum(2)
        square = (self._square * factor**2).view(shape).sum(2)
        return product, square, (product.sum(0) / square.sum(0).clamp(min=1e-30)).clamp(min=0.0)

    def amplitude(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean weight of each bin and the amplitude of the signal in it, fitted as g(shell) · h(bin)."""
        product = self._product.sum(0).view(self._shells, self._bins)
        square = self._square.sum(0).view(self._shells, self._bins)
        amplitude = torch.ones(self._bins, dtype=torch.float64)
        for _ in range(20):  # alternating least squares converges within a few rounds
            gain = (product * amplitude).sum(1) / (square * amplitude**2).sum(1).clamp(min=1e-30)
            gain = gain.clamp(min=0.0)[:, None]
            amplitude = (product * gain).sum(0) / (square * gain**2).sum(0).clamp(min=1e-30)
        number = self._number.view(self._shells, self._bins)
        at = (self._log_weight.view(self._shells, self._bins) * number).sum(0) / number.sum(0)
        held = (square.sum(0) > 0) & (at > 0)
        return np.exp(at[held].numpy()), amplitude[held].numpy()


def _standard_errors(difference: Tensor) -> float:
    """Return the sum of differences per particle in units of its standard error."""
    error = float(difference.std()) * math.sqrt(len(difference))
    return float(difference.sum()) / error if error > 0 else 0.0


def _contrast(halves: list[Tensor], mask: np.ndarray | None) -> float:
    """Return the smaller correlation of both averages with the particle's region inside a sphere."""
    size = halves[0].shape[-1]
    at = (torch.arange(size) - size // 2).float()
    radius = torch.sqrt(at[:, None, None] ** 2 + at[:, None] ** 2 + at**2)
    if mask is None:
        region = torch.exp(-0.5 * (radius / (0.2 * size)) ** 2)
    else:
        spectrum = rfft3(torch.from_numpy(np.ascontiguousarray(mask, dtype=np.float32)))
        region = irfft3(crop_spectrum(spectrum, size))
    inside = radius < 0.42 * size
    first, second = (
        float(torch.nan_to_num(torch.corrcoef(torch.stack([half[inside], region[inside]]))[0, 1])) for half in halves
    )
    return 0.0 if first * second < 0 else min(first, second, key=abs)
