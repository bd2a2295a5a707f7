"""Screw axes of bodies relative to their parents along the components of the conformation latent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from opustomo.analysis.pca import PrincipalComponents
from opustomo.analysis.traversal import pc_traversal
from opustomo.dynamics.latent_motion import MotionModel
from opustomo.geometry.bodies import BodyGeometry
from opustomo.geometry.screw import Array, RigidMotions, Screw, screw_of

LEAST_ANGLE_DEG, LEAST_SHIFT_A = 0.5, 0.5
"""Below both, a body is said not to move: that much comes out of noise."""


@dataclass(frozen=True, eq=False)
class BodyScrew:
    """Motion of one body relative to its parent from one end of a traversal to the other; lengths in Å.

    Attributes
    ----------
    body, parent
        From 0.
    screw
        Axis through ``screw.point`` (relative to the centre of the box), angle, shift along it.
    centre_A, centre_move_A
        Where the body's centre of mass is at first, and the vector that it moves by.
    box_A
        Side of the box: an axis farther away than that is no axis of a turn, the body shifts.
    path_deg
        Turn about the axis at every point of the traversal, from its first.
    shown_deg
        What decoded volumes show of the turn: less where bodies touch, because their grids are blended.
    """

    body: int
    parent: int
    screw: Screw
    centre_A: Array
    centre_move_A: Array
    box_A: float
    path_deg: Array
    shown_deg: float

    @property
    def centre_shift_A(self) -> float:
        """How far the body's centre of mass moves."""
        return float(np.linalg.norm(self.centre_move_A))

    @property
    def turns(self) -> bool:
        """Whether there is an axis to speak of: it passes near the particle."""
        distance = np.linalg.norm(self.screw.point - self.centre_A)
        return self.moves and self.screw.angle_deg > 0 and bool(distance < self.box_A)

    @property
    def moves(self) -> bool:
        """Whether this is more than what comes out of noise."""
        return self.screw.angle_deg >= LEAST_ANGLE_DEG or self.centre_shift_A >= LEAST_SHIFT_A

    def sentence(self) -> str:
        """The motion in plain words."""
        name = f"body {self.body + 1} relative to body {self.parent + 1}"
        if not self.moves:
            return (
                f"{name}: does not move ({self.screw.angle_deg:.2f}°, {self.centre_shift_A:.2f} Å; at least "
                f"{LEAST_ANGLE_DEG:g}° or {LEAST_SHIFT_A:g} Å would count)"
            )
        if not self.turns:
            direction = ", ".join(f"{value:+.3f}" for value in self.centre_move_A / self.centre_shift_A)
            return (
                f"{name}: its centre moves {self.centre_shift_A:.2f} Å along ({direction}), and it turns by "
                f"{self.screw.angle_deg:.2f}°"
            )
        axis = ", ".join(f"{value:+.3f}" for value in self.screw.axis)
        point = ", ".join(f"{value:.1f}" for value in self.screw.point)
        return (
            f"{name}: turns by {self.screw.angle_deg:.2f}° about ({axis}) through ({point}) Å and shifts by "
            f"{self.screw.shift:+.2f} Å along it; its centre moves {self.centre_shift_A:.2f} Å; decoded volumes show "
            f"{self.shown_deg:.2f}° of the turn"
        )


@dataclass(frozen=True, eq=False)
class ComponentMotion:
    """One component of the conformation: its traversal (n, zaffinedim) and what the bodies do along it."""

    number: int
    variance_ratio: float
    latents: np.ndarray
    screws: list[BodyScrew]


def moving_bodies(geometry: BodyGeometry) -> list[int]:
    """Bodies to report: of two that name each other as parent, the later one; none that is its own parent."""
    parents = geometry.parents
    return [
        body
        for body, parent in enumerate(parents)
        if parent != body and not (parents[parent] == body and body < parent)
    ]


def component_motion(
    model: MotionModel, pca: PrincipalComponents, scores: np.ndarray, component: int, points: int
) -> ComponentMotion:
    """Traverse one component (from 0) between the 1st and 99th percentile and find the screws.

    Parameters
    ----------
    pca, scores
        Components of the conformation latents and the particles' scores.
    points
        Points of the traversal.
    """
    latents, _ = pc_traversal(pca, scores, component, points)
    relative = model.relative(model.bodies(latents.astype(np.float32)))
    shown = model.relative(model.bodies(latents[[0, -1]].astype(np.float32), realised=True))
    apix = model.boxes.apix
    screws = []
    for body in moving_bodies(model.geometry):
        path = relative[:, body]
        first = path[0]
        from_first = path.after(first.inverse())
        start = first.apply(model.geometry.array("com_bodies")[body])
        whole = from_first[-1]
        screw = screw_of(RigidMotions(whole.turns, whole.shifts * apix), start * apix)
        screws.append(
            BodyScrew(
                body=body,
                parent=model.geometry.parents[body],
                screw=screw,
                centre_A=start * apix,
                centre_move_A=(whole.apply(start) - start) * apix,
                box_A=model.boxes.box * apix,
                path_deg=from_first.rotvecs_deg() @ screw.axis,
                shown_deg=float(shown[1, body].after(shown[0, body].inverse()).rotvecs_deg() @ screw.axis),
            )
        )
    return ComponentMotion(component + 1, float(pca.variance_ratio[component]), latents, screws)


def particle_table(model: MotionModel, conformations: np.ndarray, motion: ComponentMotion) -> tuple[list[str], Array]:
    """Per particle and reported body: turn about the component's axis, whole turn (degrees), shift of the centre (Å).

    Turns count from the mean of the particles.
    """
    relative = model.relative(model.bodies(conformations))
    names, columns = [], []
    for one in motion.screws:
        vectors = relative[:, one.body].rotvecs_deg()
        centre = model.geometry.array("com_bodies")[one.body]
        moved = relative[:, one.body].apply(np.broadcast_to(centre, vectors.shape)) * model.boxes.apix
        along = vectors @ one.screw.axis
        names += [f"body{one.body + 1}_{what}" for what in ("about_axis_deg", "turn_deg", "centre_shift_A")]
        columns += [
            along - along.mean(),
            np.linalg.norm(vectors - vectors.mean(0), axis=1),
            np.linalg.norm(moved - moved.mean(0), axis=1),
        ]
    return names, np.stack(columns, 1)
