"""Projection of a posed density: central slices of its Fourier transform, and the CTF of single tilt images.

Slices are interpolated from the padded and gridding-corrected transform, on the half plane of the real transform."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from opustomo.physics.slice_insertion import plane_frequencies
from opustomo.simulate.acquisition import Optics


def electron_wavelength(voltage_kv: float) -> float:
    """Return the relativistic wavelength in Å of electrons with an acceleration voltage of `voltage_kv` kV."""
    volt = 1e3 * voltage_kv
    return 12.2643247 / math.sqrt(volt * (1.0 + 0.978466e-6 * volt))


def tilt_image_transfer(
    defocus_A: tuple[Tensor, Tensor],
    astigmatism_deg: Tensor,
    bfactor_A2: Tensor,
    optics: Optics,
    *,
    box: int,
    apix: float,
) -> Tensor:
    """Compute the CTF with dose envelope of tilt images; positive at low frequency for underfocus.

    Parameters
    ----------
    defocus_A
        Defocus along the two principal axes in Å, underfocus positive, (...).
    astigmatism_deg
        Angle of the first principal axis from the x axis of the image in degrees, (...).
    bfactor_A2
        B factor of the envelope exp(-B s²/4) in Å², positive values damp, (...).
    optics
        Optics, common to all images.
    box, apix
        Image size in pixels and pixel size in Å.

    Returns
    -------
    Tensor, float32, (..., box, box//2 + 1)
        CTF in FFT order. The first three parameters are broadcast against each other.
    """
    defocus_u_A, defocus_v_A = defocus_A
    device = defocus_u_A.device
    x, y = plane_frequencies(box, device)
    x, y = (x / (box * apix))[None, :].double(), (y / (box * apix))[:, None].double()
    s2 = x * x + y * y
    # s² cos 2(a - angle) follows without arctangent from s² cos 2a = x² - y² and s² sin 2a = 2xy.
    double_angle = torch.deg2rad(2.0 * astigmatism_deg.double())[..., None, None]
    s2_cos = (x * x - y * y) * torch.cos(double_angle) + 2.0 * x * y * torch.sin(double_angle)
    mean = 0.5 * (defocus_u_A + defocus_v_A).double()[..., None, None]
    half_difference = 0.5 * (defocus_u_A - defocus_v_A).double()[..., None, None]
    wavelength = electron_wavelength(optics.voltage_kv)
    defocus_phase = math.pi * wavelength * (mean * s2 + half_difference * s2_cos)
    aberration_phase = 0.5 * math.pi * 1e7 * optics.cs_mm * wavelength**3 * s2 * s2
    contrast_phase = math.asin(optics.amplitude_contrast) + math.radians(optics.phase_shift_deg)
    envelope = torch.exp(-0.25 * bfactor_A2.double()[..., None, None] * s2)
    return (torch.sin(defocus_phase - aberration_phase + contrast_phase) * envelope).float()


class SliceSource:
    """Fourier transform of a density from which central slices are interpolated.

    The density is padded and divided by sinc² along each axis, which corrects the attenuation by linear interpolation
    towards the edge of the box. Only the half with kx >= 0 is stored; the other half follows by conjugate symmetry.

    Parameters
    ----------
    density
        Real density, (D, D, D), axes z, y, x, D even, center at voxel D/2.
    padding
        Padding factor. The default is 4, or less if the padded box would exceed `LARGEST` voxels per axis, but at
        least 2. The interpolation error decreases with the square of the padding factor: for a density that fills
        half of the box, the maximum error is 8 % with factor 2 and 2 % with factor 4.
    """

    #: Maximum size of the padded box for padding factors above 2.
    LARGEST = 384

    def __init__(self, density: Tensor, padding: int | None = None) -> None:
        box = density.shape[-1]
        if density.shape != (box, box, box) or box % 2:
            raise ValueError(f"a density must have a cubic box of even size, not {tuple(density.shape)}")
        self.box = box
        self.padded = box * (padding or min(4, max(2, self.LARGEST // box)))
        distance = (torch.arange(box, device=density.device) - box // 2) / self.padded
        correction = 1.0 / torch.sinc(distance) ** 2
        corrected = density.float() * correction[:, None, None] * correction[:, None] * correction
        padded = torch.zeros((self.padded,) * 3, device=density.device)
        # Move the center to voxel 0 so that phases are relative to the center of the box.
        index = torch.arange(-box // 2, box // 2, device=density.device) % self.padded
        padded[index[:, None, None], index[:, None], index] = corrected
        transform = torch.fft.fftshift(torch.fft.rfftn(padded), dim=(0, 1))
        self._transform = torch.view_as_real(transform).permute(3, 0, 1, 2)[None].contiguous()

    def slices(self, rotations: Tensor, tilt_deg: Tensor) -> Tensor:
        """Interpolate central slices, the Fourier transforms of projections of the posed density along the beam.

        Parameters
        ----------
        rotations
            Rotation matrices A from reference to subtomogram coordinates, (B, 3, 3).
        tilt_deg
            Tilt angles about y in degrees, (T,). The x axis of a slice has the direction (cos t, 0, -sin t).

        Returns
        -------
        Tensor, complex, (B, T, D, D//2 + 1)
            Slices in FFT order with phases relative to the box center.
        """
        points = self._reference_points(rotations, tilt_deg)
        mate = points[..., 0] < 0
        points = torch.where(mate[..., None], -points, points)
        factor = self.padded / self.box
        half = self.padded // 2
        # x ranges from 0 to half; y and z range from -half to half - 1
        scale = torch.tensor([2 * factor / half, 2 * factor / (2 * half - 1), 2 * factor / (2 * half - 1)])
        start = torch.tensor([-1.0, 2 * half / (2 * half - 1) - 1, 2 * half / (2 * half - 1) - 1])
        grid = points * scale.to(points.device) + start.to(points.device)
        values = torch.nn.functional.grid_sample(
            self._transform,
            grid.reshape(1, 1, 1, -1, 3),
            mode="bilinear",
            padding_mode="zeros",
            align_corners=True,
        )
        real, imaginary = values.reshape(2, *mate.shape)
        return torch.complex(real, torch.where(mate, -imaginary, imaginary))

    def _reference_points(self, rotations: Tensor, tilt_deg: Tensor) -> Tensor:
        """Return the coordinates x, y, z of slice samples in the reference frame, (B, T, D, D//2+1, 3)."""
        x, y = plane_frequencies(self.box, rotations.device)
        angle = torch.deg2rad(tilt_deg.to(rotations.device, torch.float64))
        zero = torch.zeros_like(angle)
        along_x = torch.stack([angle.cos(), zero, -angle.sin()], -1)
        along_y = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64, device=rotations.device)
        # A maps reference to subtomogram, so Aᵀe is the axis e in the reference frame.
        axis_x = torch.einsum("ti,bij->btj", along_x, rotations.double()).float()
        axis_y = torch.einsum("i,bij->bj", along_y, rotations.double()).float()
        return x[:, None] * axis_x[:, :, None, None, :] + y[:, None, None] * axis_y[:, None, None, None, :]


def origin_phases(origins: Tensor, tilt_deg: Tensor, box: int) -> Tensor:
    """Compute the phase factors that shift the particle in each tilt image to -origin.

    Parameters
    ----------
    origins
        Shifts x, y, z in voxels that center the particles, (B, 3).
    tilt_deg
        Tilt angles in degrees, (T,).
    box
        Image size in pixels.

    Returns
    -------
    Tensor, complex, (B, T, box, box//2 + 1)
        Phase factors in FFT order.
    """
    x, y = plane_frequencies(box, origins.device)
    angle = torch.deg2rad(tilt_deg.to(origins.device, torch.float64))
    along_x = origins[:, 0, None] * angle.cos() - origins[:, 2, None] * angle.sin()
    angles_x = (2 * math.pi / box) * along_x.float()[..., None] * x
    angles_y = (2 * math.pi / box) * origins[:, 1, None].float() * y
    phases_x = torch.polar(torch.ones_like(angles_x), angles_x)
    phases_y = torch.polar(torch.ones_like(angles_y), angles_y)
    return phases_y[:, None, :, None] * phases_x[:, :, None, :]
