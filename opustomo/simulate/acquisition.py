"""Simulated acquisition: tilt scheme, optics and defocus, and projections of a posed density with their CTF."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from opustomo.errors import UserError
from opustomo.physics.slice_insertion import plane_frequencies


@dataclass(frozen=True)
class TiltScheme:
    """Tilt angles and accumulated dose of a tilt series.

    Attributes
    ----------
    tilt_deg
        Tilt angles in degrees in the order of the files, (T,).
    dose
        Accumulated dose at the end of each exposure in e/Å², (T,). It damps the image by exp(-dose s²), which is a
        B factor of 4·dose Å².
    """

    tilt_deg: np.ndarray
    dose: np.ndarray

    def __len__(self) -> int:
        return len(self.tilt_deg)

    @property
    def bfactor_A2(self) -> np.ndarray:
        """B factor of each tilt in Å², (T,)."""
        return 4.0 * self.dose

    @property
    def scale(self) -> np.ndarray:
        """Signal scale of each tilt, cos t, (T,); it models the longer path through a tilted specimen."""
        return np.cos(np.deg2rad(self.tilt_deg))

    @property
    def least_tilted(self) -> int:
        """Index of the tilt closest to 0 degrees."""
        return int(np.abs(self.tilt_deg).argmin())


def _dose_symmetric(tilt_deg: np.ndarray, dose_per_tilt: float) -> np.ndarray:
    """Return the accumulated dose of a dose-symmetric scheme that starts at 0, negative tilt of each pair first."""
    order = np.lexsort((tilt_deg, np.abs(tilt_deg).round(3)))
    dose = np.empty(len(tilt_deg))
    dose[order] = dose_per_tilt * np.arange(1, len(tilt_deg) + 1)
    return dose


def regular_scheme(lowest_deg: float, highest_deg: float, step_deg: float, dose_per_tilt: float) -> TiltScheme:
    """Return a dose-symmetric scheme from `lowest_deg` to `highest_deg` in steps of `step_deg`.

    Raises
    ------
    UserError
        If the range is empty or reaches 90 degrees, or if the step is not positive.
    """
    if not -90 < lowest_deg <= highest_deg < 90:
        raise UserError(
            f"--tilt-range is {lowest_deg:g} {highest_deg:g}, but it must be ascending and between -90 and 90 degrees."
        )
    if step_deg <= 0:
        raise UserError(f"--tilt-step is {step_deg:g}, but it must be positive.")
    count = int(np.floor((highest_deg - lowest_deg) / step_deg + 1e-6)) + 1
    tilt_deg = lowest_deg + step_deg * np.arange(count)
    return TiltScheme(tilt_deg, _dose_symmetric(tilt_deg, dose_per_tilt))


def scheme_from_file(path: Path, dose_per_tilt: float) -> TiltScheme:
    """Read a tilt scheme from a text file with one angle per line (.tlt), or angle and accumulated dose in e/Å².

    Without doses, a dose-symmetric scheme is assumed.

    Raises
    ------
    UserError
        If the file is missing, empty or not numeric, or if it contains an angle of 90 degrees or more.
    """
    try:
        with warnings.catch_warnings():
            # an empty file is reported below
            warnings.simplefilter("ignore", UserWarning)
            table = np.loadtxt(path, ndmin=2)
    except OSError as error:
        raise UserError(f"Cannot read the tilt angles in {path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise UserError(f"{path} must contain one tilt angle per line, or angle and dose: {error}.") from error
    if table.size == 0 or table.shape[1] not in (1, 2):
        raise UserError(f"{path} must contain one tilt angle per line, or angle and accumulated dose.")
    tilt_deg = table[:, 0]
    if not np.isfinite(table).all() or np.abs(tilt_deg).max() >= 90:
        raise UserError(f"{path} contains a tilt angle that is not between -90 and 90 degrees.")
    if table.shape[1] == 1:
        return TiltScheme(tilt_deg, _dose_symmetric(tilt_deg, dose_per_tilt))
    if (table[:, 1] < 0).any():
        raise UserError(f"{path} contains a negative dose. The second column must be the accumulated dose in e/Å².")
    return TiltScheme(tilt_deg, table[:, 1])


@dataclass(frozen=True)
class Optics:
    """Acceleration voltage (kV), spherical aberration (mm), amplitude contrast (fraction) and phase shift (degrees)."""

    voltage_kv: float = 300.0
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.07
    phase_shift_deg: float = 0.0


@dataclass(frozen=True)
class Defoci:
    """Defocus values (Å) and astigmatism angle (degrees) of each tilt image of each particle, each (N, T)."""

    u: np.ndarray
    v: np.ndarray
    angle_deg: np.ndarray


def draw_defoci(
    count: int,
    tilts: int,
    *,
    mean_range: tuple[float, float],
    astigmatism: float,
    jitter: float,
    rng: np.random.Generator,
) -> Defoci:
    """Draw random defocus values.

    The mean defocus is uniform per particle with a normally distributed variation per tilt. The astigmatism |u - v|
    and its angle are uniform per particle.

    Parameters
    ----------
    count, tilts
        Numbers of particles, N, and tilts, T.
    mean_range
        Lowest and highest mean defocus in Å, underfocus positive.
    astigmatism
        Maximum astigmatism |u - v| in Å.
    jitter
        Standard deviation of the variation between tilts in Å.
    rng
        Random number generator.
    """
    mean = rng.uniform(*mean_range, (count, 1)) + rng.normal(0.0, 1.0, (count, tilts)) * jitter
    difference = rng.uniform(0.0, 1.0, (count, 1)) * astigmatism
    angle = rng.uniform(0.0, 180.0, (count, 1)) if astigmatism > 0 else np.zeros((count, 1))
    return Defoci(mean + 0.5 * difference, mean - 0.5 * difference, np.broadcast_to(angle, mean.shape).copy())


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
