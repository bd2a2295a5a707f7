"""Rotations: RELION Euler angles, rotation matrices, unit quaternions and random perturbations of poses.

Quaternions are (w, x, y, z); q and -q are the same rotation of column vectors."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def wrap_degrees(angles: Tensor) -> Tensor:
    """Bring angles into [-180, 180)."""
    return torch.remainder(angles + 180.0, 360.0) - 180.0


def euler_to_matrix(eulers_deg: Tensor) -> Tensor:
    """Turn RELION Euler angles into the matrix `A = Rz(psi) Ry(tilt) Rz(rot)`.

    Parameters
    ----------
    eulers_deg
        rot, tilt, psi in degrees, (..., 3).

    Returns
    -------
    Tensor
        Rotation matrices (..., 3, 3), `x_subtomogram = A x_reference`.
    """
    rot, tilt, psi = torch.deg2rad(eulers_deg).unbind(-1)
    ca, sa = rot.cos(), rot.sin()
    cb, sb = tilt.cos(), tilt.sin()
    cg, sg = psi.cos(), psi.sin()
    rows = (
        (cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb),
        (-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb),
        (sb * ca, sb * sa, cb),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def matrix_to_euler(matrices: Tensor) -> Tensor:
    """Turn RELION matrices into Euler angles.

    psi is found from the matrix and the rot already chosen, so that the three angles always give the matrix
    back; at the poles, where only a sum or difference of rot and psi is defined, rot is 0.

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
    # the safe second branch keeps gradients finite at the pole
    x = torch.where(at_pole, torch.ones_like(sin_tilt), matrices[..., 2, 0])
    y = torch.where(at_pole, torch.zeros_like(sin_tilt), matrices[..., 2, 1])
    rot = torch.atan2(y, x)
    # A Rz(rot)^T = Rz(psi) Ry(tilt), whose second column is (sin psi, cos psi, 0)
    sin_psi = matrices[..., 0, 1] * rot.cos() - matrices[..., 0, 0] * rot.sin()
    cos_psi = matrices[..., 1, 1] * rot.cos() - matrices[..., 1, 0] * rot.sin()
    psi = torch.atan2(sin_psi, cos_psi)
    return torch.rad2deg(torch.stack((rot, tilt, psi), dim=-1))


# R = 1 + s₀ q_a q_b + s₁ q_c q_d, entry by entry in rows
_FACTORS = (
    (2, 1, 1, 1, 1, 2, 1, 2, 1),
    (2, 2, 3, 2, 1, 3, 3, 3, 1),
    (3, 0, 0, 0, 3, 0, 0, 0, 2),
    (3, 3, 2, 3, 3, 1, 2, 1, 2),
)
_SIGNS = ((-2, 2, 2, 2, -2, 2, 2, 2, -2), (-2, -2, 2, 2, -2, -2, -2, 2, -2))
# 4 q qᵀ = 1 + s₀ m_a + s₁ m_b + s₂ m_c on the diagonal, s₀ m_a + s₁ m_b beside it, entry by entry in rows
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
    """Numbers (..., n) by the places in a table: (..., rows, columns)."""
    places = _constant(table, numbers.device, torch.long)
    return numbers.index_select(-1, places.flatten()).unflatten(-1, places.shape)


def quaternion_to_matrix(quaternions: Tensor) -> Tensor:
    """Turn quaternions into rotation matrices, in few operations, as each costs a launch on a GPU.

    Parameters
    ----------
    quaternions
        (w, x, y, z), (..., 4); need not be normalized, must not be zero.

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
    """Quaternions (..., 4), not normalized, of small rotation vectors (..., 3; rad), right to second order."""
    return torch.cat([torch.ones_like(vectors[..., :1]), 0.5 * vectors], -1)


def small_turn_to_matrix(vectors: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) of small rotation vectors (..., 3; rad), right to second order."""
    return quaternion_to_matrix(small_turn_to_quaternion(vectors))


def matrix_to_quaternion(matrices: Tensor) -> Tensor:
    """Turn rotation matrices into unit quaternions with w >= 0.

    Of the four formulas, each of which divides by one component, the one with the largest divisor is taken.

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
    """Multiply quaternions (..., 4): the rotation `right` first, then `left`."""
    rows = _picked(right, _PARTNERS) * _constant(_PARTNER_SIGNS, right.device, right.dtype)
    return (rows * left[..., None, :]).sum(-1)


def quaternion_power(quaternions: Tensor, exponent: Tensor | float) -> Tensor:
    """A share ``exponent``, a number or (..., 1), of rotations given as unit quaternions (..., 4) with w >= 0."""
    vector = quaternions[..., 1:]
    length = torch.linalg.vector_norm(vector, dim=-1, keepdim=True).clamp(min=1e-20)  # in single precision, too
    half = exponent * torch.atan2(length, quaternions[..., :1])
    return torch.cat([torch.cos(half), vector * (torch.sin(half) / length)], dim=-1)


def perturb_eulers(
    eulers_deg: npt.NDArray[np.float64], max_angle_deg: float, generator: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Turn every orientation about a random axis, by an angle uniform between -max and +max.

    Parameters
    ----------
    eulers_deg
        RELION rot, tilt, psi in degrees, (N, 3).
    max_angle_deg
        Largest angle in degrees.
    generator
        Source of the random numbers.

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
