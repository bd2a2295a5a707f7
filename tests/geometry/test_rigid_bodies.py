"""Screw axes recovered from motions about known axes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from opustomo.geometry.rigid_bodies import RigidMotions, screw_of


def about_line(axis: np.ndarray, point: np.ndarray, angle_deg: float, shift: float) -> RigidMotions:
    turn = Rotation.from_rotvec(np.radians(angle_deg) * axis).as_matrix()
    return RigidMotions(turn, point - turn @ point + shift * axis)


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 175.0), st.floats(-20.0, 20.0))
def test_screws_come_back(seed: int, angle_deg: float, shift: float) -> None:
    rng = np.random.default_rng(seed)
    axis = rng.normal(size=3)
    axis /= np.linalg.norm(axis)
    point, center = rng.normal(scale=10, size=(2, 3))
    found = screw_of(about_line(axis, point, angle_deg, shift), center)
    np.testing.assert_allclose(found.axis, axis, atol=1e-6)
    assert found.angle_deg == pytest.approx(angle_deg, rel=1e-6)
    assert found.shift == pytest.approx(shift, abs=1e-6)
    # the point lies on the line, and nothing on the line is nearer to the center
    np.testing.assert_allclose(np.cross(found.point - point, axis), 0.0, atol=1e-5)
    assert abs((found.point - center) @ axis) < 1e-6


def test_a_mere_shift() -> None:
    found = screw_of(RigidMotions(np.eye(3), np.array([0.0, 3.0, 4.0])), np.ones(3))
    assert found.angle_deg == 0.0 and found.shift == pytest.approx(5.0)
    np.testing.assert_allclose(found.axis, [0.0, 0.6, 0.8])


def test_composition_and_inverse() -> None:
    rng = np.random.default_rng(0)
    motions = [RigidMotions(Rotation.random(5, rng).as_matrix(), rng.normal(size=(5, 3))) for _ in range(2)]
    points = rng.normal(size=(5, 3))
    np.testing.assert_allclose(motions[0].after(motions[1]).apply(points), motions[0].apply(motions[1].apply(points)))
    np.testing.assert_allclose(motions[0].inverse().apply(motions[0].apply(points)), points)
    np.testing.assert_allclose(motions[0][2].turns, motions[0].turns[2])
