"""The contrast transfer function of single tilts (docs/method.md, section 2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from opustomo.physics.tilts import TiltBatch


def electron_wavelength_A(voltage_kv: Tensor) -> Tensor:
    """Relativistic electron wavelength in Å."""
    volt = voltage_kv * 1e3
    return 12.2643247 / torch.sqrt(volt + 0.978466e-6 * volt * volt)


def ctf_at(x: Tensor, y: Tensor, tilts: TiltBatch) -> Tensor:
    """CTF times envelope at in-plane frequencies; positive at low frequency for underfocus.

    Parameters
    ----------
    x, y
        Frequencies in 1/Å along the slice's x and y axis, broadcastable with the fields of ``tilts``.
    tilts
        Optics of each slice. The scale of the tilt is not applied.

    Returns
    -------
    Tensor
        ``-sin(γ - atan2(w, sqrt(1-w²))) · exp(-B s²/4)`` with
        ``γ = 2π(-½ Δf λ s² + ¼ Cs λ³ s⁴) - phase_shift``.
    """
    x2, y2 = x * x, y * y
    s2 = x2 + y2
    wavelength = electron_wavelength_A(tilts.voltage_kv)
    mean = 0.5 * (tilts.defocus_u_A + tilts.defocus_v_A)
    half_difference = 0.5 * (tilts.defocus_u_A - tilts.defocus_v_A)
    axis = torch.deg2rad(2.0 * tilts.astigmatism_deg)
    # Δf s² = mean s² + half_difference s² cos 2(azimuth - axis), the cosine written without any arctangent
    defocus_s2 = mean * s2 + half_difference * (torch.cos(axis) * (x2 - y2) + torch.sin(axis) * (2.0 * x * y))
    cs_A = tilts.cs_mm * 1e7
    gamma = 2.0 * math.pi * (-0.5 * wavelength * defocus_s2 + 0.25 * cs_A * wavelength**3 * s2 * s2)
    w = tilts.amplitude_contrast
    offset = torch.deg2rad(tilts.phase_shift_deg) + torch.atan2(w, torch.sqrt(1.0 - w * w))
    return -torch.sin(gamma - offset) * torch.exp(-0.25 * tilts.bfactor_A2 * s2)
