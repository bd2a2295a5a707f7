"""State of every particle in training: running average of its latent, and current pose."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from opustomo.geometry.rotations import (
    matrix_to_euler,
    matrix_to_quaternion,
    quaternion_multiply,
    quaternion_power,
    quaternion_to_matrix,
)
from opustomo.io.poses import Poses
from opustomo.model.loss import Neighbors
from opustomo.model.pose_posterior import prior_variance
from opustomo.model.random_draws import StepRandom

NEW_SHARE = 0.3
POOL_GROUPS = 8
POOL_SIZE = 12_800
NEAR = 64
FAR = 256
FARTHEST_SHARE = 0.8


def _share(weight: Tensor | None) -> Any:
    """Return the weight of a new value in a running average, as a number or as (B, 1)."""
    return NEW_SHARE if weight is None else NEW_SHARE * weight[:, None]


class LatentMemory:
    """Running average (0.7 old + 0.3 new) of the latent mean of every particle, (N, L) on the device.

    Initial values are drawn from N(0, 1) and remain for particles that are never visited.
    """

    def __init__(self, groups: np.ndarray, dim: int, device: torch.device, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.values = torch.randn(len(groups), dim, generator=generator).to(device)
        self._groups = np.asarray(groups, dtype=np.int64)
        self._members = {int(group): np.flatnonzero(self._groups == group) for group in np.unique(self._groups)}

    def update(self, index: Tensor, mu: Tensor, weight: Tensor | None = None) -> None:
        """Update the averages with means (B, L) of the particles ``index`` whose ``weight`` (B,) is not 0."""
        share, mu = _share(weight), mu.to(self.values)
        self.values[index] = (1.0 - share) * self.values[index] + share * mu

    @property
    def pool_capacity(self) -> int:
        """Largest number of particles that :meth:`draw_pool` returns."""
        return max(min(len(self._groups), POOL_SIZE), FAR)

    def draw_pool(self, index: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the particles with whose latents the disentanglement prior compares the batch ``index``.

        These are up to 12,800 particles from up to 8 viewing groups without a particle of the batch, or from all
        particles outside the batch if there is no such group.
        """
        own = set(self._groups[index].tolist())
        others = [group for group in self._members if group not in own]
        if others:
            chosen = rng.permutation(others)[:POOL_GROUPS]
            pool = np.concatenate([self._members[int(group)] for group in chosen])
        else:
            pool = np.setdiff1d(np.arange(len(self._groups)), index)
            if not len(pool):
                pool = index  # the batch is the whole set
        return rng.permutation(pool)[:POOL_SIZE] if len(pool) > POOL_SIZE else pool

    def neighbors(self, index: Tensor, pool: Tensor, random: StepRandom, count: Tensor | None = None) -> Neighbors:
        """Return near and far latents of each particle (structural disentanglement prior of OPUS-DSD).

        Parameters
        ----------
        index
            (B,) particles of the batch.
        pool
            (P,) particles to compare with.
        random
            Source of the random part of the far latents.
        count
            Scalar number of particles of a padded pool of at least 256, from the first; near and far latents are then
            padded as well. None for a pool without padding.
        """
        stored, drawn = self.values[index], self.values[pool]
        distance = torch.cdist(stored, drawn)
        farthest_key = distance
        if count is not None:
            padding = torch.arange(len(pool), device=pool.device) >= count
            farthest_key = distance.masked_fill(padding, -1.0)
            distance = distance.masked_fill(padding, torch.inf)
        if count is None:
            quarter = max(1, len(pool) // 4)
            full = len(pool) >= FAR
            near_count, far_count = (min(NEAR, len(pool)), FAR) if full else (quarter, min(4 * quarter, len(pool)))
        else:
            near_count, far_count = NEAR, FAR
        near = distance.topk(near_count, dim=1, largest=False).indices
        farthest = farthest_key.topk(far_count, dim=1).indices
        uniform = random.uniform(0.0, 1.0, far_count).to(index.device)
        among: Tensor | int = len(pool) if count is None else count
        chosen = (uniform * among).long()
        far = FARTHEST_SHARE * drawn[farthest] + (1.0 - FARTHEST_SHARE) * drawn[chosen]
        if count is None:
            return Neighbors(drawn[near], far)
        quarters = torch.div(count, 4, rounding_mode="floor").clamp(min=1)
        meant = quarters.clamp(max=NEAR), torch.minimum(4 * quarters, count).clamp(max=FAR)
        return Neighbors(drawn[near], far, *meant)


class PoseMemory:
    """Current poses ``A = A₀U``, ``o = o₀ + u``, from the given poses (A₀, o₀).

    Newton steps are applied in full. Corrections that a pose head predicts are applied by a fraction: U moves a
    fraction of the way to U·δA, so that it converges when no further correction is predicted. (OPUS-TOMO moves U
    towards δA and stops at half of the correction.)

    Parameters
    ----------
    poses
        Given poses of N particles.
    box
        Side of the subtomograms, pixels.
    device
        Device of the poses.
    variance
        (2,) posterior variances of rotations (rad²) and shifts (pixels²) before the first visit; None for zeros.
    """

    def __init__(self, poses: Poses, box: int, device: torch.device, variance: Tensor | None = None) -> None:
        self._box = box
        self.start = torch.from_numpy(np.asarray(poses.rotations, dtype=np.float32)).to(device)
        self.origin_px = torch.from_numpy(poses.origins * box).float().to(device)
        self.turn = torch.zeros(len(poses), 4, device=device)
        self.turn[:, 0] = 1.0
        self.shift_px = torch.zeros(len(poses), 3, device=device)
        self._deviations = torch.zeros(len(poses), 6, device=device)
        start = torch.zeros(2) if variance is None else variance
        self.variance = start.to(device).repeat_interleave(3).expand(len(poses), 6).clone()
        self._eulers = poses.eulers_deg

    def current(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the current rotations A (B, 3, 3) and origins (B, 3) in pixels."""
        rotation = self.start[index] @ quaternion_to_matrix(self.turn[index])
        return rotation, self.origin_px[index] + self.shift_px[index]

    def update(
        self,
        index: Tensor,
        turn: Tensor,
        shift_px: Tensor,
        weight: Tensor | None = None,
        variance: Tensor | None = None,
    ) -> None:
        """Apply corrections δA (B, 3, 3) and t (B, 3) in the reference frame, pixels, if ``weight`` (B,) is not 0.

        Corrections with a posterior ``variance`` (B, 6) are applied in full, others by a fraction.
        """
        share = _share(weight)
        if variance is not None:
            used = torch.ones_like(variance[:, :1]) if weight is None else weight[:, None]
            share = used
            self.variance[index] += used * (variance - self.variance[index])
        rotation, _ = self.current(index)
        new = quaternion_multiply(self.turn[index], quaternion_power(matrix_to_quaternion(turn), share))
        moved = share * torch.einsum("bij,bj->bi", rotation @ turn, shift_px)
        self.turn[index] = new / torch.linalg.vector_norm(new, dim=1, keepdim=True)
        self.shift_px[index] += moved
        self._deviations[index] = self._deviation(index)

    def deviation(self, index: Tensor) -> Tensor:
        """Return deviations from the given poses, (..., 6): rotation vector (rad), shift (pixels), reference frame."""
        return self._deviations[index]

    def note_deviations(self) -> None:
        """Recompute all deviations, after rotations and shifts were set from outside."""
        self._deviations.copy_(self._deviation(slice(None)))

    def _deviation(self, index: Tensor | slice) -> Tensor:
        turn = self.turn[index]
        rotation = self.start[index] @ quaternion_to_matrix(turn)
        shift = (rotation.mT @ self.shift_px[index][..., None])[..., 0]
        moved = torch.cat([2.0 * turn[..., 1:] * torch.sign(turn[..., :1]), shift], -1)
        return moved

    def prior_variance(self) -> Tensor:
        """Return the variances (2,) of the pose prior, of rotations (rad²) and shifts (pixels²)."""
        return prior_variance(self._deviations, self.variance)

    def mean_square_deviation(self) -> Tensor:
        """Return the part (2,) of the variances of the prior that is due to deviations, not to their uncertainty."""
        return prior_variance(self._deviations, torch.zeros_like(self.variance))

    def replace(self, index: Tensor, rotation: Tensor, origin_px: Tensor) -> None:
        """Replace the current poses of particles by rotations A (B, 3, 3) and origins (B, 3) in pixels."""
        self.turn[index] = matrix_to_quaternion(self.start[index].mT @ rotation)
        self.shift_px[index] = origin_px - self.origin_px[index]
        self._deviations[index] = self._deviation(index)

    def set_poses(self, poses: Poses) -> None:
        """Replace the current poses by refined poses of the same particles."""
        refined = torch.from_numpy(np.asarray(poses.rotations, dtype=np.float32)).to(self.start)
        self.turn.copy_(matrix_to_quaternion(self.start.mT @ refined))
        self.shift_px.copy_(torch.from_numpy(poses.origins * self._box).to(self.origin_px) - self.origin_px)
        self.note_deviations()

    def poses(self) -> Poses:
        """Return all current poses as files contain them; unchanged particles keep their angles exactly."""
        every = torch.arange(len(self.start), device=self.start.device)
        rotation, origin = self.current(every)
        eulers = matrix_to_euler(rotation.double().cpu()).numpy()
        moved = self.turn[:, 1:].any(1).cpu().numpy()  # the real part rounds to 1 for turns below 0.03°
        return Poses(np.where(moved[:, None], eulers, self._eulers), origin.double().cpu().numpy() / self._box)
