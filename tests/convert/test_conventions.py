"""Euler angles of other programs compared with matrices made by SciPy."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from opustomo.convert.conventions import (
    dynamo_from_relion,
    relion_eulers,
    relion_from_dynamo,
    relion_from_pytom,
    relion_rotations,
    wrap_degrees,
)

ANGLE = st.floats(-400, 400) | st.sampled_from([-180.0, -90.0, 0.0, 90.0, 180.0])
TRIPLES = st.lists(st.tuples(ANGLE, ANGLE, ANGLE), min_size=1, max_size=6).map(np.array)


def spec_matrix(eulers: np.ndarray) -> np.ndarray:
    """RELION's A = Rz(psi) Ry(tilt) Rz(rot), written out from its definition."""

    def rz(a: float) -> np.ndarray:
        return np.array([[np.cos(a), np.sin(a), 0], [-np.sin(a), np.cos(a), 0], [0, 0, 1]])

    def ry(b: float) -> np.ndarray:
        return np.array([[np.cos(b), 0, -np.sin(b)], [0, 1, 0], [np.sin(b), 0, np.cos(b)]])

    return np.stack([rz(psi) @ ry(tilt) @ rz(rot) for rot, tilt, psi in np.deg2rad(eulers)])


@given(TRIPLES)
def test_relion(eulers: np.ndarray) -> None:
    matrices = spec_matrix(eulers)
    np.testing.assert_allclose(relion_rotations(eulers).as_matrix(), matrices, atol=1e-12)
    back = relion_eulers(Rotation.from_matrix(matrices))
    np.testing.assert_allclose(spec_matrix(back), matrices, atol=1e-7)
    assert ((back[:, 1] >= 0) & (back[:, 1] <= 180)).all()


@given(TRIPLES)
def test_pytom(zxz: np.ndarray) -> None:
    """PyTom's intrinsic Z2, X, Z1 is RELION's A."""
    expected = Rotation.from_euler("ZXZ", zxz[:, ::-1], degrees=True).as_matrix()
    eulers = relion_from_pytom(zxz)
    np.testing.assert_allclose(spec_matrix(eulers), expected, atol=1e-9)
    np.testing.assert_allclose(wrap_degrees(relion_from_pytom(eulers) - zxz), 0, atol=1e-9)  # its own inverse


@given(TRIPLES)
def test_dynamo(zxz: np.ndarray) -> None:
    """Dynamo's extrinsic z, x, z takes the tomogram to the reference, as in dynamo2m and eulerangles."""
    expected = Rotation.from_euler("zxz", zxz, degrees=True).inv().as_matrix()
    eulers = relion_from_dynamo(zxz)
    np.testing.assert_allclose(spec_matrix(eulers), expected, atol=1e-9)
    np.testing.assert_allclose(wrap_degrees(dynamo_from_relion(eulers) - zxz), 0, atol=1e-9)


def test_dynamo_by_numbers_of_eulerangles() -> None:
    """Values of eulerangles 1.0.2, convert_eulers(…, 'relion', 'dynamo')."""
    found = dynamo_from_relion(np.array([[49.30620744, 50.86374134, -165.24953138]]))
    np.testing.assert_allclose(found, [[104.75046862, 50.86374134, 139.30620744]], atol=1e-8)


def test_wrapping() -> None:
    angles = np.array([-180.0, 180.0, 540.0, -181.0, 0.0, 359.0])
    np.testing.assert_allclose(wrap_degrees(angles), [180, 180, 180, 179, 0, -1])
