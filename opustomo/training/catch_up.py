"""The encoder catches up with the offsets of compositions, as far as a linear map can. Not in the original.

Offsets (:mod:`opustomo.model.latent_step`) say where the likelihood wants compositions to be, and an encoder learns
that slowly, all the slower while it says little. What they have in common is told by least squares over the particles:
z* ≈ A mu + c, for means mu of the encoder and likeliest compositions z* = mu + offset. At the end of an epoch A and c
go into the encoder's last layer at once; offsets shrink by as much, so that no composition moves. Measured in
docs/quality.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 2.0
"""Strength of the prior that A is the identity, in numbers per particle: what so few particles tell of it is noise."""
LIMIT = 2.0
"""The most that A stretches or shrinks at a time."""


def catching_map(encoded: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Matrix A (n, n) and shift c (n,) that bring what the encoder says nearest to the likeliest compositions.

    Parameters
    ----------
    encoded, offset
        (N, n) what the encoder says of particles, and the offsets from it. Particles it never read, which are 0, and
        those with numbers that are not finite do not count; where none is left A is the identity and c is 0.
    """
    known = encoded.any(1) & (encoded + offset).isfinite().all(1)
    if not bool(known.any()):
        return torch.eye(encoded.shape[1]).to(encoded), torch.zeros(encoded.shape[1]).to(encoded)
    means, moves = encoded[known].double(), offset[known].double()
    centre, mean_move = means.mean(0), moves.mean(0)
    means, moves = means - centre, moves - mean_move
    count, size = means.shape
    unit = torch.eye(size, dtype=means.dtype, device=means.device)
    covariance = means.mT @ means / count
    ridge = (RIDGE * size / count * covariance.trace()).clamp(min=1e-12)
    matrix = unit + torch.linalg.solve(covariance + ridge * unit, means.mT @ moves / count).mT
    left, stretch, right = torch.linalg.svd(matrix)
    matrix = left @ torch.diag(stretch.clamp(min=1.0 / LIMIT, max=LIMIT)) @ right
    return matrix.to(encoded), (centre + mean_move - matrix @ centre).to(encoded)


@torch.no_grad()
def change_means(head: torch.nn.Linear, optimizer: torch.optim.Optimizer, matrix: Tensor, shift: Tensor) -> None:
    """Let the first n outputs y of a layer be A y + c, for ``matrix`` A (n, n) and ``shift`` c (n,).

    Adam's moments follow the gradients, which turn by the inverse of A.
    """
    rows = slice(len(matrix))
    turned = torch.linalg.inv(matrix).mT
    for weight in (head.weight, head.bias):
        weight[rows] = matrix @ weight[rows]
        state = optimizer.state.get(weight)
        if state:
            state["exp_avg"][rows] = turned @ state["exp_avg"][rows]
            state["exp_avg_sq"][rows] = turned.square() @ state["exp_avg_sq"][rows]
    head.bias[rows] += shift
