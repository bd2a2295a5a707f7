"""Files of rigid bodies: geometry (``{outmasks}.pkl``, a torch file), poses of bodies in pickles and STAR files.

RELION rotates body b of a particle with pose A by ``A · orientᵀ · Ry(90°)ᵀ · A(rot, tilt, psi) · orient``, so
(0, 90, 0) is the identity. The origin of a body is the shift that returns its center to the position given by A alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from opustomo.errors import UserError
from opustomo.geometry.rigid_bodies import TENSOR_NAMES, Array, BodyGeometry, RigidMotions
from opustomo.geometry.rotations import euler_to_matrix, matrix_to_euler
from opustomo.io.pickles import dump_pickle, dump_torch, load_torch
from opustomo.io.poses import Poses
from opustomo.io.star import write_blocks
from opustomo.io.star_poses import star_with_poses
from opustomo.io.star_tables import EULER_COLUMNS, ORIGIN_ANGST_COLUMNS, ORIGIN_COLUMNS, ParticleStar

if TYPE_CHECKING:
    import pandas as pd

NEUTRAL_BODY_EULERS = (0.0, 90.0, 0.0)
_GRID = "grid"


def write_bodies(path: Path, geometry: BodyGeometry, box: int, apix: float) -> None:
    """Write the geometry with the entries of OPUS-TOMO, ``parents`` (from 0) and ``grid`` (box and pixel size)."""
    content = {name: geometry.tensor(name) for name in TENSOR_NAMES}
    content["parents"] = torch.tensor(geometry.parents, dtype=torch.float32)
    content[_GRID] = torch.tensor([float(box), apix])
    dump_torch(path, content)


def load_bodies(path: Path, box: int | None = None, apix: float | None = None) -> BodyGeometry:
    """Read a geometry of bodies, also one of OPUS-TOMO.

    Parameters
    ----------
    path
        File written by ``dsdsh prepare_multi``.
    box, apix
        Box length in voxels and pixel size in Å of the subtomograms; None omits the comparison.

    Raises
    ------
    UserError
        The file is missing, unsafe, not a geometry of bodies, or made for another box or pixel size.
    """
    content = load_torch(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a geometry of bodies. Make it with dsdsh prepare_multi.")
    try:
        members = {name: np.asarray(content[name], dtype=np.float64) for name in TENSOR_NAMES}
        parents = tuple(int(p) for p in content.get("parents", ()))
        geometry = BodyGeometry(**members, parents=parents)
        made_for = content.get(_GRID)
        grid = None if made_for is None else (round(float(made_for[0])), float(made_for[1]))
    except (KeyError, ValueError, TypeError, IndexError, RuntimeError) as error:
        raise UserError(f"{path}: not a geometry of bodies ({error}). Make it with dsdsh prepare_multi.") from error
    if grid is not None and box is not None and grid[0] != box:
        raise UserError(
            f"{path}: made for a box of {grid[0]} voxels, but the subtomograms have {box}. Run dsdsh prepare_multi "
            "again."
        )
    if grid is not None and apix is not None and abs(grid[1] / apix - 1) > 1e-2:
        raise UserError(
            f"{path}: made for {grid[1]:g} Å per pixel, but the subtomograms have {apix:g}. Run dsdsh prepare_multi "
            "again."
        )
    if box is not None:
        check_inside(geometry, box, str(path))
    return geometry


def write_multibody_poses(path: Path, poses: Poses, bodies: int) -> None:
    """Write poses with, for every body, the identity rotation (0, 90, 0) and no shift."""
    eulers = np.broadcast_to(np.array(NEUTRAL_BODY_EULERS), (len(poses), bodies, 3)).copy()
    shifts = np.zeros((len(poses), bodies, 3))
    dump_pickle(path, (poses.rotations, poses.origins, poses.eulers_deg, eulers, shifts))


def check_inside(geometry: BodyGeometry, box: int, source: str) -> None:
    """Raise an error if the center of a body is outside the box.

    Raises
    ------
    UserError
        The center of a body is outside a box of ``box`` voxels.
    """
    outside = np.abs(geometry.array("com_bodies")).max(1) > box / 2
    if outside.any():
        body = int(np.flatnonzero(outside)[0])
        where = ", ".join(f"{value:.1f}" for value in geometry.com_bodies[body])
        raise UserError(
            f"{source}: the center of body {body + 1} is at ({where}) voxels from the center of the box, outside the "
            f"box of {box} voxels. Check the box and the pixel size."
        )


BODY_BLOCK = "images_body_"
_QUARTER_TURN = euler_to_matrix(torch.tensor([0.0, 90.0, 0.0], dtype=torch.float64)).numpy()


def residual_angles(motions: RigidMotions, geometry: BodyGeometry) -> Array:
    """Return the RELION angles rot, tilt, psi in degrees, (N, B, 3), of `motions` given in the reference frame."""
    frames = geometry.array("orient_bodies")
    residual = _QUARTER_TURN @ frames @ motions.turns @ np.swapaxes(frames, -1, -2)
    return matrix_to_euler(torch.from_numpy(residual)).numpy()


def center_shifts(motions: RigidMotions, geometry: BodyGeometry) -> Array:
    """Return the displacement of each body center in the reference frame, (N, B, 3) voxels."""
    centers = geometry.array("com_bodies")
    return motions.apply(np.broadcast_to(centers, motions.shifts.shape)) - centers


def body_origins_px(poses: Poses, motions: RigidMotions, geometry: BodyGeometry) -> Array:
    """Return the body origins in the subtomogram frame, (N, B, 3) voxels: -A times the displacement of the center."""
    return -np.einsum("nij,nbj->nbi", poses.rotations.astype(np.float64), center_shifts(motions, geometry))


def absolute_poses(poses: Poses, motions: RigidMotions, body: int, box: int) -> Poses:
    """Return particle poses that align the whole reference to one body: rotation A R and origin minus A d."""
    rotations = poses.rotations.astype(np.float64)
    body_motion = motions[:, body]
    eulers = matrix_to_euler(torch.from_numpy(rotations @ body_motion.turns)).numpy()
    shift = np.einsum("nij,nj->ni", rotations, body_motion.shifts)
    return Poses(eulers, poses.origins - shift / box)


@dataclass(frozen=True)
class BodyPoses:
    """Poses of N particles and, in voxels, the motions (N, B) of their bodies from their places in the geometry."""

    poses: Poses
    motions: RigidMotions
    geometry: BodyGeometry


def write_body_stars(path: Path, star: ParticleStar, found: BodyPoses, box: int, apix: float) -> list[Path]:
    """Write ``bodies.N.star`` and one particle STAR file per body.

    Parameters
    ----------
    path
        Multi-body file. It contains all blocks of `star` with the poses of the particles, followed by the blocks
        ``data_images_body_1`` … with the RELION angles and origins of each body.
    star
        Particle table of the run, N rows.
    found
        Poses of the particles and motions of their bodies.
    box, apix
        Box (voxels) and pixel size (Å) of the subtomograms.

    Returns
    -------
    list of Path
        `path`, followed by the files ``body1.{rest of its name}`` …. Their poses align the consensus map to one body,
        so the body can be refined with its mask in any program.
    """
    import pandas as pd

    poses, motions, geometry = found.poses, found.motions, found.geometry
    posed = star_with_poses(star, poses, box, apix)
    angles, origins = residual_angles(motions, geometry), body_origins_px(poses, motions, geometry)
    in_angst = any(column in posed for column in ORIGIN_ANGST_COLUMNS)
    columns = (*EULER_COLUMNS, *(ORIGIN_ANGST_COLUMNS if in_angst else ORIGIN_COLUMNS))
    blocks: dict[str, pd.DataFrame | dict[str, str]] = dict(posed.blocks)
    for body in range(len(geometry)):
        values = np.concatenate([angles[:, body], origins[:, body] * (apix if in_angst else 1.0)], axis=1)
        texts = np.char.mod("%.6f", values).astype(object)
        blocks[f"{BODY_BLOCK}{body + 1}"] = pd.DataFrame(texts, columns=list(columns))
    write_blocks(path, blocks)
    written = [path]
    suffix = path.name.split(".", 1)[1]
    for body in range(len(geometry)):
        body_path = path.with_name(f"body{body + 1}.{suffix}")
        star_with_poses(star, absolute_poses(poses, motions, body, box), box, apix).write(body_path)
        written.append(body_path)
    return written
