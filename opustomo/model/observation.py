"""Data side: one transform per subtomogram gives the input of the encoder and the target of the comparison.

Model and data are compared in the frame of the subtomogram, which only this module uses: the target is shifted in
Fourier space and never resampled.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from opustomo.geometry.rotations import matrix_to_quaternion, quaternion_to_matrix
from opustomo.model.random_draws import StepRandom
from opustomo.physics import kernels
from opustomo.physics.boxes import Boxes
from opustomo.physics.ctf import model_envelope, sharpening
from opustomo.physics.fourier import crop_center, crop_spectrum, irfft3, rfft3, shift_phases
from opustomo.physics.sampling import rotate_about_z, sample_posed

BLUR_RANGE = (-0.125, 0.375)
VIEW_JITTER_DEG = 0.48
CONTRAST_JITTER = 0.3
OFFSET_JITTER = 0.1


def centered_spectrum(volumes: Tensor, origin_px: Tensor, boxes: Boxes) -> Tensor:
    """Return half spectra (B, Dr, Dr, Dr/2+1) of subtomograms (B, D, D, D), shifted by their origins (pixels)."""
    spectrum = crop_spectrum(rfft3(volumes), boxes.render)
    if kernels.usable(volumes):
        from opustomo.model.kernels import observation

        return observation.move(spectrum, origin_px, boxes.box)
    return spectrum * shift_phases(origin_px, boxes.box, boxes.render)


def sharpened(spectrum: Tensor, bfactor_px: Tensor) -> Tensor:
    """Return spectra (B, Dr, Dr, Dr/2+1) times ``exp(π² b k²)``, b (B,)."""
    if kernels.usable(bfactor_px):
        from opustomo.model.kernels import observation

        return observation.sharpen(spectrum, bfactor_px)
    return spectrum * sharpening(spectrum.shape[1], bfactor_px)


def target_and_transfer(
    spectrum: Tensor, ctf: Tensor, data_px: Tensor, model_px: Tensor, alpha: float, beta: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the data before the mask, and the filter of the model (docs/method.md, section 2).

    Parameters
    ----------
    spectrum, ctf
        Y and c, (B, Dr, Dr, Dr/2+1).
    data_px, model_px
        b of the data and of the model side, (B,) in pixel².
    alpha, beta
        Powers of the CTF on either side; beta (B,).

    Returns
    -------
    tuple
        ``F⁻¹{exp(π² b k²) · sign(c)|c|^α · Y}`` (B, Dr, Dr, Dr), and ``|c|^β`` times the model's envelope.
    """
    if kernels.usable(ctf, data_px):
        from opustomo.model.kernels import observation

        filtered, transfer = observation.observe(spectrum, ctf, data_px, model_px, alpha, beta)
        return irfft3(filtered), transfer
    size = spectrum.shape[1]
    phase = torch.sign(ctf) if alpha == 0 else torch.sign(ctf) * ctf.abs() ** alpha
    target = irfft3(spectrum * (phase * sharpening(size, data_px)))
    return target, ctf.abs() ** beta.view(-1, 1, 1, 1) * model_envelope(size, model_px)


def swing_and_twist(rotation: Tensor) -> tuple[Tensor, Tensor]:
    """Split ``A = Rz(-ψ)·R(φ, θ, 0)`` into the rotation out of plane (B, 3, 3) and that about z (B, 2, 2)."""
    w, _, _, z = matrix_to_quaternion(rotation).unbind(-1)
    half = torch.atan2(z, w)
    cos, sin = torch.cos(2 * half), torch.sin(2 * half)
    about_z = torch.stack([cos, -sin, sin, cos], -1).unflatten(-1, (2, 2))
    inverse = torch.zeros_like(rotation)
    inverse[:, :2, :2] = about_z.transpose(1, 2)
    inverse[:, 2, 2] = 1.0
    return inverse @ rotation, about_z


def view_jitter(random: StepRandom) -> Tensor:
    """Return rotations by 0 to 0.48° about random axes perpendicular to the view (z), (B, 3, 3)."""
    half = 0.5 * torch.deg2rad(random.uniform(0.0, VIEW_JITTER_DEG))
    direction = random.uniform(0.0, 2.0 * math.pi)
    x, y = torch.cos(direction) * torch.sin(half), torch.sin(direction) * torch.sin(half)
    return quaternion_to_matrix(torch.stack([torch.cos(half), x, y, torch.zeros_like(half)], -1))


def encoder_input(
    spectrum: Tensor, rotation: Tensor, mask: Tensor, boxes: Boxes, snr: Tensor, random: StepRandom | None
) -> Tensor:
    """Return subtomograms in the reference frame, standardized and masked (docs/method.md, section 4).

    Parameters
    ----------
    spectrum
        (B, Dr, Dr, Dr/2+1), centered.
    rotation
        (B, 3, 3) RELION A: the result is ``y(A x)``.
    mask
        (Dc, Dc, Dc).
    snr
        Running SNR estimate, scalar.
    random
        Draws of blur, contrast and view jitter; None in validation, which takes the mean blur and nothing else.

    Returns
    -------
    Tensor
        (B, Dc, Dc, Dc).
    """
    batch = len(spectrum)
    if random is None:
        blur = torch.full((batch,), sum(BLUR_RANGE) / 2, device=spectrum.device)
    else:
        blur = random.uniform(*BLUR_RANGE)
    volumes = crop_center(irfft3(sharpened(spectrum, -blur)), boxes.crop)
    out_of_plane, about_z = swing_and_twist(rotation)
    volumes = rotate_about_z(volumes, about_z)
    flat = volumes.flatten(1)
    std, mean = torch.std_mean(flat, dim=1)
    scale, offset = 1.0 / std.clamp(min=1e-8), torch.zeros_like(mean)
    if random is not None:
        root = snr.sqrt()
        contrast = 1.0 + root * CONTRAST_JITTER * random.uniform(-0.5, 0.5)
        scale, offset = scale * contrast, OFFSET_JITTER * root * random.normal()
        out_of_plane = view_jitter(random) @ out_of_plane
    scale = scale.view(-1, 1, 1, 1)
    volumes = torch.addcmul((offset.view(-1, 1, 1, 1) - mean.view(-1, 1, 1, 1) * scale), volumes, scale)
    return sample_posed(volumes, out_of_plane[:, None], boxes.crop)[:, 0] * mask
