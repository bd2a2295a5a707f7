"""What a run remembers of every particle: its latent and its pose."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from opustomo.geometry.euler import matrix_to_euler
from opustomo.geometry.quaternion import matrix_to_quaternion, quaternion_slerp, quaternion_to_matrix
from opustomo.io.poses import Poses
from opustomo.model.autoencoder import Neighbours

NEW_SHARE = 0.3
POOL_GROUPS = 8
POOL_SIZE = 12_800
NEAR = 64
FAR = 256
FARTHEST_SHARE = 0.8


class LatentMemory:
    """Moving average (0.7 old + 0.3 new) of the latent mean of every particle, (N, L) on the device.

    Starts as N(0, 1) draws, so a particle never seen keeps noise.
    """

    def __init__(self, groups: np.ndarray, dim: int, device: torch.device, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.values = torch.randn(len(groups), dim, generator=generator).to(device)
        self._groups = torch.from_numpy(np.asarray(groups, dtype=np.int64)).to(device)
        self._present = torch.unique(self._groups)

    def update(self, index: Tensor, mu: Tensor) -> None:
        """Take in new means (B, L) of the particles ``index``."""
        self.values[index] = (1.0 - NEW_SHARE) * self.values[index] + NEW_SHARE * mu.to(self.values)

    def neighbours(self, index: Tensor, generator: torch.Generator) -> Neighbours:
        """Near and far stored latents of each particle (spec 3, structural disentanglement prior).

        Up to 12,800 latents are drawn from up to 8 viewing groups that the batch does not lie in; when it lies in all
        of them, from all particles outside the batch.
        """
        pool = self._pool(index, generator)
        stored, drawn = self.values[index], self.values[pool]
        distance = torch.cdist(stored, drawn)
        count = len(pool)
        near_count, far_count = (NEAR, FAR) if count >= FAR else (max(1, count // 4), max(1, 4 * (count // 4)))
        far_count = min(far_count, count)
        near = distance.topk(min(near_count, count), dim=1, largest=False).indices
        farthest = distance.topk(far_count, dim=1).indices
        random = torch.randint(count, farthest.shape, generator=generator, device=generator.device).to(index.device)
        far = FARTHEST_SHARE * drawn[farthest] + (1.0 - FARTHEST_SHARE) * drawn[random]
        return Neighbours(drawn[near], far)

    def _pool(self, index: Tensor, generator: torch.Generator) -> Tensor:
        own = torch.unique(self._groups[index])
        others = self._present[~torch.isin(self._present, own)]
        device = generator.device
        if len(others):
            order = torch.randperm(len(others), generator=generator, device=device).to(others.device)
            chosen = torch.isin(self._groups, others[order[:POOL_GROUPS]])
        else:
            chosen = torch.ones_like(self._groups, dtype=torch.bool)
            chosen[index] = False
            if not chosen.any():
                chosen[index] = True  # the batch is the whole set
        pool = chosen.nonzero().flatten()
        if len(pool) > POOL_SIZE:
            pool = pool[torch.randperm(len(pool), generator=generator, device=device).to(pool.device)[:POOL_SIZE]]
        return pool


class PoseMemory:
    """Poses in use: ``A = A₀U``, ``o = o₀ + u``, where U and u take in a share of each predicted correction.

    Corrections compose: U goes a share of the way to U·δA, so the memory settles where nothing more is predicted (spec
    3 notes that moving U toward δA itself stops at half of the correction).
    """

    def __init__(self, poses: Poses, box: int, device: torch.device) -> None:
        self._box = box
        self.start = torch.from_numpy(np.asarray(poses.rotations, dtype=np.float32)).to(device)
        self.origin_px = torch.from_numpy(poses.origins * box).float().to(device)
        self.turn = torch.zeros(len(poses), 4, device=device)
        self.turn[:, 0] = 1.0
        self.shift_px = torch.zeros(len(poses), 3, device=device)
        self._eulers = poses.eulers_deg

    def current(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Rotations A (B, 3, 3) and origins (B, 3, pixels) in use."""
        rotation = self.start[index] @ quaternion_to_matrix(self.turn[index])
        return rotation, self.origin_px[index] + self.shift_px[index]

    def update(self, index: Tensor, turn: Tensor, shift_px: Tensor) -> None:
        """Take in corrections δA (B, 3, 3) and t (B, 3, reference frame, pixels) predicted at the poses in use."""
        rotation, _ = self.current(index)
        old = self.turn[index]
        goal = matrix_to_quaternion(quaternion_to_matrix(old) @ turn)
        self.turn[index] = quaternion_slerp(old, goal, NEW_SHARE)
        self.shift_px[index] += NEW_SHARE * torch.einsum("bij,bj->bi", rotation, shift_px)

    def set_poses(self, poses: Poses) -> None:
        """Take over refined poses of the same particles."""
        refined = torch.from_numpy(np.asarray(poses.rotations, dtype=np.float32)).to(self.start)
        self.turn.copy_(matrix_to_quaternion(self.start.mT @ refined))
        self.shift_px.copy_(torch.from_numpy(poses.origins * self._box).to(self.origin_px) - self.origin_px)

    def poses(self) -> Poses:
        """All poses in use, as files hold them; untouched particles keep their angles to the digit."""
        every = torch.arange(len(self.start), device=self.start.device)
        rotation, origin = self.current(every)
        eulers = matrix_to_euler(rotation.double().cpu()).numpy()
        moved = self.turn[:, 1:].any(1).cpu().numpy()  # the real part rounds to 1 for turns below 0.03°
        return Poses(np.where(moved[:, None], eulers, self._eulers), origin.double().cpu().numpy() / self._box)
