"""Body motion predicted by a trained model, and screw motion of bodies relative to their parents along components."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from opustomo.analysis.latents.dimension_reduction import PrincipalComponents
from opustomo.analysis.latents.latent_traversals import pc_traversal
from opustomo.analysis.volumes.decoding import VolumeDecoder
from opustomo.errors import UserError
from opustomo.geometry.rigid_bodies import Array, BodyGeometry, RigidMotions, Screw, screw_of
from opustomo.physics.body_motion import effective_motion, nominal_motion

BATCH = 4096


class MotionModel:
    """Motion head of a trained model with bodies.

    Lengths are in voxels of the subtomograms, positions relative to voxel D/2.

    Parameters
    ----------
    weights, config
        Weights and configuration of the run.
    device
        Device on which the model is evaluated.

    Raises
    ------
    UserError
        If the run has no bodies.
    """

    def __init__(self, weights: Path, config: Path, device: torch.device | str) -> None:
        self.decoder = VolumeDecoder(weights, config, device)
        if self.decoder.bodies is None:
            raise UserError(f"{weights} has no bodies. Train with --masks and the output of dsdsh prepare_multi.")
        self.geometry: BodyGeometry = self.decoder.bodies
        self.boxes = self.decoder.boxes

    @torch.no_grad()
    def bodies(self, conformations: np.ndarray, effective: bool = False) -> RigidMotions:
        """Return the motion of each body in the reference frame, (N, B).

        Parameters
        ----------
        conformations
            Conformation latents, (N, zaffinedim).
        effective
            False returns the rigid motion (R_b, s_b) predicted by the model. True returns the motion that decoded
            volumes show, which is smaller where bodies touch because the deformation grids are blended.
        """
        rotations, shifts = [], []
        bodies = self.decoder.posing.bodies
        for first in range(0, len(conformations), BATCH):
            motion = self.decoder.correction(conformations[first : first + BATCH]).motion
            assert motion is not None and bodies is not None
            rotation, shift = (effective_motion if effective else nominal_motion)(motion, bodies)
            rotations.append(rotation.double().cpu().numpy())
            shifts.append(shift.double().cpu().numpy() / self.boxes.grid_per_pixel)
        return RigidMotions(np.concatenate(rotations), np.concatenate(shifts))

    def relative(self, motions: RigidMotions) -> RigidMotions:
        """Return the motions (N, B) relative to the parent of each body, expressed in the frame of the parent."""
        return motions[:, list(self.geometry.parents)].inverse().after(motions)


LEAST_ANGLE_DEG, LEAST_SHIFT_A = 0.5, 0.5
"""A body that moves by less than both values is reported as not moving, because noise causes such motion."""


@dataclass(frozen=True, eq=False)
class BodyScrew:
    """Motion of one body relative to its parent from the first to the last point of a traversal.

    Attributes
    ----------
    body, parent
        Indices of the body and its parent, counted from 0.
    screw
        Screw axis through ``screw.point`` (relative to the center of the box, Å), angle, and shift along the axis (Å).
    center_A, center_move_A
        Initial center of mass of the body and its displacement vector in Å.
    box_A
        Side of the box in Å. If the axis is farther from the body than this, the motion is a translation.
    path_deg
        Rotation about the axis at each point of the traversal, relative to the first point, in degrees.
    shown_deg
        Rotation that decoded volumes show, in degrees. It is smaller than the predicted rotation where bodies touch
        because the deformation grids are blended.
    """

    body: int
    parent: int
    screw: Screw
    center_A: Array
    center_move_A: Array
    box_A: float
    path_deg: Array
    shown_deg: float

    @property
    def center_shift_A(self) -> float:
        """Displacement of the center of mass of the body in Å."""
        return float(np.linalg.norm(self.center_move_A))

    @property
    def rotates(self) -> bool:
        """Whether the motion is a rotation about an axis that passes near the particle."""
        distance = np.linalg.norm(self.screw.point - self.center_A)
        return self.moves and self.screw.angle_deg > 0 and bool(distance < self.box_A)

    @property
    def moves(self) -> bool:
        """Whether the motion exceeds the noise level."""
        return self.screw.angle_deg >= LEAST_ANGLE_DEG or self.center_shift_A >= LEAST_SHIFT_A

    def sentence(self) -> str:
        """Return a description of the motion."""
        name = f"body {self.body + 1} relative to body {self.parent + 1}"
        if not self.moves:
            return (
                f"{name}: does not move ({self.screw.angle_deg:.2f}°, {self.center_shift_A:.2f} Å; the thresholds are "
                f"{LEAST_ANGLE_DEG:g}° and {LEAST_SHIFT_A:g} Å)"
            )
        if not self.rotates:
            direction = ", ".join(f"{value:+.3f}" for value in self.center_move_A / self.center_shift_A)
            return (
                f"{name}: its center moves {self.center_shift_A:.2f} Å along ({direction}), and it rotates by "
                f"{self.screw.angle_deg:.2f}°"
            )
        axis = ", ".join(f"{value:+.3f}" for value in self.screw.axis)
        point = ", ".join(f"{value:.1f}" for value in self.screw.point)
        return (
            f"{name}: rotates by {self.screw.angle_deg:.2f}° about ({axis}) through ({point}) Å and shifts by "
            f"{self.screw.shift:+.2f} Å along this axis; its center moves {self.center_shift_A:.2f} Å; decoded volumes "
            f"show {self.shown_deg:.2f}° of the rotation"
        )


@dataclass(frozen=True, eq=False)
class ComponentMotion:
    """Traversal of one component of the conformation, `latents` (n, zaffinedim), and the motion of the bodies."""

    number: int
    variance_ratio: float
    latents: np.ndarray
    screws: list[BodyScrew]


def moving_bodies(geometry: BodyGeometry) -> list[int]:
    """Return the bodies to report.

    Bodies that are their own parent are skipped. Of two bodies that are each other's parents, the second is reported.
    """
    parents = geometry.parents
    return [
        body
        for body, parent in enumerate(parents)
        if parent != body and not (parents[parent] == body and body < parent)
    ]


def component_motion(
    model: MotionModel, pca: PrincipalComponents, scores: np.ndarray, component: int, points: int
) -> ComponentMotion:
    """Compute the screw motion of the bodies along one component, from the 1st to the 99th percentile.

    Parameters
    ----------
    model
        Motion head of the run.
    pca, scores
        Principal components of the conformation latents and scores of the particles.
    component
        Index of the component, counted from 0.
    points
        Number of points of the traversal.
    """
    latents, _ = pc_traversal(pca, scores, component, points)
    relative = model.relative(model.bodies(latents.astype(np.float32)))
    shown = model.relative(model.bodies(latents[[0, -1]].astype(np.float32), effective=True))
    apix = model.boxes.apix
    screws = []
    for body in moving_bodies(model.geometry):
        path = relative[:, body]
        first = path[0]
        from_first = path.after(first.inverse())
        start = first.apply(model.geometry.array("com_bodies")[body])
        total = from_first[-1]
        screw = screw_of(RigidMotions(total.turns, total.shifts * apix), start * apix)
        screws.append(
            BodyScrew(
                body=body,
                parent=model.geometry.parents[body],
                screw=screw,
                center_A=start * apix,
                center_move_A=(total.apply(start) - start) * apix,
                box_A=model.boxes.box * apix,
                path_deg=from_first.rotvecs_deg() @ screw.axis,
                shown_deg=float(shown[1, body].after(shown[0, body].inverse()).rotvecs_deg() @ screw.axis),
            )
        )
    return ComponentMotion(component + 1, float(pca.variance_ratio[component]), latents, screws)


def particle_table(model: MotionModel, conformations: np.ndarray, motion: ComponentMotion) -> tuple[list[str], Array]:
    """Compute the motion of each reported body for each particle, relative to the mean over particles.

    Returns
    -------
    names : list of str
        Column names.
    values : numpy.ndarray
        For each body, the rotation about the axis of the component (degrees), the total rotation (degrees) and the
        displacement of its center (Å), shape (N, 3 · bodies).
    """
    relative = model.relative(model.bodies(conformations))
    names, columns = [], []
    for body_screw in motion.screws:
        rotation_vectors = relative[:, body_screw.body].rotvecs_deg()
        center = model.geometry.array("com_bodies")[body_screw.body]
        positions = relative[:, body_screw.body].apply(np.broadcast_to(center, rotation_vectors.shape))
        positions = positions * model.boxes.apix
        angles = rotation_vectors @ body_screw.screw.axis
        names += [f"body{body_screw.body + 1}_{what}" for what in ("about_axis_deg", "turn_deg", "center_shift_A")]
        columns += [
            angles - angles.mean(),
            np.linalg.norm(rotation_vectors - rotation_vectors.mean(0), axis=1),
            np.linalg.norm(positions - positions.mean(0), axis=1),
        ]
    return names, np.stack(columns, 1)
