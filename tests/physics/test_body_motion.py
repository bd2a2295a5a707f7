"""The blended grid of moving bodies compared with a slow float64 evaluation at every voxel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch import Tensor

from opustomo.geometry.rigid_bodies import BodyGeometry
from opustomo.physics.body_motion import (
    Bodies,
    Motion,
    blended_grid,
    body_motion,
    effective_motion,
    nominal_motion,
    sample_on_grid,
)
from opustomo.physics.boxes import Boxes
from opustomo.physics.sampling import sample_posed
from tests.dynamics.analytic import ellipsoid, sphere
from tests.reference_bodies import Grid, sample_at, slow_grid, upsampled

BOXES = Boxes(40, 5.0, 32, 24)
GRID = Grid(40, 32, 24)
CENTERS = np.array([[-8.0, 2.0, 1.0], [9.0, -3.0, 2.0]])


def make_geometry(radii: float = 4.0) -> BodyGeometry:
    """Two bodies in a box of 40, with frames and axes that are no special case."""
    rng = np.random.default_rng(3)
    return BodyGeometry(
        CENTERS,
        CENTERS[::-1],
        CENTERS - CENTERS[::-1],
        Rotation.random(2, rng).as_matrix(),
        radii * np.array([[0.6, 1.0, 1.3], [0.8, 0.9, 1.1]]),
        Rotation.random(2, rng).as_matrix(),
        (1, 0),
    )


def rotations(count: int, degrees: float, seed: int) -> Tensor:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, 2, 3))
    vectors *= np.radians(degrees) / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return torch.from_numpy(Rotation.from_rotvec(vectors.reshape(-1, 3)).as_matrix().reshape(count, 2, 3, 3))


def test_grid_is_that_of_the_formula() -> None:
    geometry = make_geometry()
    bodies = Bodies.on_crop(geometry, BOXES)
    turns, swings = rotations(2, 14.0, 0), rotations(2, 9.0, 1)
    pose = torch.from_numpy(Rotation.random(2, np.random.default_rng(5)).as_matrix())
    motion = body_motion(turns.float(), swings.float(), bodies)
    grid = blended_grid(pose.float(), motion, bodies, BOXES.crop)
    assert grid.dtype == torch.float32
    for i in range(2):
        slow = slow_grid(pose[i].numpy(), turns[i].numpy(), swings[i].numpy(), geometry, GRID)
        np.testing.assert_allclose(grid[i].mT.numpy(), upsampled(slow, BOXES.crop), atol=2e-5)


def test_samples_are_read_where_the_formula_says() -> None:
    """V(Q_pᵀ g + t + e) for two candidates, against scipy's trilinear interpolation in float64."""
    rng = np.random.default_rng(0)
    size, template = 8, 12
    volume = torch.from_numpy(rng.normal(size=(1, template, template, template))).float()
    grid = torch.from_numpy(rng.uniform(-0.7, 0.7, (1, 3, size**3))).float()
    candidates = torch.from_numpy(Rotation.random(2, rng).as_matrix())[None].float()
    shift = torch.tensor([[[0.05, -0.1, 0.02]]])
    sampled = sample_on_grid(volume, grid, candidates, size, shift)
    assert sampled.shape == (1, 2, size, size, size)
    for p in range(2):
        q = candidates[0, p].double().numpy()
        at = (q.T @ grid[0].double().numpy()).T + shift[0, 0].double().numpy() + 1.0 / (size - 1)
        expected = sample_at(volume[0].double().numpy(), at)
        np.testing.assert_allclose(sampled[0, p].numpy().ravel(), expected, atol=1e-5)


def test_candidates_may_be_shared_and_the_box_padded() -> None:
    rng = np.random.default_rng(4)
    volumes = torch.from_numpy(rng.normal(size=(2, 10, 10, 10))).float()
    grid = torch.from_numpy(rng.uniform(-0.9, 0.9, (2, 3, 6**3))).float()
    shared = torch.from_numpy(Rotation.random(3, rng).as_matrix()).float()
    sampled = sample_on_grid(volumes, grid, shared, 6, padded=10)
    assert torch.equal(sampled[:, :, 2:8, 2:8, 2:8], sample_on_grid(volumes, grid, shared.expand(2, -1, -1, -1), 6))
    assert float(sampled.abs().sum()) == pytest.approx(float(sampled[:, :, 2:8, 2:8, 2:8].abs().sum()))


def test_without_motion_the_particle_is_rigid() -> None:
    rng = np.random.default_rng(1)
    bodies = Bodies.on_crop(make_geometry(), BOXES)
    eye = torch.eye(3).expand(2, 2, 3, 3)
    motion = body_motion(eye, eye, bodies)
    assert float(motion.shifts.abs().max()) < 1e-6
    pose = torch.from_numpy(Rotation.random(2, rng).as_matrix()).float()
    candidates = (
        torch.from_numpy(Rotation.from_rotvec(rng.normal(size=(6, 3)) * 0.03).as_matrix()).float().view(2, 3, 3, 3)
    )
    shift = torch.from_numpy(rng.uniform(-0.1, 0.1, (2, 1, 3))).float()
    volumes = torch.from_numpy(ndimage.gaussian_filter(rng.normal(size=(2, 32, 32, 32)), (0, 2, 2, 2))).float()
    moved = sample_on_grid(volumes, blended_grid(pose, motion, bodies, BOXES.crop), candidates, BOXES.crop, shift)
    plain = sample_posed(volumes, (pose[:, None] @ candidates).mT, BOXES.crop, shift)
    np.testing.assert_allclose(moved, plain, atol=1e-5 * float(plain.abs().max()) + 1e-5)


def turned_body(turn_deg: np.ndarray, shift_px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reference with two bodies far apart, and the truth with the second one turned about its center and shifted."""
    half_axes, own = np.array([2.5, 3.5, 5.5]), Rotation.from_rotvec([0.3, 0.2, -0.6]).as_matrix()
    unit = BOXES.render / BOXES.box  # crop voxels per input voxel
    fixed = sphere(BOXES.crop, CENTERS[0] * unit, 3.0)
    turn = Rotation.from_rotvec(np.radians(turn_deg)).as_matrix()
    reference = fixed + ellipsoid(BOXES.crop, CENTERS[1] * unit, half_axes * unit, own)
    truth = fixed + ellipsoid(BOXES.crop, (CENTERS[1] + shift_px) * unit, half_axes * unit, turn @ own)
    return reference, truth


@pytest.mark.parametrize("posed", [False, True])
def test_a_body_lands_where_the_motion_says(posed: bool) -> None:
    """Turn by R_b about its own center, shift of the center by -R_b s_b, the other body still; then the pose."""
    turn_deg, shift_px = np.array([10.0, -14.0, 18.0]), np.array([0.8, 1.5, -1.0])
    reference, truth = turned_body(turn_deg, shift_px)
    geometry = make_geometry(radii=2.6)
    bodies = Bodies.on_crop(geometry, BOXES)
    turn = torch.from_numpy(Rotation.from_rotvec(np.radians(turn_deg)).as_matrix()).float()
    shift = -(turn.mT @ torch.from_numpy(shift_px).float()) * BOXES.grid_per_pixel
    eye = torch.eye(3)
    motion = Motion(torch.stack([eye, turn])[None], torch.stack([torch.zeros(3), shift])[None])
    pose = (
        torch.from_numpy(Rotation.from_euler("zyz", [40, 65, -20], degrees=True).as_matrix()).float() if posed else eye
    )
    volume = torch.from_numpy(reference)[None]
    moved = sample_on_grid(volume, blended_grid(pose[None], motion, bodies, BOXES.crop), eye[None, None], BOXES.crop)
    target = sample_posed(torch.from_numpy(truth)[None], pose.mT[None, None], BOXES.crop)
    score = np.corrcoef(moved.numpy().ravel(), target.numpy().ravel())[0, 1]
    still = sample_posed(volume, pose.mT[None, None], BOXES.crop)
    assert score > 0.985
    assert score > np.corrcoef(still.numpy().ravel(), target.numpy().ravel())[0, 1] + 0.08
    # the other sense of turn or shift is worse by far
    for wrong in (Motion(motion.rotations.mT, motion.shifts), Motion(motion.rotations, -motion.shifts)):
        grid = blended_grid(pose[None], wrong, bodies, BOXES.crop)
        other = sample_on_grid(volume, grid, eye[None, None], BOXES.crop)
        assert np.corrcoef(other.numpy().ravel(), target.numpy().ravel())[0, 1] < score - 0.05


def test_the_swing_moves_the_center_about_the_parent() -> None:
    """s_b = oᵀ S o·lever - lever: the pulled-back lever is the swung one, in length the same."""
    geometry = make_geometry()
    bodies = Bodies.on_crop(geometry, BOXES)
    swings = rotations(3, 11.0, 7).float()
    motion = body_motion(torch.eye(3).expand(3, 2, 3, 3), swings, bodies)
    length = torch.linalg.vector_norm(motion.shifts + bodies.levers, dim=-1)
    np.testing.assert_allclose(length, torch.linalg.vector_norm(bodies.levers, dim=-1).expand(3, 2), rtol=1e-5)
    axis = geometry.array("orient_bodies")[1].T @ Rotation.from_matrix(swings[0, 1].double()).as_rotvec()
    lever = geometry.array("rotate_directions")[1] * BOXES.grid_per_pixel
    np.testing.assert_allclose(motion.shifts[0, 1], Rotation.from_rotvec(axis).apply(lever) - lever, atol=1e-5)


def test_gradients() -> None:
    """Through turns, swings, pose and volume; weights carry none, so they are held fixed by very wide bodies."""
    boxes = Boxes(12, 5.0, 12, 8)
    geometry = make_geometry(radii=4e3)
    f64 = {name: value.double() for name, value in vars(Bodies.on_crop(geometry, boxes)).items()}
    bodies = Bodies(**f64)
    volume = torch.from_numpy(ndimage.gaussian_filter(np.random.default_rng(2).normal(size=(1, 9, 9, 9)), (0, 1, 1, 1)))
    eye = torch.eye(3, dtype=torch.float64)

    def sampled(vectors: Tensor, shift: Tensor) -> Tensor:
        skew = torch.zeros(2, 1, 2, 3, 3, dtype=torch.float64)
        rows, columns = [2, 0, 1], [1, 2, 0]
        skew[..., rows, columns] = vectors
        skew[..., columns, rows] = -vectors
        turns = torch.linalg.matrix_exp(skew)
        motion = body_motion(turns[0], turns[1], bodies)
        grid = blended_grid(eye[None], motion, bodies, boxes.crop)
        return sample_on_grid(volume, grid, eye[None, None], boxes.crop, shift).sum((0, 1, 2, 3))

    vectors = 0.05 * torch.randn(2, 1, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shift = torch.full((1, 1, 3), 0.013, dtype=torch.float64)
    assert torch.autograd.gradcheck(sampled, (vectors.requires_grad_(), shift.requires_grad_()), eps=1e-7, atol=1e-4)


def test_weights_carry_no_gradient() -> None:
    """With R_b = 1 for both bodies, a common shift moves the grid by this shift for any weights."""
    bodies = Bodies.on_crop(make_geometry(), BOXES)
    shifts = torch.zeros(1, 2, 3, requires_grad=True)
    grid = blended_grid(torch.eye(3)[None], Motion(torch.eye(3).expand(1, 2, 3, 3), shifts), bodies, BOXES.crop)
    (gradient,) = torch.autograd.grad(grid[:, 0].sum(), shifts)
    np.testing.assert_allclose(float(gradient[..., 0].sum()), BOXES.crop**3, rtol=1e-4)
    assert float(gradient[..., 1:].abs().max()) == 0.0


def test_effective_motion_of_bodies_far_apart() -> None:
    """A distant body moves as R_b and s_b describe: p ↦ R (p - c - s) + c."""
    bodies = Bodies.on_crop(make_geometry(radii=1.2), BOXES)
    motion = body_motion(rotations(3, 14.0, 0).float(), rotations(3, 6.0, 1).float(), bodies)
    turns, shifts = effective_motion(motion, bodies)
    np.testing.assert_allclose(turns, motion.rotations, atol=2e-3)
    stated = nominal_motion(motion, bodies)
    assert torch.equal(stated[0], motion.rotations)
    np.testing.assert_allclose(shifts, stated[1], atol=2e-3)
    # a point that the formula moves, as the docstring of Motion says
    point = bodies.centers[1] + torch.tensor([0.1, -0.05, 0.02])
    there = motion.rotations[0, 1] @ (point - bodies.centers[1] - motion.shifts[0, 1]) + bodies.centers[1]
    np.testing.assert_allclose(stated[0][0, 1] @ point + stated[1][0, 1], there, atol=1e-6)


def test_effective_motion_of_bodies_that_touch() -> None:
    """One body rotates by 12°: the reported rotation superposes the points of the density."""
    bodies = Bodies.on_crop(make_geometry(radii=6.5), BOXES)
    turn = torch.from_numpy(Rotation.from_rotvec([0.0, np.radians(12.0), 0.0]).as_matrix()).float()
    motion = Motion(torch.stack([torch.eye(3), turn])[None], torch.zeros(1, 2, 3))
    turns, shifts = effective_motion(motion, bodies)
    angle = np.degrees(Rotation.from_matrix(turns[0].double().numpy()).magnitude())
    assert 7.0 < angle[1] < 11.5 and 0.1 < angle[0] < 4.0
    still = Motion(torch.eye(3).expand(1, 2, 3, 3), torch.zeros(1, 2, 3))
    turns, shifts = effective_motion(still, bodies)
    np.testing.assert_allclose(turns, still.rotations, atol=1e-5)
    np.testing.assert_allclose(shifts, 0.0, atol=1e-6)
