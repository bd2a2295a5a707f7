"""Files of rigid bodies: their geometry (``{outmasks}.pkl``, a torch file) and poses with entries for bodies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from opustomo.errors import UserError
from opustomo.geometry.rigid_bodies import TENSOR_NAMES, BodyGeometry
from opustomo.io.pickles import dump_pickle, dump_torch, load_torch
from opustomo.io.poses import Poses

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
