"""Exported body poses place a rigid body where the blended grid of the decoder places its density."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from opustomo.geometry.rigid_bodies import BodyGeometry, RigidMotions
from opustomo.geometry.rotations import euler_to_matrix, matrix_to_euler
from opustomo.io.body_files import BodyPoses, absolute_poses, body_origins_px, residual_angles, write_body_stars
from opustomo.io.poses import Poses
from opustomo.io.star import read_blocks
from opustomo.io.star_tables import read_particles
from opustomo.physics.body_motion import Bodies, Motion, blended_grid, effective_motion, sample_on_grid
from opustomo.physics.boxes import Boxes
from opustomo.physics.sampling import sample_posed
from tests.dynamics.analytic import ellipsoid, sphere

BOXES = Boxes(40, 5.0, 40, 32)
CENTERS = np.array([[-8.0, 2.0, 1.0], [7.0, -3.0, 2.0]])
HALF_AXES, OWN = np.array([3.0, 4.0, 6.0]), Rotation.from_rotvec([0.3, 0.2, -0.6])


@pytest.fixture(scope="module")
def geometry() -> BodyGeometry:
    frames = Rotation.random(2, np.random.default_rng(0)).as_matrix()
    radii = np.stack([np.full(3, 4.0), HALF_AXES]) / np.sqrt(5)
    axes = np.stack([np.eye(3), OWN.as_matrix().T])
    return BodyGeometry(CENTERS, CENTERS[::-1], CENTERS - CENTERS[::-1], frames, radii, axes, (1, 0))


@pytest.fixture(scope="module")
def moved(geometry: BodyGeometry) -> tuple[torch.Tensor, Poses, RigidMotions]:
    """Two particles as the decoder makes them, their poses, and the motions as reported."""
    bodies = Bodies.on_crop(geometry, BOXES)
    turns = Rotation.from_rotvec(np.radians([[3.0, -4.0, 2.0], [12.0, 5.0, -14.0], [0.0, 5.0, 3.0], [-9.0, 14.0, 6.0]]))
    shifts = np.array([[[0.3, 0.0, -0.4], [1.2, -0.8, 0.9]], [[-0.5, 0.2, 0.0], [-0.9, 1.0, 0.6]]])
    motion = Motion(
        torch.from_numpy(turns.as_matrix().reshape(2, 2, 3, 3)).float(),
        torch.from_numpy(shifts * BOXES.grid_per_pixel).float(),
    )
    eulers = np.array([[30.0, 50.0, -70.0], [-110.0, 120.0, 15.0]])
    pose = euler_to_matrix(torch.from_numpy(eulers)).float()
    reference = sphere(BOXES.crop, CENTERS[0], 4.0) + ellipsoid(BOXES.crop, CENTERS[1], HALF_AXES, OWN.as_matrix())
    volumes = torch.from_numpy(np.stack([reference] * 2))
    eye = torch.eye(3).expand(2, 1, 3, 3)
    made = sample_on_grid(volumes, blended_grid(pose, motion, bodies, BOXES.crop), eye, BOXES.crop)[:, 0]
    turn, shift = effective_motion(motion, bodies)
    found = RigidMotions(turn.double().numpy(), shift.double().numpy() / BOXES.grid_per_pixel)
    return made, Poses(eulers, np.zeros((2, 3))), found


def agreement(made: torch.Tensor, rotation: np.ndarray, place: np.ndarray, body: int, geometry: BodyGeometry) -> float:
    """Correlation within the body of ``made`` with the body alone, turned by ``rotation``, its center at ``place``."""
    density = sphere(BOXES.crop, np.zeros(3), 4.0) if body == 0 else ellipsoid(
        BOXES.crop, np.zeros(3), HALF_AXES, OWN.as_matrix()
    )  # fmt: skip
    matrix = torch.from_numpy(rotation).float()
    shift = torch.from_numpy(-(rotation.T @ place) * BOXES.grid_per_pixel).float()
    alone = sample_posed(torch.from_numpy(density)[None], matrix.mT[None, None], BOXES.crop, shift[None, None])[0, 0]
    near = torch.nn.functional.max_pool3d(alone[None], 5, stride=1, padding=2)[0] > 0.1
    return float(np.corrcoef(made[near].numpy(), alone[near].numpy())[0, 1])


def test_relions_angles_and_origins_place_the_body(
    geometry: BodyGeometry, moved: tuple[torch.Tensor, Poses, RigidMotions]
) -> None:
    """RELION's own formula: A_body = A orientᵀ A_rot90 A(residual) orient; center at A com minus the body's origin."""
    made, poses, motions = moved
    angles, origins = residual_angles(motions, geometry), body_origins_px(poses, motions, geometry)
    rot90 = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])  # RELION's rotation by -90° about Y
    for i in range(2):
        pose = euler_to_matrix(torch.from_numpy(poses.eulers_deg[i])).numpy()
        for body in range(2):
            orient = geometry.array("orient_bodies")[body]
            residual = euler_to_matrix(torch.from_numpy(angles[i, body])).numpy()
            rotation = pose @ orient.T @ rot90 @ residual @ orient
            place = pose @ CENTERS[body] - origins[i, body]
            score = agreement(made[i], rotation, place, body, geometry)
            assert score > 0.985
            if body == 1:  # without the body's own turn and shift it does not fit, nor with the shift reversed
                assert agreement(made[i], pose, pose @ CENTERS[1], 1, geometry) < score - 0.05
                reverse = pose @ CENTERS[1] + origins[i, 1]
                assert agreement(made[i], rotation, reverse, 1, geometry) < score - 0.05


def test_no_motion_is_0_90_0(geometry: BodyGeometry) -> None:
    still = RigidMotions(np.broadcast_to(np.eye(3), (3, 2, 3, 3)), np.zeros((3, 2, 3)))
    np.testing.assert_allclose(
        residual_angles(still, geometry), np.broadcast_to([0.0, 90.0, 0.0], (3, 2, 3)), atol=1e-6
    )


def test_absolute_poses_place_the_body(geometry: BodyGeometry, moved: tuple[torch.Tensor, Poses, RigidMotions]) -> None:
    """The consensus map at these poses: x = A_b p - o_b."""
    made, poses, motions = moved
    shifted = Poses(poses.eulers_deg, np.array([[0.01, -0.02, 0.03], [0.0, 0.02, 0.0]]))
    for body in range(2):
        absolute = absolute_poses(shifted, motions, body, BOXES.box)
        for i in range(2):
            rotation = absolute.rotations[i].astype(np.float64)
            origin = (absolute.origins[i] - shifted.origins[i]) * BOXES.box  # the data are centered by the particle's
            place = rotation @ CENTERS[body] - origin
            assert agreement(made[i], rotation, place, body, geometry) > 0.985


@pytest.mark.parametrize("relion31", [False, True])
def test_files(
    relion31: bool, geometry: BodyGeometry, moved: tuple[torch.Tensor, Poses, RigidMotions], tmp_path: Path
) -> None:
    _, poses, motions = moved
    table = tmp_path / "my set.star"
    origin = [f"rlnOrigin{axis}{'Angst' if relion31 else ''}" for axis in "XYZ"]
    columns = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", *origin, "rlnImageName", "myOwn"]
    head = "".join(f"_{name} #{i}\n" for i, name in enumerate(columns, 1))
    rows = "1 2 3 0 0 0 a.mrc 007\n4 5 6 0 0 0 b.mrc 1e-3\n"
    optics = "\ndata_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnImagePixelSize #2\n1 5.0\n" if relion31 else ""
    table.write_text(f"{optics}\ndata_particles\n\nloop_\n{head}{rows}")
    out = tmp_path / "a run" / "bodies.7.star"
    written = write_body_stars(out, read_particles(table), BodyPoses(poses, motions, geometry), 40, 5.0)
    assert [path.name for path in written] == ["bodies.7.star", "body1.7.star", "body2.7.star"]
    blocks = dict(read_blocks(out))
    assert list(blocks) == [*(["optics"] if relion31 else []), "particles", "images_body_1", "images_body_2"]
    back = read_particles(out)
    np.testing.assert_allclose(back.eulers_deg(), poses.eulers_deg, atol=1e-5)
    assert back.strings("myOwn") == ["007", "1e-3"]
    scale = 5.0 if relion31 else 1.0
    for body in range(2):
        block = blocks[f"images_body_{body + 1}"].astype(float)
        assert list(block.columns) == columns[:6]
        np.testing.assert_allclose(block.to_numpy()[:, :3], residual_angles(motions, geometry)[:, body], atol=1e-5)
        expected = body_origins_px(poses, motions, geometry)[:, body] * scale
        np.testing.assert_allclose(block.to_numpy()[:, 3:], expected, atol=1e-5)
        absolute = absolute_poses(poses, motions, body, 40)
        alone = read_particles(written[body + 1])
        rotations = euler_to_matrix(torch.from_numpy(alone.eulers_deg())).numpy()
        np.testing.assert_allclose(rotations, absolute.rotations, atol=1e-5)
        np.testing.assert_allclose(alone.origins_px(5.0), absolute.origins * 40, atol=1e-5)


def test_matrices_round_trip() -> None:
    matrices = torch.from_numpy(Rotation.random(20, np.random.default_rng(1)).as_matrix())
    np.testing.assert_allclose(euler_to_matrix(matrix_to_euler(matrices)), matrices, atol=1e-9)
