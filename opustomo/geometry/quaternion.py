"""Unit quaternions (w, x, y, z), of which q and -q are the same rotation of column vectors."""

import torch
from torch import Tensor


def quaternion_to_matrix(quaternions: Tensor) -> Tensor:
    """Turn quaternions into rotation matrices.

    Parameters
    ----------
    quaternions
        (w, x, y, z), (..., 4); need not be normalised, must not be zero.

    Returns
    -------
    Tensor
        Rotation matrices (..., 3, 3).
    """
    w, x, y, z = (quaternions / torch.linalg.vector_norm(quaternions, dim=-1, keepdim=True)).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def small_turn_to_matrix(vectors: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) of small rotation vectors (..., 3; rad), right to second order."""
    return quaternion_to_matrix(torch.cat([torch.ones_like(vectors[..., :1]), 0.5 * vectors], -1))


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
    m = matrices
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    wx, wy, wz = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    xy, xz, yz = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    # row i is 4 q_i (w, x, y, z)
    products = torch.stack(
        (
            torch.stack((1 + xx + yy + zz, wx, wy, wz), dim=-1),
            torch.stack((wx, 1 + xx - yy - zz, xy, xz), dim=-1),
            torch.stack((wy, xy, 1 - xx + yy - zz, yz), dim=-1),
            torch.stack((wz, xz, yz, 1 - xx - yy + zz), dim=-1),
        ),
        dim=-2,
    )
    best = products.diagonal(dim1=-2, dim2=-1).argmax(dim=-1)
    index = best[..., None, None].expand(*best.shape, 1, 4)
    row = products.gather(-2, index).squeeze(-2)
    quaternion = row / torch.linalg.vector_norm(row, dim=-1, keepdim=True)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def quaternion_multiply(left: Tensor, right: Tensor) -> Tensor:
    """Multiply quaternions (..., 4): the rotation `right` first, then `left`."""
    aw, ax, ay, az = left.unbind(-1)
    bw, bx, by, bz = right.unbind(-1)
    return torch.stack(
        (
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ),
        dim=-1,
    )


def quaternion_slerp(start: Tensor, end: Tensor, fraction: Tensor | float) -> Tensor:
    """Go a fraction of the shorter way from one rotation to another, at constant angular speed.

    Parameters
    ----------
    start, end
        Unit quaternions (..., 4).
    fraction
        0 gives `start`, 1 gives the rotation `end`; a number or a tensor (...).

    Returns
    -------
    Tensor
        Unit quaternions (..., 4).
    """
    step = fraction if isinstance(fraction, Tensor) else torch.full((), fraction, device=start.device)
    step = step.to(start)[..., None]
    end = torch.where((start * end).sum(dim=-1, keepdim=True) < 0, -end, end)
    # the angle from chord and sum is accurate for near and opposite quaternions alike, unlike acos
    chord = torch.linalg.vector_norm(end - start, dim=-1, keepdim=True)
    total = torch.linalg.vector_norm(end + start, dim=-1, keepdim=True)
    angle = 2 * torch.atan2(chord, total)
    small = angle < 1e-4
    safe = torch.where(small, torch.ones_like(angle), angle)
    from_start = torch.where(small, 1 - step, torch.sin((1 - step) * safe) / torch.sin(safe))
    from_end = torch.where(small, step.expand_as(angle), torch.sin(step * safe) / torch.sin(safe))
    blend = from_start * start + from_end * end
    return blend / torch.linalg.vector_norm(blend, dim=-1, keepdim=True)
