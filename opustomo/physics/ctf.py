"""Transfer of signal into a subtomogram: tilt lists, 2D and 3D CTF, sampling weights and B-factor envelopes.

See docs/method.md, section 2. The 3D CTF is the sum of the CTFs of the tilts on their central slices."""

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
    """Optics of the tilts of several subtomograms, each field (..., T); padding has scale 0.

    Units as in the names; ``bfactor_A2`` damps when positive, ``scale`` weights the tilt in the 3D CTF.
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
        """Stack tables (objects with these fields as 1D arrays) of any lengths to (N, T_max)."""
        longest = max(len(np.asarray(table.scale)) for table in tables)  # type: ignore[attr-defined]
        columns = {}
        for name in FIELDS:
            column = np.zeros((len(tables), longest), dtype=np.float64)
            if name == "voltage_kv":
                column += 300.0  # padding must stay finite: its scale of zero removes it from every sum
            for row, table in zip(column, tables, strict=True):
                values = np.asarray(getattr(table, name), dtype=np.float64)
                row[: len(values)] = values
            columns[name] = torch.from_numpy(column).to(dtype)
        return cls(**columns)

    def __getitem__(self, index: Tensor | slice | tuple[Tensor | slice | None, ...]) -> TiltBatch:
        """Index all fields alike."""
        return TiltBatch(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def to(self, target: torch.device | torch.dtype | str) -> TiltBatch:
        """Move or convert all fields."""
        return TiltBatch(**{f.name: getattr(self, f.name).to(target) for f in fields(self)})

    def limit(self, tilt_limit_deg: float) -> TiltBatch:
        """Give zero scale to tilts beyond ± ``tilt_limit_deg``."""
        return replace(self, scale=torch.where(self.tilt_deg.abs() <= tilt_limit_deg, self.scale, 0.0))

    def __len__(self) -> int:
        return self.scale.shape[0]


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


SCALE_FLOOR = 1e-3
KERNEL_FLOOR = 1e-5
"""Below this a slice does not reach a voxel: rounding must not decide what lies in the wedge, as the sign of c does."""


def cubic_kernel(distance: Tensor) -> Tensor:
    """Cubic convolution kernel with a = -0.75, support |d| < 2 voxels."""
    a = -0.75
    d = distance.abs()
    near = ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0
    far = ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a
    return torch.where(d < 1.0, near, torch.where(d < 2.0, far, 0.0))


def linear_kernel(distance: Tensor) -> Tensor:
    """Linear interpolation kernel, support |d| < 1 voxel."""
    return (1.0 - distance.abs()).clamp(min=0.0)


def slice_sampling(
    tilts: TiltBatch, size: int, nyquist: float, kernel_of: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return x' in the slice of a tilt and W(d) at its distance d, 0 where it does not reach or is not in use.

    Both (B, T, Dr, Dr/2+1), for kz and kx in voxels.
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
    tilts: TiltBatch, size: int, apix: float, *, normalised: bool = False, nyquist: float | None = None
) -> Tensor:
    """3D CTFs in native half-spectrum order.

    Parameters
    ----------
    tilts
        Fields (B, T).
    size
        Side Dr of the grid, voxels.
    apix
        Pixel size of that grid, Å.
    normalised
        False: ``Σ W(d)·ctf·scale / Σ scale``, W cubic: matches plain back-projection.
        True: ``Σ W₁(d)·ctf·scale / max(Σ W₁(d), 1)``, W₁ linear: matches reconstructions that divided by their sampling
        weights where slices overlap. (Spec 1 has ``Σ W₁(d)·scale + 1e-3`` below; against simulated subtomograms that
        correlates 0.95-0.96, this 0.98-0.99: tests/physics/test_forward_model.py.)
    nyquist
        |x'| in voxels at which a slice ends; Dr/2 by default.

    Returns
    -------
    Tensor
        (B, Dr, Dr, Dr/2+1) in the dtype of ``tilts``; zero in the missing wedge.

    Notes
    -----
    Only the (kz, kx) columns within the kernel's support of a slice are evaluated: about 4 Dr/2 of Dr·(Dr/2+1) a tilt.
    """
    batch = len(tilts)
    half = size // 2 + 1
    limit = size / 2 if nyquist is None else nyquist
    if kernels.usable(tilts.scale):
        from opustomo.physics.kernels import ctf

        return ctf.ctf_volume(tilts, size, apix, normalised, limit, KERNEL_FLOOR)
    ky = frequencies(size, tilts.scale.device)[1]
    in_plane, sampling = slice_sampling(tilts, size, limit, linear_kernel if normalised else cubic_kernel)
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
    if normalised:
        return total / sampling.sum(1).clamp(min=1.0).view(batch, size, 1, half)
    return total / tilts.scale.sum(1).clamp(min=SCALE_FLOOR).view(batch, 1, 1, 1)


def sampling_weights(tilts: TiltBatch, size: int, nyquist: float | None = None) -> Tensor:
    """How many slices reach a voxel, ``w = Σ W₁(d)`` over the tilts in use.

    Parameters are those of :func:`opustomo.physics.ctf.ctf_volume`.

    Returns
    -------
    Tensor
        (B, Dr, 1, Dr/2+1), native order; the same for all ky, as the tilt axis is y.
    """
    limit = size / 2 if nyquist is None else nyquist
    return slice_sampling(tilts, size, limit, linear_kernel)[1].sum(1)[:, :, None, :]


def division(tilts: TiltBatch, size: int, nyquist: float | None = None) -> Tensor:
    """Filters ``g ~ 1 / max(w, 1)`` that make of a plain back-projection what a normalised 3D CTF stands for.

    Where slices overlap the power of a plain back-projection's noise grows with w, that of its signal with w², so that
    an unweighted comparison sees little but the lowest frequencies. The power of white noise of the tilt images is
    kept, ``Σ w g² = Σ w``. Not in the original.

    Returns
    -------
    Tensor
        (B, Dr, 1, Dr/2+1), native order.
    """
    weights = sampling_weights(tilts, size, nyquist)
    filters = weights.clamp(min=1.0).reciprocal()
    noise = weights * half_spectrum_weights(size, weights.device)
    kept = noise.sum((1, 2, 3)) / (noise * filters.square()).sum((1, 2, 3)).clamp(min=1e-12)
    return filters * kept.sqrt()[:, None, None, None]


def sharpening(size: int, bfactor_px: Tensor) -> Tensor:
    """``exp(π² b k²)`` on the half spectrum, k in cycles/pixel; negative b blurs.

    Parameters
    ----------
    size
        Box.
    bfactor_px
        (B,), b in pixel² (bfactor in Å² over pixel size squared).

    Returns
    -------
    Tensor
        (B, size, size, size/2+1).
    """
    k2 = squared_radius(size, bfactor_px.device).to(bfactor_px)
    return torch.exp(math.pi**2 * bfactor_px.view(-1, 1, 1, 1) * k2)


def model_envelope(size: int, bfactor_px: Tensor) -> Tensor:
    """``exp(-π² b/2 k² (1 + |atan2(kz, kx)|))``: damping that grows with the tilt of the slice through k; kx ≥ 0.

    Shapes as in :func:`sharpening`.
    """
    kz, _, kx = (k.to(bfactor_px) for k in frequencies(size, bfactor_px.device))
    tilt = torch.atan2(kz.abs(), kx)  # 0 … π/2
    exponent = squared_radius(size, bfactor_px.device).to(bfactor_px) * (1.0 + tilt)
    return torch.exp(-0.5 * math.pi**2 * bfactor_px.view(-1, 1, 1, 1) * exponent)
