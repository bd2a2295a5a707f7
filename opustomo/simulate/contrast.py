"""Contrast transfer function of single tilt images on the half plane of their real Fourier transform."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from opustomo.slices.frequencies import plane_frequencies


def electron_wavelength(voltage_kv: float) -> float:
    """Return the relativistic wavelength in Å of electrons with an acceleration voltage of `voltage_kv` kV."""
    volt = 1e3 * voltage_kv
    return 12.2643247 / math.sqrt(volt * (1.0 + 0.978466e-6 * volt))


def tilt_image_transfer(
    defocus_u_A: Tensor,
    defocus_v_A: Tensor,
    astigmatism_deg: Tensor,
    bfactor_A2: Tensor,
    *,
    voltage_kv: float,
    cs_mm: float,
    amplitude_contrast: float,
    phase_shift_deg: float = 0.0,
    box: int,
    apix: float,
) -> Tensor:
    """Compute the CTF with dose envelope of tilt images; positive at low frequency for underfocus.

    Parameters
    ----------
    defocus_u_A, defocus_v_A
        Defocus along the two principal axes in Å, underfocus positive, (...).
    astigmatism_deg
        Angle of the first principal axis from the x axis of the image in degrees, (...).
    bfactor_A2
        B factor of the envelope exp(-B s²/4) in Å², positive values damp, (...).
    voltage_kv, cs_mm, amplitude_contrast, phase_shift_deg
        Optics, common to all images.
    box, apix
        Image size in pixels and pixel size in Å.

    Returns
    -------
    Tensor, float32, (..., box, box//2 + 1)
        CTF in FFT order. The first four parameters are broadcast against each other.
    """
    device = defocus_u_A.device
    x, y = plane_frequencies(box, device)
    x, y = (x / (box * apix))[None, :].double(), (y / (box * apix))[:, None].double()
    s2 = x * x + y * y
    # s² cos 2(a - angle) follows without arctangent from s² cos 2a = x² - y² and s² sin 2a = 2xy.
    double_angle = torch.deg2rad(2.0 * astigmatism_deg.double())[..., None, None]
    s2_cos = (x * x - y * y) * torch.cos(double_angle) + 2.0 * x * y * torch.sin(double_angle)
    mean = 0.5 * (defocus_u_A + defocus_v_A).double()[..., None, None]
    half_difference = 0.5 * (defocus_u_A - defocus_v_A).double()[..., None, None]
    wavelength = electron_wavelength(voltage_kv)
    defocus_phase = math.pi * wavelength * (mean * s2 + half_difference * s2_cos)
    aberration_phase = 0.5 * math.pi * 1e7 * cs_mm * wavelength**3 * s2 * s2
    contrast_phase = math.asin(amplitude_contrast) + math.radians(phase_shift_deg)
    envelope = torch.exp(-0.25 * bfactor_A2.double()[..., None, None] * s2)
    return (torch.sin(defocus_phase - aberration_phase + contrast_phase) * envelope).float()
