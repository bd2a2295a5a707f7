"""Signal of a particle in its subtomogram, as a trained model predicts it, and its amplitude in the data.

A subtomogram is the sum of tilt images that were inserted into a Fourier grid as slices. The training approximates it
by the product of the density's spectrum and a 3D CTF. The product is exact on the slices only: between them, a
reconstruction contains the values of nearby slices. What is subtracted is therefore imaged slice by slice, unless the
data prefer the 3D CTF, for example because the reconstruction program padded the box.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from opustomo.analysis.volumes.decoding import VolumeDecoder
from opustomo.model.config import PhysicsConfig
from opustomo.physics.backprojection import interpolate_rotated
from opustomo.physics.ctf import FIELDS, TiltBatch, ctf_at, ctf_volume, division_filters, model_envelope, sharpening
from opustomo.physics.fourier import half_spectrum_weights, rfft3, shift_phases
from opustomo.physics.fsc import measured_shells
from opustomo.physics.sampling import to_template
from opustomo.physics.slice_insertion import SliceInserter, plane_frequencies


class Imaging(Enum):
    """Ways to image a posed density; w is the sampling weight of a voxel."""

    CTF = "the 3D CTF"
    SUM = "sums of slices"
    DIVIDED = "slices divided by max(w, 1)"
    FILLED = "slices divided by w"

    @property
    def smallest_divisor(self) -> float | None:
        """Lower limit of the sampling weights that divide the sum of the slices; None for no division."""
        return {Imaging.DIVIDED: 1.0, Imaging.FILLED: SliceInserter.EMPTY}.get(self)


def inserted_slices(posed: Tensor, tilts: TiltBatch, apix: float, shift_px: Tensor, imaging: Imaging) -> Tensor:
    """Image posed densities slice by slice and insert the slices into a Fourier grid.

    Parameters
    ----------
    posed
        Densities in the frame of the subtomogram, shape (B, n, n, n).
    tilts
        Optics of the tilts, common to all densities, fields of shape (T,).
    apix
        Pixel size of the densities in Å.
    shift_px
        Shifts of the densities in voxels, shape (B, 3).
    imaging
        Division by the sampling weights; not `Imaging.CTF`.

    Returns
    -------
    Tensor
        Half spectra, shape (B, n, n, n/2+1).
    """
    size, device = posed.shape[-1], posed.device
    used = tilts[tilts.scale > 0]
    inserter = SliceInserter(used.tilt_deg.double().cpu().numpy(), size, normalize=False, device=device)
    x, y = plane_frequencies(size, device)
    angle = torch.deg2rad(used.tilt_deg)[:, None, None]
    x, y = x.expand(len(angle), size, -1), y[:, None].expand(len(angle), -1, size // 2 + 1)
    at = torch.stack([x * torch.cos(angle), y, -x * torch.sin(angle)], -1)
    columns = TiltBatch(**{name: getattr(used, name)[:, None, None] for name in FIELDS})
    transfer = ctf_at(x / (size * apix), y / (size * apix), columns) * columns.scale
    phases = torch.exp((-2j * math.pi / size) * torch.einsum("tyxi,bi->btyx", at, shift_px))
    eye = torch.eye(3, device=device).expand(len(posed), 3, 3)
    slices = interpolate_rotated(rfft3(posed), eye, at.flatten(0, 2)).unflatten(1, at.shape[:3])
    spectra = rfft3(inserter.insert(slices * transfer * phases))
    if imaging.smallest_divisor is None:
        return spectra
    weights = inserter.weights.to(device) / len(angle)
    return spectra / weights.clamp(min=imaging.smallest_divisor / len(angle))


class Optics(NamedTuple):
    """Optics and position of B particles.

    Attributes
    ----------
    tilts, table
        Distinct CTF tables, and which of them belongs to each particle, shape (B,).
    origins
        Shifts that center the particles in pixels of the input box, shape (B, 3).
    """

    tilts: TiltBatch
    table: Tensor
    origins: Tensor


class SignalModel:
    """Predicted signal of particles, with and without the part that is kept.

    Parameters
    ----------
    decoder
        Decoder of a trained model.
    physics
        Physics of the training.
    bfactor_A2
        B-factor of the comparison at the epoch of the decoder.
    keep
        Mask of the part that is kept on the crop, shape (Dc, Dc, Dc), from 0 to 1.
    """

    def __init__(self, decoder: VolumeDecoder, physics: PhysicsConfig, bfactor_A2: float, keep: Tensor) -> None:
        self.decoder, self.physics = decoder, physics
        self.bfactor_px = torch.tensor([bfactor_A2 / decoder.boxes.render_apix**2], device=decoder.device)
        self.keep = keep.to(decoder.device)

    @property
    def imagings(self) -> tuple[Imaging, ...]:
        """Ways in which the subtomograms can have been reconstructed."""
        if self.physics.ctf_beta - self.physics.ctf_alpha != 1.0:  # other powers of the CTF exist for the 3D CTF only
            return (Imaging.CTF,)
        return (Imaging.CTF, Imaging.DIVIDED, Imaging.FILLED) if self._divided else (Imaging.CTF, Imaging.SUM)

    @property
    def _divided(self) -> bool:
        return self.physics.ctf_normalized and not self.physics.divide

    @torch.no_grad()
    def posed(self, latents: np.ndarray, rotations: Tensor, part: bool) -> Tensor:
        """Return the volumes of particles, or the part of them that is removed, in the frame of the subtomogram.

        Parameters
        ----------
        latents
            Latents, shape (B, zdim) or (B, zdim + zaffinedim).
        rotations
            Matrices A of the poses, shape (B, 3, 3).
        part
            Whether only what lies outside of the kept mask is returned.

        Returns
        -------
        Tensor
            Centered densities on the render box, shape (B, Dr, Dr, Dr).
        """
        decoder = self.decoder
        templates = decoder.decode(latents)
        count, side = len(templates), templates.shape[-1]
        if decoder.mask is not None:
            templates = templates * to_template(decoder.mask, side)
        if part:
            templates = templates * (1.0 - to_template(self.keep, side))
        if decoder.bodies is not None and latents.shape[1] == decoder.latent_dim:
            correction = decoder.correction(latents[:, decoder.zdim :])
            eye = torch.eye(3, device=decoder.device).expand(count, 3, 3)
            # The poses are final: only the motion of the bodies is applied.
            correction = correction._replace(turn=eye, shift_px=torch.zeros(count, 3, device=decoder.device))
        else:
            correction = decoder.posing.no_correction(count, decoder.device)
        identity = torch.eye(3, device=decoder.device)[None]
        return decoder.posing.sampler(templates, rotations, correction)(identity, correction.shift_px)[:, 0]

    @torch.no_grad()
    def image(self, posed: Tensor, optics: Optics, imaging: Imaging) -> Tensor:
        """Image posed densities (B, Dr, Dr, Dr): half spectra (B, Dr, Dr, Dr/2+1) of the subtomogram's signal."""
        boxes, size = self.decoder.boxes, posed.shape[-1]
        envelope = model_envelope(size, self.bfactor_px) * sharpening(size, -self.bfactor_px)
        shift = -optics.origins * (size / boxes.box)
        if imaging is Imaging.CTF:
            spectra = rfft3(posed) * self._ctf(optics) * shift_phases(shift, size, size)
            return spectra * envelope / self.filters(optics).clamp(min=1e-6)
        spectra = torch.empty(*posed.shape[:-1], size // 2 + 1, dtype=torch.complex64, device=posed.device)
        for table in torch.unique(optics.table):
            rows = optics.table == table
            tilts = optics.tilts[table]
            spectra[rows] = inserted_slices(posed[rows], tilts, boxes.render_apix, shift[rows], imaging)
        return spectra * envelope

    def _ctf(self, optics: Optics) -> Tensor:
        """Return the factors between density and data, ``sign(c) |c|^(beta - alpha)`` (docs/method.md, section 2)."""
        boxes, physics = self.decoder.boxes, self.physics
        ctf = ctf_volume(
            optics.tilts, boxes.render, boxes.render_apix, normalized=physics.normalized, nyquist=boxes.box / 2
        )
        return (torch.sign(ctf) * ctf.abs() ** (physics.ctf_beta - physics.ctf_alpha))[optics.table]

    def filters(self, optics: Optics) -> Tensor:
        """Return the division by the sampling weights in the comparison, broadcastable to the spectra."""
        boxes = self.decoder.boxes
        if not self.physics.divide:
            return torch.ones(1, device=self.decoder.device)
        return division_filters(optics.tilts, boxes.render, boxes.box / 2)[optics.table]


LARGEST_FACTOR = 3.0


@dataclass
class ShellSums:
    """Sums over particles, Fourier shell by shell.

    Attributes
    ----------
    cross, power, data
        Sums of ``Re(conj(P) Y)``, ``|P|²`` and ``|Y|²``, shape (S,).
    count
        Sum of the number of coefficients, shape (S,).
    """

    cross: Tensor
    power: Tensor
    data: Tensor
    count: Tensor

    @classmethod
    def empty(cls, size: int, device: torch.device) -> ShellSums:
        """Return sums over no particle for a box of `size` voxels."""
        zeros = torch.zeros(size // 2 + 1, dtype=torch.float64, device=device)
        return cls(zeros, zeros.clone(), zeros.clone(), zeros.clone())

    def add(self, predicted: Tensor, observed: Tensor) -> None:
        """Add half spectra (B, Dr, Dr, Dr/2+1) of the prediction and of the data."""
        shells = measured_shells(predicted.shape[1], predicted.device)
        weights = half_spectrum_weights(predicted.shape[1], predicted.device).expand(shells.shape)
        for total, values in (
            (self.cross, (predicted.conj() * observed).real),
            (self.power, predicted.abs().square()),
            (self.data, observed.abs().square()),
            (self.count, torch.ones_like(observed.real)),
        ):
            total.index_add_(0, shells.flatten(), (values.sum(0) * weights).flatten().double())

    def factors(self) -> Tensor:
        """Return the factor of each shell, at least 0, shape (S,), float32."""
        fitted = self.cross / self.power.clamp(min=1e-30)
        return torch.where(self.power > 0, fitted, 0.0).clamp(min=0.0).float()

    def amplitude(self) -> float:
        """Return one factor for all shells."""
        return float(self.cross.sum() / self.power.sum().clamp(min=1e-30))

    def explained(self, noise: Tensor) -> float:
        """Return the explained power over that of the noise (S,): twice the gain in log-likelihood, in nats."""
        return float((self.cross.square() / self.power.clamp(min=1e-30) / noise).sum())

    def noise(self) -> Tensor:
        """Return the mean power of the residual per coefficient, shape (S,), float32."""
        explained = self.cross.square() / self.power.clamp(min=1e-30)
        return ((self.data - explained) / self.count.clamp(min=1.0)).clamp(min=1e-30).float()


def particle_factors(predicted: Tensor, observed: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Fit the amplitude of each particle by weighted least squares.

    Parameters
    ----------
    predicted, observed
        Half spectra (B, Dr, Dr, Dr/2+1); `predicted` includes the factors of the shells.
    noise
        Power of the noise per coefficient and shell, shape (S,).

    Returns
    -------
    factors, variances : Tensor
        Factor of each particle and the variance of its estimate, shape (B,).
    """
    size = predicted.shape[1]
    weights = half_spectrum_weights(size, predicted.device) / noise[measured_shells(size, predicted.device)]
    cross = ((predicted.conj() * observed).real * weights).sum((1, 2, 3))
    power = (predicted.abs().square() * weights).sum((1, 2, 3)).clamp(min=1e-30)
    return cross / power, 1.0 / power


def shrink_factors(factors: Tensor, variances: Tensor) -> Tensor:
    """Shrink the factors of particles towards 1 by the ratio of their true to their total variance.

    The true variance is estimated as the variance of all factors minus the mean variance of the estimates.
    """
    true = ((factors - 1.0).square().mean() - variances.mean()).clamp(min=0.0)
    return (1.0 + (factors - 1.0) * true / (true + variances)).clamp(0.0, LARGEST_FACTOR)
