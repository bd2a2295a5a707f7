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
FAR = 4.0
"""Mean square, in standard deviations of the means, from which on a particle does not count: else one that lies far out
would move itself farther, epoch after epoch."""


def catching_map(encoded: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Matrix A (n, n) and shift c (n,) that bring what the encoder says nearest to the likeliest compositions.

    Parameters
    ----------
    encoded, offset
        (N, n) what the encoder says of particles, and the offsets from it. Particles it never read, which are 0, those
        with numbers that are not finite and those ``FAR`` out do not count; where none is left A is the identity and c
        is 0.
    """
    size = encoded.shape[1]
    known = encoded.any(1) & (encoded + offset).isfinite().all(1)
    if not bool(known.any()):
        return torch.eye(size).to(encoded), torch.zeros(size).to(encoded)
    means, moves = encoded[known].double(), offset[known].double()
    centred = means - means.mean(0)
    near = (centred * torch.linalg.solve(_covariance(centred), centred.mT).mT).mean(1) < FAR
    means, moves = means[near], moves[near]
    centre, mean_move = means.mean(0), moves.mean(0)
    means, moves = means - centre, moves - mean_move
    matrix = torch.linalg.solve(_covariance(means), means.mT @ moves / len(means)).mT
    left, stretch, right = torch.linalg.svd(matrix + torch.eye(size).to(matrix))
    matrix = left @ torch.diag(stretch.clamp(min=1.0 / LIMIT, max=LIMIT)) @ right
    return matrix.to(encoded), (centre + mean_move - matrix @ centre).to(encoded)


def _covariance(centred: Tensor) -> Tensor:
    """Covariance (n, n) of centred numbers (N, n), with the prior's part in its diagonal."""
    count, size = centred.shape
    found = centred.mT @ centred / count
    ridge = (RIDGE * size / count * found.trace()).clamp(min=1e-12)
    return found + ridge * torch.eye(size).to(found)


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
