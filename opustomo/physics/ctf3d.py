"""The 3D CTF of a subtomogram: the sum of its tilts' CTFs on their central slices (docs/method.md, section 2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from opustomo.physics import kernels
from opustomo.physics.ctf2d import ctf_at
from opustomo.physics.fourier import frequencies
from opustomo.physics.tilts import TiltBatch

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
