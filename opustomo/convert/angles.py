"""Euler angles of other programs and RELION's, all in degrees.

With active turns `Z(a)`, `Y(a)`, `X(a)` (counter-clockwise, column vectors), RELION's rotation from reference to
subtomogram is `A = Z(-psi) Y(-tilt) Z(-rot)`. PyTom's is `Z(Z2) X(X) Z(Z1)`, Dynamo's `Z(-tdrot) X(-tilt) Z(-narot)`
(the rule of dynamo2m and `eulerangles`). Since `Y(a) = Z(90) X(a) Z(-90)`, each angle follows from one other, exactly
and without matrices.
"""

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

Angles = npt.NDArray[np.float64]


def wrap_degrees(angles: Angles) -> Angles:
    """Bring angles into (-180, 180]."""
    return 180.0 - np.mod(180.0 - angles, 360.0)


def relion_from_pytom(zxz_deg: Angles) -> Angles:
    """Turn PyTom's Z1, X, Z2 into RELION's rot, tilt, psi; both (N, 3) degrees."""
    z1, x, z2 = np.moveaxis(np.asarray(zxz_deg, np.float64), -1, 0)
    return np.stack([wrap_degrees(90.0 - z1), x, wrap_degrees(-90.0 - z2)], axis=-1)


def pytom_from_relion(eulers_deg: Angles) -> Angles:
    """Turn RELION's rot, tilt, psi into PyTom's Z1, X, Z2; both (N, 3) degrees."""
    rot, tilt, psi = np.moveaxis(np.asarray(eulers_deg, np.float64), -1, 0)
    return np.stack([wrap_degrees(90.0 - rot), tilt, wrap_degrees(-90.0 - psi)], axis=-1)


def relion_from_dynamo(zxz_deg: Angles) -> Angles:
    """Turn Dynamo's tdrot, tilt, narot into RELION's rot, tilt, psi; both (N, 3) degrees."""
    tdrot, tilt, narot = np.moveaxis(np.asarray(zxz_deg, np.float64), -1, 0)
    return np.stack([wrap_degrees(narot - 90.0), tilt, wrap_degrees(tdrot + 90.0)], axis=-1)


def dynamo_from_relion(eulers_deg: Angles) -> Angles:
    """Turn RELION's rot, tilt, psi into Dynamo's tdrot, tilt, narot; both (N, 3) degrees."""
    rot, tilt, psi = np.moveaxis(np.asarray(eulers_deg, np.float64), -1, 0)
    return np.stack([wrap_degrees(psi - 90.0), tilt, wrap_degrees(rot + 90.0)], axis=-1)


def relion_rotations(eulers_deg: Angles) -> Rotation:
    """RELION's A, from reference to subtomogram, for rot, tilt, psi (N, 3) degrees."""
    return Rotation.from_euler("ZYZ", eulers_deg, degrees=True).inv()


def relion_eulers(rotations: Rotation) -> Angles:
    """RELION's rot, tilt, psi (N, 3) degrees of rotations A, tilt in [0, 180]; rot is 0 at the poles."""
    matrices = rotations.as_matrix()
    sin_tilt = np.hypot(matrices[:, 2, 0], matrices[:, 2, 1])
    tilt = np.arctan2(sin_tilt, matrices[:, 2, 2])
    rot = np.where(sin_tilt < 1e-9, 0.0, np.arctan2(matrices[:, 2, 1], matrices[:, 2, 0]))
    # A Rz(rot)ᵀ = Rz(psi) Ry(tilt), whose second column is (sin psi, cos psi, 0): right at the poles too
    sin_psi = matrices[:, 0, 1] * np.cos(rot) - matrices[:, 0, 0] * np.sin(rot)
    cos_psi = matrices[:, 1, 1] * np.cos(rot) - matrices[:, 1, 0] * np.sin(rot)
    return np.rad2deg(np.stack([rot, tilt, np.arctan2(sin_psi, cos_psi)], axis=-1))
