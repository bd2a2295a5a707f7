"""Rotations: RELION Euler angles, matrices, unit quaternions, viewing directions and random perturbations of poses."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from opustomo.geometry.eulers import euler_matrices


def wrap_degrees(angles: Tensor) -> Tensor:
    """Wrap angles to [-180, 180)."""
    return torch.remainder(angles + 180.0, 360.0) - 180.0


def euler_to_matrix(eulers_deg: Tensor) -> Tensor:
    """Convert RELION Euler angles to the matrix `A = Rz(psi) Ry(tilt) Rz(rot)`, without gradient.

    Parameters
    ----------
    eulers_deg
        rot, tilt, psi in degrees, (..., 3).

    Returns
    -------
    Tensor
        Rotation matrices (..., 3, 3), `x_subtomogram = A x_reference`.
    """
    return torch.from_numpy(euler_matrices(eulers_deg.numpy()))


def matrix_to_euler(matrices: Tensor) -> Tensor:
    """Convert RELION matrices to Euler angles.

    psi is computed from the matrix and rot, so the three angles always reproduce the matrix. At the poles, where only
    the sum or difference of rot and psi is defined, rot is 0.

    Parameters
    ----------
    matrices
        Rotation matrices A, (..., 3, 3).

    Returns
    -------
    Tensor
        rot in [-180, 180], tilt in [0, 180], psi in [-180, 180] degrees, (..., 3).
    """
    sin_tilt = torch.hypot(matrices[..., 2, 0], matrices[..., 2, 1])
    tilt = torch.atan2(sin_tilt, matrices[..., 2, 2])
    at_pole = sin_tilt < 4 * torch.finfo(matrices.dtype).eps
    # The second branch is valid everywhere, which keeps gradients finite at the pole.
    x = torch.where(at_pole, torch.ones_like(sin_tilt), matrices[..., 2, 0])
    y = torch.where(at_pole, torch.zeros_like(sin_tilt), matrices[..., 2, 1])
    rot = torch.atan2(y, x)
    # A Rz(rot)^T = Rz(psi) Ry(tilt), whose second column is (sin psi, cos psi, 0)
    sin_psi = matrices[..., 0, 1] * rot.cos() - matrices[..., 0, 0] * rot.sin()
    cos_psi = matrices[..., 1, 1] * rot.cos() - matrices[..., 1, 0] * rot.sin()
    psi = torch.atan2(sin_psi, cos_psi)
    return torch.rad2deg(torch.stack((rot, tilt, psi), dim=-1))


# R = 1 + s₀ q_a q_b + s₁ q_c q_d for each entry, row by row.
_FACTORS = (
    (2, 1, 1, 1, 1, 2, 1, 2, 1),
    (2, 2, 3, 2, 1, 3, 3, 3, 1),
    (3, 0, 0, 0, 3, 0, 0, 0, 2),
    (3, 3, 2, 3, 3, 1, 2, 1, 2),
)
_SIGNS = ((-2, 2, 2, 2, -2, 2, 2, 2, -2), (-2, -2, 2, 2, -2, -2, -2, 2, -2))
# 4 q qᵀ = 1 + s₀ m_a + s₁ m_b + s₂ m_c on the diagonal and s₀ m_a + s₁ m_b elsewhere, row by row.
_TERMS = (
    (0, 7, 2, 3, 7, 0, 1, 2, 2, 1, 0, 5, 3, 2, 5, 0),
    (4, 5, 6, 1, 5, 4, 3, 6, 6, 3, 4, 7, 1, 6, 7, 4),
    (8, 0, 0, 0, 0, 8, 0, 0, 0, 0, 8, 0, 0, 0, 0, 8),
)
_TERM_SIGNS = (
    (1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, 1, 1, 1, 1, -1),
    (1, -1, -1, -1, -1, -1, 1, 1, -1, 1, 1, 1, -1, 1, 1, -1),
    (1, 0, 0, 0, 0, -1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1),
)

# (p q)_i = Σ_j s_ij p_j q_k(i, j)
_PARTNERS = ((0, 1, 2, 3), (1, 0, 3, 2), (2, 3, 0, 1), (3, 2, 1, 0))
_PARTNER_SIGNS = ((1, -1, -1, -1), (1, 1, 1, -1), (1, -1, 1, 1), (1, 1, -1, 1))


@lru_cache
def _constant(values: tuple[tuple[int, ...], ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.tensor(values, device=device, dtype=dtype)


@lru_cache
def _identity(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.eye(size, device=device, dtype=dtype).flatten()


def _picked(numbers: Tensor, table: tuple[tuple[int, ...], ...]) -> Tensor:
    """Select entries of (..., n) by a table of indices, (..., rows, columns)."""
    places = _constant(table, numbers.device, torch.long)
    return numbers.index_select(-1, places.flatten()).unflatten(-1, places.shape)


def quaternion_to_matrix(quaternions: Tensor) -> Tensor:
    """Convert quaternions to rotation matrices, with few operations because each is a kernel launch on a GPU.

    Parameters
    ----------
    quaternions
        (w, x, y, z), (..., 4); they need not be normalized but must not be zero.

    Returns
    -------
    Tensor
        Rotation matrices (..., 3, 3).
    """
    q = quaternions / torch.linalg.vector_norm(quaternions, dim=-1, keepdim=True)
    place = q.device, q.dtype
    factors = _picked(q, _FACTORS)
    products = factors[..., 0::2, :] * factors[..., 1::2, :] * _constant(_SIGNS, *place)
    return (products.sum(-2) + _identity(3, *place)).unflatten(-1, (3, 3))


def small_turn_to_quaternion(vectors: Tensor) -> Tensor:
    """Convert small rotation vectors (..., 3; rad) to unnormalized quaternions (..., 4), correct to second order."""
    return torch.cat([torch.ones_like(vectors[..., :1]), 0.5 * vectors], -1)


def small_turn_to_matrix(vectors: Tensor) -> Tensor:
    """Convert small rotation vectors (..., 3; rad) to rotation matrices (..., 3, 3), correct to second order."""
    return quaternion_to_matrix(small_turn_to_quaternion(vectors))


def matrix_to_quaternion(matrices: Tensor) -> Tensor:
    """Convert rotation matrices to unit quaternions with w >= 0.

    Each of four formulas divides by one component; the formula with the largest divisor is used.

    Parameters
    ----------
    matrices
        Rotation matrices (..., 3, 3).

    Returns
    -------
    Tensor
        (w, x, y, z), (..., 4).
    """
    place = matrices.device, matrices.dtype
    sums = (_picked(matrices.flatten(-2), _TERMS) * _constant(_TERM_SIGNS, *place)).sum(-2) + _identity(4, *place)
    products = sums.unflatten(-1, (4, 4))  # row i is 4 q_i (w, x, y, z)
    best = products.diagonal(dim1=-2, dim2=-1).argmax(dim=-1)
    index = best[..., None, None].expand(*best.shape, 1, 4)
    row = products.gather(-2, index).squeeze(-2)
    quaternion = row / torch.linalg.vector_norm(row, dim=-1, keepdim=True)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def quaternion_multiply(left: Tensor, right: Tensor) -> Tensor:
    """Multiply quaternions (..., 4); the product is the rotation `right` followed by `left`."""
    rows = _picked(right, _PARTNERS) * _constant(_PARTNER_SIGNS, right.device, right.dtype)
    return (rows * left[..., None, :]).sum(-1)


def quaternion_power(quaternions: Tensor, exponent: Tensor | float) -> Tensor:
    """Raise unit quaternions (..., 4) with w >= 0 to a power, which scales the angles; it is a number or (..., 1)."""
    vector = quaternions[..., 1:]
    length = torch.linalg.vector_norm(vector, dim=-1, keepdim=True).clamp(min=1e-20)  # nonzero in single precision
    half = exponent * torch.atan2(length, quaternions[..., :1])
    return torch.cat([torch.cos(half), vector * (torch.sin(half) / length)], dim=-1)


def perturb_eulers(
    eulers_deg: npt.NDArray[np.float64], max_angle_deg: float, generator: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Rotate every orientation about a random axis by an angle that is uniform between -max and +max.

    Parameters
    ----------
    eulers_deg
        RELION rot, tilt, psi in degrees, (N, 3).
    max_angle_deg
        Largest angle in degrees.
    generator
        Random number generator.

    Returns
    -------
    ndarray
        RELION rot, tilt, psi in degrees, float64 (N, 3).
    """
    axes = generator.standard_normal((len(eulers_deg), 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    half = np.deg2rad(generator.uniform(-max_angle_deg, max_angle_deg, (len(eulers_deg), 1))) / 2
    turns = quaternion_to_matrix(torch.from_numpy(np.hstack([np.cos(half), np.sin(half) * axes])))
    matrices = turns @ euler_to_matrix(torch.from_numpy(np.asarray(eulers_deg, dtype=np.float64)))
    turned: npt.NDArray[np.float64] = matrix_to_euler(matrices).numpy()
    return turned


def euler_to_hopf(eulers_deg: Tensor) -> Tensor:
    """Convert RELION Euler angles to Hopf angles.

    Parameters
    ----------
    eulers_deg
        rot, tilt, psi in degrees, (..., 3); any tilt.

    Returns
    -------
    Tensor
        phi in [-180, 180), theta in [0, 180], psi in [-180, 180) degrees, (..., 3).
    """
    rot, tilt, psi = eulers_deg.unbind(-1)
    tilt = wrap_degrees(tilt)
    # A negative tilt equals the positive one with rot and psi changed by 180 degrees, which preserves their sum.
    phi = torch.where(tilt < 0, -rot, 180.0 - rot)
    return torch.stack((wrap_degrees(phi), tilt.abs(), wrap_degrees(-(rot + psi))), dim=-1)


def viewing_groups(eulers_deg: npt.NDArray[np.float64], nside: int = 2) -> npt.NDArray[np.int64]:
    """Return the viewing group of each particle, which is a HEALPix pixel.

    Parameters
    ----------
    eulers_deg
        RELION rot, tilt, psi in degrees, (N, 3).
    nside
        HEALPix resolution, a power of two; there are 12 nside² pixels.

    Returns
    -------
    ndarray
        Nested pixel index of the Hopf angles (phi, theta), int64 (N,).
    """
    angles = np.asarray(eulers_deg, dtype=np.float64)
    if angles.ndim != 2 or angles.shape[1] != 3:
        raise ValueError(f"Euler angles must have the shape (N, 3), not {angles.shape}")
    phi, theta, _ = torch.deg2rad(euler_to_hopf(torch.from_numpy(angles))).unbind(-1)
    return nested_pixels(nside, theta.numpy(), phi.numpy())


def nested_pixels(nside: int, theta: npt.NDArray[np.float64], phi: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return the nested HEALPix pixels (N,) of directions with colatitude ``theta`` and longitude ``phi`` in radians.

    The pixelization is that of Gorski et al. (2005). healpy, which returns the same, takes a second to import.
    """
    z, quarter = np.cos(np.clip(theta, 0.0, np.pi)), np.mod(phi, 2.0 * np.pi) / (0.5 * np.pi)
    # near the equator: lines of pixel corners that rise and fall with longitude
    along, across = nside * (0.5 + quarter), nside * (0.75 * z)
    rising, falling = (along - across).astype(np.int64), (along + across).astype(np.int64)
    by_rising, by_falling = rising // nside, falling // nside
    face = np.where(
        by_rising == by_falling, by_falling | 4, np.where(by_rising < by_falling, by_rising, by_falling + 8)
    )
    x, y = falling % nside, nside - 1 - rising % nside
    # around the poles: distances from the two edges of the base pixel that meet there
    corner = np.minimum(quarter.astype(np.int64), 3)
    reach = nside * np.sqrt(3.0 * (1.0 - np.abs(z)))
    first = np.minimum((reach * (quarter - corner)).astype(np.int64), nside - 1)
    second = np.minimum((reach * (1.0 - quarter + corner)).astype(np.int64), nside - 1)
    polar, north = np.abs(z) > 2.0 / 3.0, z > 0.0
    face = np.where(polar, np.where(north, corner, corner + 8), face)
    x = np.where(polar, np.where(north, nside - 1 - second, first), x)
    y = np.where(polar, np.where(north, nside - 1 - first, second), y)
    within = np.zeros_like(face)
    for bit in range(nside.bit_length()):
        within |= ((x >> bit) & 1) << (2 * bit) | ((y >> bit) & 1) << (2 * bit + 1)
    return face * nside**2 + within
