"""Poses of all particles: `*_pose_euler.pkl` and `pose.N.pkl`."""

import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from opustomo.errors import UserError
from opustomo.io.pickles import dump_pickle, load_pickle
from opustomo.io.pose_limits import require_angles


@dataclass(frozen=True, eq=False)
class Poses:
    """Orientation and origin of each particle.

    Attributes
    ----------
    eulers_deg
        RELION rot, tilt, psi in degrees, float64 (N, 3).
    origins
        Origins x, y, z in pixels divided by the box length, sign as in STAR files, float64 (N, 3).
    """

    eulers_deg: npt.NDArray[np.float64]
    origins: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        for name in ("eulers_deg", "origins"):
            values = np.array(getattr(self, name), dtype=np.float64)
            if values.ndim != 2 or values.shape[1] != 3:
                raise ValueError(f"{name} must have the shape (N, 3), not {values.shape}")
            object.__setattr__(self, name, values)
        if len(self.eulers_deg) != len(self.origins):
            raise ValueError(f"{len(self.eulers_deg)} orientations but {len(self.origins)} origins")

    def __len__(self) -> int:
        return len(self.eulers_deg)

    @property
    def rotations(self) -> npt.NDArray[np.float32]:
        """RELION matrices A, float32 (N, 3, 3): reference to subtomogram coordinates."""
        import torch

        from opustomo.geometry.euler import euler_to_matrix

        matrices = euler_to_matrix(torch.from_numpy(self.eulers_deg)).numpy()
        return matrices.astype(np.float32)

    def subset(self, indices: npt.ArrayLike) -> "Poses":
        """Poses of the particles at `indices` (integers or a mask), in that order."""
        chosen = np.asarray(indices)
        if not chosen.size:
            chosen = chosen.astype(np.int64)
        return Poses(self.eulers_deg[chosen], self.origins[chosen])


def read_poses(path: str | os.PathLike[str]) -> Poses:
    """Read poses from a pickled tuple (rot, trans, euler), or its five-member multi-body form.

    Euler angles and origins are taken; the matrices are ignored, because the original leaves stale ones in
    `pose.N.pkl`.

    Raises
    ------
    UserError
        The file is missing, unsafe, or not such a tuple, or an angle is too large for one in degrees.
    """
    content = load_pickle(path)
    if not isinstance(content, (tuple, list)) or len(content) not in (3, 5):
        raise UserError(f"{path}: not a tuple (rot, trans, euler) of poses; make it with dsd parse_pose_star.")
    columns = {}
    for name, values in (("trans", content[1]), ("euler", content[2])):
        try:
            table = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{path}: '{name}' is not numeric; make the poses with dsd parse_pose_star.") from error
        if table.ndim != 2 or table.shape[1] != 3:
            raise UserError(f"{path}: '{name}' has the shape {table.shape} where (particles, 3) was expected.")
        if not np.isfinite(table).all():
            row = int(np.flatnonzero(~np.isfinite(table).all(axis=1))[0])
            raise UserError(f"{path}: '{name}' of particle {row} is not finite; make the poses again.")
        columns[name] = table
    if len(columns["trans"]) != len(columns["euler"]):
        raise UserError(
            f"{path}: {len(columns['euler'])} orientations but {len(columns['trans'])} origins; make the poses again."
        )
    require_angles(columns["euler"], path)
    return Poses(eulers_deg=columns["euler"], origins=columns["trans"])


def write_poses(path: str | os.PathLike[str], poses: Poses) -> None:
    """Write poses as a pickled tuple (rot f32 (N,3,3), trans f64 (N,3), euler f64 (N,3)) in agreement."""
    dump_pickle(path, (poses.rotations, poses.origins, poses.eulers_deg))
