"""Contrast transfer function (CTF) in 2D and 3D, sampling weights and B-factor envelopes of subtomograms.

The 3D CTF is the sum of the CTFs of the tilts on their central slices. See docs/method.md, section 2."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from opustomo.physics import kernels
from opustomo.physics.fourier import frequencies, half_spectrum_weights, squared_radius

FIELDS = (
    "tilt_deg",
    "defocus_u_A",
    "defocus_v_A",
    "astigmatism_deg",
    "voltage_kv",
    "cs_mm",
    "amplitude_contrast",
    "phase_shift_deg",
    "bfactor_A2",
    "scale",
)


@dataclass(frozen=True)
class TiltBatch:
    """Optics of the tilts of several subtomograms, with fields of shape (..., T).

    The names of the fields contain their units. A positive ``bfactor_A2`` damps high frequencies, and ``scale`` is the
    weight of the tilt in the 3D CTF, 0 for padding.
    """

    tilt_deg: Tensor
    defocus_u_A: Tensor
    defocus_v_A: Tensor
    astigmatism_deg: Tensor
    voltage_kv: Tensor
    cs_mm: Tensor
    amplitude_contrast: Tensor
    phase_shift_deg: Tensor
    bfactor_A2: Tensor
    scale: Tensor

    @classmethod
    def pad(cls, tables: Sequence[object], dtype: torch.dtype = torch.float32) -> TiltBatch:
        """Stack tables of any lengths, which are objects with these fields as 1D arrays, to shape (N, T_max)."""
        longest = max(len(np.asarray(table.scale)) for table in tables)  # type: ignore[attr-defined]
        columns = {}
        for name in FIELDS:
            column = np.zeros((len(tables), longest), dtype=np.float64)
            if name == "voltage_kv":
                column += 300.0  # finite, so that a scale of zero removes the padding from all sums
            for row, table in zip(column, tables, strict=True):
                values = np.asarray(getattr(table, name), dtype=np.float64)
                row[: len(values)] = values
            columns[name] = torch.from_numpy(column).to(dtype)
        return cls(**columns)

    def __getitem__(self, index: Tensor | slice | tuple[Tensor | slice | None, ...]) -> TiltBatch:
        """Return the batch with all fields indexed by ``index``."""
        return TiltBatch(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def to(self, target: torch.device | torch.dtype | str) -> TiltBatch:
        """Return the batch with all fields moved to a device or converted to a type."""
        return TiltBatch(**{f.name: getattr(self, f.name).to(target) for f in fields(self)})

    def limit(self, tilt_limit_deg: float) -> TiltBatch:
        """Return the batch with scale 0 for tilts beyond ± ``tilt_limit_deg``."""
        return replace(self, scale=torch.where(self.tilt_deg.abs() <= tilt_limit_deg, self.scale, 0.0))

    def __len__(self) -> int:
        return self.scale.shape[0]


def electron_wavelength_A(voltage_kv: Tensor) -> Tensor:
    """Return the relativistic electron wavelength in Å."""
    volt = voltage_kv * 1e3
    return 12.2643247 / torch.sqrt(volt + 0.978466e-6 * volt * volt)


def ctf_at(x: Tensor, y: Tensor, tilts: TiltBatch) -> Tensor:
    """Compute the CTF with its envelope at in-plane frequencies.

    The sign is positive at low frequencies for underfocus.

    Parameters
    ----------
    x, y
        Frequencies along the x and y axes of the slice in 1/Å, broadcastable with the fields of ``tilts``.
    tilts
        Optics of each slice. Their scale is not applied.

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
    # Δf s² = mean s² + half_difference s² cos 2(azimuth - axis), without computing the azimuth
    defocus_s2 = mean * s2 + half_difference * (torch.cos(axis) * (x2 - y2) + torch.sin(axis) * (2.0 * x * y))
    cs_A = tilts.cs_mm * 1e7
    gamma = 2.0 * math.pi * (-0.5 * wavelength * defocus_s2 + 0.25 * cs_A * wavelength**3 * s2 * s2)
    w = tilts.amplitude_contrast
    offset = torch.deg2rad(tilts.phase_shift_deg) + torch.atan2(w, torch.sqrt(1.0 - w * w))
    return -torch.sin(gamma - offset) * torch.exp(-0.25 * tilts.bfactor_A2 * s2)


SCALE_FLOOR = 1e-3
"""Least sum of tilt scales by which a CTF is divided."""
KERNEL_FLOOR = 1e-5
"""Kernel value below which a slice does not contribute to a voxel, so that the missing wedge has c = 0 exactly.

Otherwise rounding errors would determine sign(c) in the missing wedge.
"""


def cubic_kernel(distance: Tensor) -> Tensor:
    """Return the cubic convolution kernel with a = -0.75 and support |d| < 2 voxels."""
    a = -0.75
    d = distance.abs()
    near = ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0
    far = ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a
    return torch.where(d < 1.0, near, torch.where(d < 2.0, far, 0.0))


def linear_kernel(distance: Tensor) -> Tensor:
    """Return the linear interpolation kernel with support |d| < 1 voxel."""
    return (1.0 - distance.abs()).clamp(min=0.0)


def slice_sampling(
    tilts: TiltBatch, size: int, nyquist: float, kernel_of: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the coordinate x' within the slice of each tilt, and the kernel W(d) at the distance d from the slice.

    Both have shape (B, T, Dr, Dr/2+1) with axes kz and kx. W is 0 where a slice does not contribute or its scale is 0.
    """
    kz, _, kx = frequencies(size, tilts.scale.device)
    kz, kx = kz[:, 0].to(tilts.scale), kx[0].to(tilts.scale)  # (Dr, 1), (1, half)
    angle = torch.deg2rad(tilts.tilt_deg)[..., None, None]
    cos, sin = torch.cos(angle), torch.sin(angle)
    in_plane = kx * cos - kz * sin
    kernel = kernel_of(kx * sin + kz * cos)
    covers = (in_plane.abs() <= nyquist) & (kernel.abs() > KERNEL_FLOOR) & (tilts.scale[..., None, None] > 0)
    return in_plane, torch.where(covers, kernel, 0.0)


def ctf_volume(
    tilts: TiltBatch, size: int, apix: float, *, normalized: bool = False, nyquist: float | None = None
) -> Tensor:
    """Compute 3D CTFs on half spectra in FFT order.

    Parameters
    ----------
    tilts
        Optics with fields (B, T).
    size
        Box size Dr in voxels.
    apix
        Pixel size of this box in Å.
    normalized
        False computes ``Σ W(d)·ctf·scale / Σ scale`` with the cubic kernel W, which models plain back-projection. True
        computes ``Σ W₁(d)·ctf·scale / max(Σ W₁(d), 1)`` with the linear kernel W₁, which models reconstructions that
        are divided by their sampling weights where slices overlap. The denominator of OPUS-TOMO,
        ``Σ W₁(d)·scale + 1e-3``, fits simulated subtomograms less well (correlation 0.95 to 0.96 instead of 0.98 to
        0.99, tests/physics/test_forward_model.py).
    nyquist
        Maximum |x'| of a slice in Fourier voxels; Dr/2 by default.

    Returns
    -------
    Tensor
        3D CTFs in the data type of ``tilts``, (B, Dr, Dr, Dr/2+1); 0 in the missing wedge.

    Notes
    -----
    Only (kz, kx) columns within the kernel support of a slice are evaluated, which are about 4 Dr/2 of Dr·(Dr/2+1) per
    tilt.
    """
    batch = len(tilts)
    half = size // 2 + 1
    limit = size / 2 if nyquist is None else nyquist
    if kernels.usable(tilts.scale):
        from opustomo.physics.kernels import ctf

        return ctf.ctf_volume(tilts, size, apix, normalized, limit, KERNEL_FLOOR)
    ky = frequencies(size, tilts.scale.device)[1]
    in_plane, sampling = slice_sampling(tilts, size, limit, linear_kernel if normalized else cubic_kernel)
    sampling = sampling.flatten(2)  # (B, T, Dr·half)
    weight = sampling * tilts.scale[..., None]

    where = weight.nonzero(as_tuple=True)
    particle, tilt, column = where
    values = ctf_at(
        in_plane.flatten(2)[where][:, None] / (size * apix),
        ky.flatten().to(tilts.scale)[None, :] / (size * apix),
        tilts[particle, tilt][:, None],
    )
    total = values.new_zeros(batch * size * half, size)
    total.index_add_(0, particle * (size * half) + column, values * weight[where][:, None])
    total = total.view(batch, size, half, size).transpose(-1, -2)  # (B, kz, ky, kx)
    if normalized:
        return total / sampling.sum(1).clamp(min=1.0).view(batch, size, 1, half)
    return total / tilts.scale.sum(1).clamp(min=SCALE_FLOOR).view(batch, 1, 1, 1)


def sampling_weights(tilts: TiltBatch, size: int, nyquist: float | None = None) -> Tensor:
    """Compute the sampling weights ``w = Σ W₁(d)``, the effective number of slices that contribute to a voxel.

    The parameters are those of :func:`ctf_volume`.

    Returns
    -------
    Tensor
        Sampling weights in FFT order, (B, Dr, 1, Dr/2+1); equal for all ky because the tilt axis is y.
    """
    limit = size / 2 if nyquist is None else nyquist
    return slice_sampling(tilts, size, limit, linear_kernel)[1].sum(1)[:, :, None, :]


def division_filters(tilts: TiltBatch, size: int, nyquist: float | None = None) -> Tensor:
    """Compute filters ``g ~ 1 / max(w, 1)`` that divide plain back-projections by their sampling weights w.

    The filtered data correspond to the 3D CTF with ``normalized``. The filters are scaled to preserve the power of
    white noise in the tilt images, ``Σ w g² = Σ w``. OPUS-TOMO has no such filter. See docs/method.md, section 2.

    Returns
    -------
    Tensor
        Filters in FFT order, (B, Dr, 1, Dr/2+1).
    """
    weights = sampling_weights(tilts, size, nyquist)
    filters = weights.clamp(min=1.0).reciprocal()
    noise = weights * half_spectrum_weights(size, weights.device)
    power_ratio = noise.sum((1, 2, 3)) / (noise * filters.square()).sum((1, 2, 3)).clamp(min=1e-12)
    return filters * power_ratio.sqrt()[:, None, None, None]


def sharpening(size: int, bfactor_px: Tensor) -> Tensor:
    """Return the filter ``exp(π² b k²)`` on half spectra, with k in cycles/pixel; a negative b blurs.

    Parameters
    ----------
    size
        Box size in voxels.
    bfactor_px
        B factors b in pixel² (B factor in Å² divided by the squared pixel size), (B,).

    Returns
    -------
    Tensor
        Filters, (B, size, size, size/2+1).
    """
    k2 = squared_radius(size, bfactor_px.device).to(bfactor_px)
    return torch.exp(math.pi**2 * bfactor_px.view(-1, 1, 1, 1) * k2)


def model_envelope(size: int, bfactor_px: Tensor) -> Tensor:
    """Return the envelope ``exp(-π² b/2 k² (1 + |atan2(kz, kx)|))``, which damps slices of high tilts more.

    Parameters and shapes are those of :func:`sharpening`.
    """
    kz, _, kx = (k.to(bfactor_px) for k in frequencies(size, bfactor_px.device))
    tilt = torch.atan2(kz.abs(), kx)  # 0 … π/2
    exponent = squared_radius(size, bfactor_px.device).to(bfactor_px) * (1.0 + tilt)
    return torch.exp(-0.5 * math.pi**2 * bfactor_px.view(-1, 1, 1, 1) * exponent)
