"""Euler angles, matrices, Hopf coordinates and quaternions compared with SciPy and each other, including poles."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation, Slerp

from opustomo.geometry.rotations import (
    euler_to_hopf,
    euler_to_matrix,
    matrix_to_euler,
    matrix_to_quaternion,
    quaternion_multiply,
    quaternion_power,
    quaternion_to_matrix,
    small_turn_to_matrix,
    wrap_degrees,
)

ANGLE = st.floats(-720, 720)
TURN = st.floats(-180, 180)
OFF_POLE = st.floats(0.01, 179.99)
NEAR_POLE = st.sampled_from([0.0, 1e-12, 1e-9, 1e-6, 1e-4, 180.0, 180.0 - 1e-9, 180.0 - 1e-6, 180.0 - 1e-4, -0.0])
UNIT_QUATERNION = st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def relion_matrix(rot: float, tilt: float, psi: float) -> np.ndarray:
    """A by scipy: RELION's A is the inverse of the intrinsic z-y-z rotation."""
    return Rotation.from_euler("ZYZ", [rot, tilt, psi], degrees=True).as_matrix().T


def assert_same_angles(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    assert float(wrap_degrees(found - expected).abs().max()) < tolerance


@given(ANGLE, ANGLE, ANGLE)
def test_euler_matrix_is_relions(rot: float, tilt: float, psi: float) -> None:
    matrix = euler_to_matrix(tensor(rot, tilt, psi)).numpy()
    np.testing.assert_allclose(matrix, relion_matrix(rot, tilt, psi), atol=1e-12)


def test_euler_matrix_by_the_written_formula() -> None:
    rot, tilt, psi = np.deg2rad([20.0, 50.0, -110.0])

    def rz(a: float) -> np.ndarray:
        return np.array([[np.cos(a), np.sin(a), 0], [-np.sin(a), np.cos(a), 0], [0, 0, 1]])

    ry = np.array([[np.cos(tilt), 0, -np.sin(tilt)], [0, 1, 0], [np.sin(tilt), 0, np.cos(tilt)]])
    np.testing.assert_allclose(euler_to_matrix(tensor(20, 50, -110)).numpy(), rz(psi) @ ry @ rz(rot), atol=1e-15)


@given(TURN, OFF_POLE, TURN)
def test_euler_round_trip(rot: float, tilt: float, psi: float) -> None:
    eulers = tensor(rot, tilt, psi)
    assert_same_angles(matrix_to_euler(euler_to_matrix(eulers)), eulers)


@given(ANGLE, st.one_of(ANGLE, NEAR_POLE), ANGLE)
def test_euler_angles_give_the_matrix_back(rot: float, tilt: float, psi: float) -> None:
    matrix = euler_to_matrix(tensor(rot, tilt, psi))
    found = matrix_to_euler(matrix)
    assert 0 <= found[1] <= 180
    torch.testing.assert_close(euler_to_matrix(found), matrix, atol=1e-12, rtol=0)


@given(ANGLE, st.one_of(ANGLE, NEAR_POLE), ANGLE)
def test_euler_angles_give_float32_matrices_back(rot: float, tilt: float, psi: float) -> None:
    matrix = euler_to_matrix(tensor(rot, tilt, psi)).float()
    found = matrix_to_euler(matrix)
    assert found.dtype == torch.float32
    torch.testing.assert_close(euler_to_matrix(found), matrix, atol=2e-6, rtol=0)


@pytest.mark.parametrize(("tilt", "expected"), [(0.0, 50.0), (180.0, 10.0)])
def test_at_the_poles_rot_is_zero(tilt: float, expected: float) -> None:
    """There only psi + rot (0 degrees) or psi - rot (180 degrees) is defined."""
    found = matrix_to_euler(euler_to_matrix(tensor(20, tilt, 30)))
    assert_same_angles(found, tensor(0, tilt, expected), 1e-9)


def hopf_to_matrix(hopf_deg: torch.Tensor) -> torch.Tensor:
    """Convert Hopf angles (..., 3) in degrees to RELION matrices A, (..., 3, 3), by the half angles of a quaternion."""
    phi, theta, psi = torch.deg2rad(hopf_deg).unbind(-1)
    cos_half, sin_half = torch.cos(theta / 2), torch.sin(theta / 2)
    quaternion = torch.stack(
        (
            cos_half * torch.cos(psi / 2),
            sin_half * torch.sin(phi - psi / 2),
            sin_half * torch.cos(phi - psi / 2),
            cos_half * torch.sin(psi / 2),
        ),
        dim=-1,
    )
    return quaternion_to_matrix(quaternion)


@given(ANGLE, st.one_of(ANGLE, NEAR_POLE), ANGLE)
def test_hopf_gives_the_same_matrix(rot: float, tilt: float, psi: float) -> None:
    eulers = tensor(rot, tilt, psi)
    hopf = euler_to_hopf(eulers)
    assert 0 <= hopf[1] <= 180
    expected = relion_matrix(rot, tilt, psi)
    np.testing.assert_allclose(hopf_to_matrix(hopf).numpy(), expected, atol=1e-11)


def test_hopf_angles_of_an_example() -> None:
    assert_same_angles(euler_to_hopf(tensor(30, 60, 100)), tensor(150, 60, -130), 1e-12)


@given(UNIT_QUATERNION)
def test_quaternion_matrix_is_scipys(quaternion: tuple[float, ...]) -> None:
    expected = Rotation.from_quat(quaternion, scalar_first=True).as_matrix()
    np.testing.assert_allclose(quaternion_to_matrix(tensor(*quaternion)).numpy(), expected, atol=1e-12)


@given(UNIT_QUATERNION)
def test_quaternion_round_trip(quaternion: tuple[float, ...]) -> None:
    unit = tensor(*quaternion) / torch.linalg.vector_norm(tensor(*quaternion))
    found = matrix_to_quaternion(quaternion_to_matrix(unit))
    assert found[0] >= 0
    # q and -q are one rotation
    assert float(torch.minimum((found - unit).norm(), (found + unit).norm())) < 1e-7


@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, -1, 1), (1, 2, 3)])
def test_quaternion_of_half_turns(axis: tuple[int, int, int]) -> None:
    """Where w is 0 the usual formula divides by 0."""
    unit = np.array(axis) / np.linalg.norm(axis)
    matrix = Rotation.from_rotvec(np.pi * unit).as_matrix()
    found = matrix_to_quaternion(torch.from_numpy(matrix))
    torch.testing.assert_close(quaternion_to_matrix(found), torch.from_numpy(matrix), atol=1e-12, rtol=0)


@given(UNIT_QUATERNION, UNIT_QUATERNION)
def test_quaternion_product_is_the_matrix_product(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    product = quaternion_to_matrix(quaternion_multiply(tensor(*a), tensor(*b)))
    expected = quaternion_to_matrix(tensor(*a)) @ quaternion_to_matrix(tensor(*b))
    torch.testing.assert_close(product, expected, atol=1e-12, rtol=0)


@given(UNIT_QUATERNION, UNIT_QUATERNION, st.floats(0, 1))
def test_power_goes_a_share_of_the_shorter_way(a: tuple[float, ...], b: tuple[float, ...], share: float) -> None:
    start, turn = (Rotation.from_quat(np.array(q) / np.linalg.norm(q), scalar_first=True) for q in (a, b))
    if abs(turn.as_quat(scalar_first=True)[0]) < 1e-6:  # a half turn has two shortest ways
        return
    expected = Slerp([0, 1], Rotation.concatenate([start, start * turn]))(share).as_matrix()
    first = matrix_to_quaternion(torch.from_numpy(start.as_matrix()))
    part = quaternion_power(matrix_to_quaternion(torch.from_numpy(turn.as_matrix())), share)
    found = quaternion_to_matrix(quaternion_multiply(first, part))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-7)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_power_of_tiny_turns_keeps_the_share(kind: torch.dtype) -> None:
    turn = Rotation.from_rotvec([[0, 0, 1e-6], [0, 0, 0]]).as_quat(scalar_first=True)
    found = quaternion_power(torch.from_numpy(turn).to(kind), torch.tensor([[0.25], [0.25]], dtype=kind))
    angles = Rotation.from_quat(found.numpy(), scalar_first=True).magnitude()
    assert angles.tolist() == pytest.approx([0.25e-6, 0.0], rel=1e-5)


def test_batches_and_types_are_kept() -> None:
    eulers = torch.rand(2, 5, 3) * 90
    assert euler_to_matrix(eulers).shape == (2, 5, 3, 3)
    assert matrix_to_euler(euler_to_matrix(eulers)).dtype == torch.float32
    quaternions = matrix_to_quaternion(euler_to_matrix(eulers.double()))
    assert quaternions.shape == (2, 5, 4)
    assert quaternions.dtype == torch.float64
    shares = torch.rand(2, 5, 1, dtype=torch.float64)
    assert quaternion_multiply(quaternions, quaternion_power(quaternions, shares)).shape == (2, 5, 4)


def test_quaternion_gradients() -> None:
    quaternions = torch.tensor([[0.5, 0.1, -0.3, 0.8], [1.0, 0.1, 0.0, 0.0]], dtype=torch.float64)
    quaternions.requires_grad_()
    assert torch.autograd.gradcheck(quaternion_to_matrix, (quaternions,))
    assert torch.autograd.gradcheck(lambda q: matrix_to_quaternion(quaternion_to_matrix(q)), (quaternions,))


@given(st.tuples(*[st.floats(-0.03, 0.03)] * 3))
def test_small_turns_are_rotation_vectors(vector: tuple[float, float, float]) -> None:
    """1.7° per axis and less; what is left is of third order."""
    found = small_turn_to_matrix(tensor(*vector)).numpy()
    left = Rotation.from_matrix(Rotation.from_rotvec(vector).as_matrix().T @ found).magnitude()
    assert left <= np.linalg.norm(vector) ** 3 / 12 + 1e-7
