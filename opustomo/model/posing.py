"""Poses of a step: candidate rotations, the correction of each particle, and the motion of its bodies."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from opustomo.geometry.rigid_bodies import BodyGeometry
from opustomo.geometry.rotations import matrix_to_quaternion
from opustomo.model.networks import small_rotation
from opustomo.physics.body_motion import Bodies, Motion, blended_grid, body_motion, cross_on_grid, sample_on_grid
from opustomo.physics.boxes import Boxes
from opustomo.physics.sampling import cross_of_posed, sample_posed

DEFAULT_ANGLE_DEG = 1.46


def rotations_of(vectors: np.ndarray) -> Tensor:
    """Return the rotations about vectors (N, 3) by their lengths in radians, (N, 3, 3); SciPy takes long to import."""
    return torch.matrix_exp(torch.from_numpy(np.cross(-vectors[:, None], np.eye(3)))).float()


def symmetric_candidates(angle_deg: float = DEFAULT_ANGLE_DEG) -> Tensor:
    """Return the identity and rotations by ± ``angle_deg`` about x, y and z, (7, 3, 3)."""
    axes = np.concatenate([np.zeros((1, 3)), np.eye(3), -np.eye(3)])
    return rotations_of(np.radians(angle_deg) * axes)


def original_candidates() -> Tensor:
    """Return the rotations of OPUS-TOMO, R(φ, θ, 0) at the HEALPix neighbors of the pixel at the pole, (8, 3, 3)."""
    rings = (1.46, (135, 225, 315)), (2.92, (22.5, 67.5, 112.5, 337.5)), (4.39, (45,))
    hopf = np.radians([(phi, theta) for theta, ring in rings for phi in ring])
    phi, theta = hopf.T
    vectors = theta[:, None] * np.stack([np.sin(phi), np.cos(phi), np.zeros_like(phi)], 1)
    return rotations_of(vectors)


def candidate_rotations(kind: str) -> Tensor:
    """Return the candidates of a kind, ``symmetric`` or ``original``.

    Raises
    ------
    ValueError
        If the kind is neither.
    """
    kinds = {"symmetric": symmetric_candidates, "original": original_candidates}
    if kind not in kinds:
        raise ValueError(f"candidates must be symmetric or original, got {kind}")
    return kinds[kind]()


@dataclass(frozen=True)
class Sampler:
    """Templates (B, T, T, T) at corrected poses; V is read at ``(A δA Q)ᵀ x + t`` with a candidate rotation Q.

    Attributes
    ----------
    template
        (B, T, T, T).
    pose
        A δA, (B, 3, 3).
    grid
        Positions of the voxels of the crop that bodies have moved, (B, 3, Dc³); None for a rigid particle.
    boxes
        Sizes of the run.
    """

    template: Tensor
    pose: Tensor
    grid: Tensor | None
    boxes: Boxes

    def __call__(self, candidates: Tensor, shift_px: Tensor) -> Tensor:
        """Return posed volumes (B, P, Dr, Dr, Dr).

        Parameters
        ----------
        candidates
            Rotations Q, (P, 3, 3) or (B, P, 3, 3).
        shift_px
            t in pixels of the input box, (B, 3).
        """
        size, shift, padded = self.boxes.crop, on_grid(shift_px, self.boxes), self.boxes.render
        if self.grid is None:
            return sample_posed(self.template, (self.pose[:, None] @ candidates).mT, size, shift, padded)
        return sample_on_grid(self.template, self.grid, candidates, size, shift, padded)

    def cross(self, candidates: Tensor, shift_px: Tensor, fields: tuple[Tensor, Tensor]) -> Tensor:
        """Return ``Σ_x V h``, (B, 2, P), of the posed volumes and two fields h (B, Dr, Dr, Dr), without gradient."""
        size, shift = self.boxes.crop, on_grid(shift_px, self.boxes)
        if self.grid is None:
            return cross_of_posed(self.template, (self.pose[:, None] @ candidates).mT, size, shift, fields)
        return cross_on_grid(self.template, self.grid, candidates, size, shift, fields)


def on_grid(shift_px: Tensor, boxes: Boxes) -> Tensor:
    """Return shifts (B, 3), in pixels of the input box, in grid units of the crop, (B, 1, 3)."""
    return (shift_px * boxes.grid_per_pixel)[:, None]


class Correction(NamedTuple):
    """Correction of the particle's pose, δA (B, 3, 3) and t (B, 3, input pixels), and the motion of its bodies."""

    turn: Tensor
    shift_px: Tensor
    motion: Motion | None


class RigidStep(NamedTuple):
    """Rotation R (B, 3, 3) and shift t (B, 3; pixels of the input box) of a pose in the reference frame."""

    turn: Tensor
    shift_px: Tensor

    def then(self, turn: Tensor, shift_px: Tensor) -> RigidStep:
        """Return this step followed by another one."""
        return RigidStep(self.turn @ turn, shift_px + (self.shift_px[:, None] @ turn)[:, 0])

    def vector(self) -> Tensor:
        """Return the step as six numbers, (B, 6): rotation vector (rad) and shift (pixels)."""
        quaternion = matrix_to_quaternion(self.turn)
        return torch.cat([2.0 * quaternion[:, 1:], self.shift_px], 1)


class Posing(nn.Module):
    """Posing of templates, as one rigid particle or as several bodies.

    Parameters
    ----------
    boxes
        Sizes of the run.
    geometry
        Geometry of the bodies; None for a rigid particle.
    """

    def __init__(self, boxes: Boxes, geometry: BodyGeometry | None = None) -> None:
        super().__init__()
        self.boxes = boxes
        self._names: tuple[str, ...] = ()
        self.largest = 0 if geometry is None else geometry.largest
        if geometry is not None:
            bodies = Bodies.on_crop(geometry, boxes)
            self._names = tuple(f.name for f in fields(bodies))
            for (
                name
            ) in self._names:  # they follow the model to its device; checkpoints hold them in the original's form
                self.register_buffer(name, getattr(bodies, name), persistent=False)

    @property
    def bodies(self) -> Bodies | None:
        """Bodies in grid units; None for a rigid particle."""
        return Bodies(**{name: getattr(self, name) for name in self._names}) if self._names else None

    def correction(self, rows: Tensor) -> Correction:
        """Return the correction from the rows of the head (B, bodies + 1, 6): one per body, then the particle."""
        bodies = self.bodies
        motion = None
        if bodies is not None:
            own = rows[:, : len(bodies)]
            motion = body_motion(small_rotation(own[..., :3]), small_rotation(own[..., 3:]), bodies)
        return Correction(small_rotation(rows[:, -1, :3]), rows[:, -1, 3:], motion)

    def motion_of_largest_body(self, motion: Motion | None) -> RigidStep | None:
        """Return the motion of the largest body, which defines the frame of the particle; None without bodies."""
        bodies = self.bodies
        if motion is None or bodies is None:
            return None
        own, center = motion.rotations[:, self.largest].detach(), bodies.centers[self.largest]
        moved = motion.shifts[:, self.largest].detach() + center - center @ own  # V is read at ownᵀ x + moved
        return RigidStep(own, moved / self.boxes.grid_per_pixel)

    def no_correction(self, count: int, device: torch.device) -> Correction:
        """Return the correction of a model without a head: none."""
        return Correction(torch.eye(3, device=device).expand(count, 3, 3), torch.zeros(count, 3, device=device), None)

    def sampler(self, template: Tensor, rotation: Tensor, correction: Correction) -> Sampler:
        """Return the sampler of templates (B, T, T, T) at corrected poses."""
        pose, bodies = rotation @ correction.turn, self.bodies
        if bodies is None or correction.motion is None:
            return Sampler(template, pose, None, self.boxes)
        return Sampler(template, pose, blended_grid(pose, correction.motion, bodies, self.boxes.crop), self.boxes)

    def posed_mask(self, mask: Tensor, rotation: Tensor, correction: Correction) -> Tensor:
        """Return the solvent mask (Dc, Dc, Dc) posed by A δA, and by t without bodies, (B, Dr, Dr, Dr)."""
        boxes = self.boxes
        volumes = mask.expand(len(rotation), -1, -1, -1)
        shift = on_grid(correction.shift_px, boxes) if self.bodies is None else None
        return sample_posed(volumes, (rotation @ correction.turn).mT[:, None], boxes.crop, shift, boxes.render)[:, 0]
