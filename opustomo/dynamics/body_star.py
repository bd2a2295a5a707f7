"""Poses of bodies in RELION's multi-body form: angles and shifts of every body of every particle.

RELION turns body b of a particle of pose A by ``A · orientᵀ · Ry(90°)ᵀ · A(rot, tilt, psi) · orient``, so that
(0, 90, 0) is no turn, and its origin is the shift that brings the body's centre back to where A alone puts it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from opustomo.geometry.bodies import BodyGeometry
from opustomo.geometry.euler import euler_to_matrix, matrix_to_euler
from opustomo.geometry.screw import Array, RigidMotions
from opustomo.io.poses import Poses
from opustomo.io.star import EULER_COLUMNS, ORIGIN_ANGST_COLUMNS, ORIGIN_COLUMNS, ParticleStar
from opustomo.io.star_poses import star_with_poses
from opustomo.io.star_text import write_blocks

if TYPE_CHECKING:
    import pandas as pd

BODY_BLOCK = "images_body_"
_QUARTER = euler_to_matrix(torch.tensor([0.0, 90.0, 0.0], dtype=torch.float64)).numpy()


def residual_angles(motions: RigidMotions, geometry: BodyGeometry) -> Array:
    """RELION's rot, tilt, psi (N, B, 3) of bodies that turn by ``motions`` in the reference frame."""
    frames = geometry.array("orient_bodies")
    residual = _QUARTER @ frames @ motions.turns @ np.swapaxes(frames, -1, -2)
    return matrix_to_euler(torch.from_numpy(residual)).numpy()


def centre_shifts(motions: RigidMotions, geometry: BodyGeometry) -> Array:
    """How far each body's centre moves in the reference frame, (N, B, 3) voxels."""
    centres = geometry.array("com_bodies")
    return motions.apply(np.broadcast_to(centres, motions.shifts.shape)) - centres


def body_origins_px(poses: Poses, motions: RigidMotions, geometry: BodyGeometry) -> Array:
    """Origins of the bodies, (N, B, 3) voxels in the frame of the subtomogram: minus A times the centres' shift."""
    return -np.einsum("nij,nbj->nbi", poses.rotations.astype(np.float64), centre_shifts(motions, geometry))


def absolute_poses(poses: Poses, motions: RigidMotions, body: int, box: int) -> Poses:
    """Poses that put the whole reference such that one body is right: A R, and the origin less A d."""
    rotations = poses.rotations.astype(np.float64)
    one = motions[:, body]
    eulers = matrix_to_euler(torch.from_numpy(rotations @ one.turns)).numpy()
    shift = np.einsum("nij,nj->ni", rotations, one.shifts)
    return Poses(eulers, poses.origins - shift / box)


def write_body_stars(
    path: Path, star: ParticleStar, poses: Poses, motions: RigidMotions, geometry: BodyGeometry, box: int, apix: float
) -> list[Path]:
    """Write ``bodies.N.star`` and beside it one particle STAR per body.

    Parameters
    ----------
    path
        The multi-body file: all blocks of ``star`` with the particles' ``poses``, then ``data_images_body_1`` … with
        RELION's angles and origins of every body.
    star
        Particles of the run, in its order.
    poses, motions
        Of the particles (N) and of their bodies (N, B) in voxels.
    box, apix
        Of the subtomograms.

    Returns
    -------
    list of Path
        ``path``, then ``body1.{rest of its name}`` …, whose poses put the consensus map such that the body fits; for
        refinement with the body's mask in any program.
    """
    import pandas as pd

    placed = star_with_poses(star, poses, box, apix)
    angles, origins = residual_angles(motions, geometry), body_origins_px(poses, motions, geometry)
    in_angst = any(column in placed for column in ORIGIN_ANGST_COLUMNS)
    columns = (*EULER_COLUMNS, *(ORIGIN_ANGST_COLUMNS if in_angst else ORIGIN_COLUMNS))
    blocks: dict[str, pd.DataFrame | dict[str, str]] = dict(placed.blocks)
    for body in range(len(geometry)):
        values = np.concatenate([angles[:, body], origins[:, body] * (apix if in_angst else 1.0)], axis=1)
        texts = np.char.mod("%.6f", values).astype(object)
        blocks[f"{BODY_BLOCK}{body + 1}"] = pd.DataFrame(texts, columns=list(columns))
    write_blocks(path, blocks)
    written = [path]
    rest = path.name.split(".", 1)[1]
    for body in range(len(geometry)):
        name = path.with_name(f"body{body + 1}.{rest}")
        star_with_poses(star, absolute_poses(poses, motions, body, box), box, apix).write(name)
        written.append(name)
    return written
