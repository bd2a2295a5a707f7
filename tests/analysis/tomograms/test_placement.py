import numpy as np
import pytest
from scipy.ndimage import center_of_mass
from scipy.spatial.transform import Rotation

from opustomo.analysis.tomograms.neighbor_statistics import find_chains, nearest_neighbors, rotation_angles
from opustomo.analysis.tomograms.placed_volumes import TomogramGrid, place_volumes

OFFSET_A = np.array([24.0, -16.0, 8.0])  # x, y, z of the blob from the center of rotation


def blob_volume(size: int = 24, apix: float = 4.0) -> np.ndarray:
    z, y, x = np.meshgrid(*[(np.arange(size) - size // 2) * apix] * 3, indexing="ij")
    squared = (x - OFFSET_A[0]) ** 2 + (y - OFFSET_A[1]) ** 2 + (z - OFFSET_A[2]) ** 2
    return np.exp(-squared / (2 * 6.0**2)).astype(np.float32)


@pytest.mark.parametrize("apix", [4.0, 6.0])
def test_volumes_are_turned_and_moved_to_their_places(apix: float) -> None:
    grid = TomogramGrid((50, 60, 70), apix)
    rotation = Rotation.from_euler("ZYZ", [40, 70, -20], degrees=True).as_matrix()
    center_A = np.array([31.3, 28.6, 24.2]) * apix
    placed = place_volumes(grid, center_A[None], rotation[None], [blob_volume()], 4.0)
    found = np.array(center_of_mass(placed.voxels)) + placed.first
    np.testing.assert_allclose(found[::-1] * apix, center_A + rotation @ OFFSET_A, atol=0.5)
    assert placed.count == 1


def test_overlapping_and_outlying_volumes() -> None:
    grid = TomogramGrid((30, 30, 30), 4.0)
    centers = np.array([[60.0, 60.0, 60.0], [60.0, 60.0, 60.0], [0.0, 0.0, 0.0], [900.0, 60.0, 60.0]])
    volumes = [blob_volume(), 2 * blob_volume(), -blob_volume(), blob_volume()]
    placed = place_volumes(grid, centers, np.tile(np.eye(3), (4, 1, 1)), volumes, 4.0)
    assert placed.count == 3
    assert placed.voxels.max() == pytest.approx(2.0, rel=0.02)
    assert placed.voxels.min() == 0.0
    assert (np.array(placed.first) + placed.voxels.shape <= 30).all()


def polysome(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Seven particles along a helix with noise, and fifty single ones."""
    rng = np.random.default_rng(seed)
    turn = Rotation.from_euler("zyx", [40, 30, -20], degrees=True)
    centers, rotations = [np.array([300.0, 500.0, 400.0])], [Rotation.random(random_state=1)]
    for _ in range(6):
        centers.append(centers[-1] + rotations[-1].apply([180.0, 150.0, 40.0]) + rng.normal(scale=8, size=3))
        rotations.append(rotations[-1] * turn * Rotation.from_rotvec(rng.normal(scale=0.08, size=3)))
    centers += list(rng.uniform(0, 1800, size=(50, 3)))
    rotations += list(Rotation.random(50, random_state=2))
    return np.array(centers), np.array([rotation.as_matrix() for rotation in rotations])


def test_a_polysome_is_found_as_one_chain_in_order() -> None:
    centers, rotations = polysome()
    chains = find_chains(centers, rotations, distance_A=290.0)
    members = np.flatnonzero(chains.chain == 0)
    assert members.tolist() == list(range(7))
    position = chains.position[:7]
    assert position.tolist() in (list(range(7)), list(range(6, -1, -1)))
    assert chains.links >= 6 > chains.expected
    assert chains.p_value < 0.05
    assert np.linalg.norm(chains.offset_A) == pytest.approx(np.linalg.norm([180, 150, 40]), rel=0.05)


def test_random_orientations_give_no_significant_chain() -> None:
    centers, _ = polysome()
    rotations = Rotation.random(len(centers), random_state=5).as_matrix()
    assert find_chains(centers, rotations, distance_A=290.0).p_value > 0.05


def test_a_ring_is_cut_into_a_chain() -> None:
    turns = Rotation.from_euler("z", np.arange(0, 360, 60)[:, None], degrees=True)
    centers = turns.apply([100.0, 0.0, 0.0])
    chains = find_chains(centers, turns.as_matrix(), distance_A=110.0)
    assert chains.lengths.tolist() == [6]
    assert sorted(chains.position.tolist()) == list(range(6))


def test_nearest_neighbors() -> None:
    rotations = Rotation.from_euler("z", [[0], [30], [90]], degrees=True).as_matrix()
    found = nearest_neighbors(np.array([[0.0, 0, 0], [10, 0, 0], [10, 4, 0]]), rotations)
    assert found.nearest.tolist() == [1, 2, 1]
    np.testing.assert_allclose(found.distance_A, [10, 4, 4])
    np.testing.assert_allclose(found.angle_deg, [30, 60, 60], atol=1e-6)
    np.testing.assert_allclose(rotation_angles(rotations), [0, 30, 90], atol=1e-6)


def test_one_particle_has_no_neighbor() -> None:
    found = nearest_neighbors(np.zeros((1, 3)), np.eye(3)[None])
    assert found.nearest.tolist() == [-1]
    assert np.isnan(found.distance_A).all()
    chains = find_chains(np.zeros((1, 3)), np.eye(3)[None], 100.0)
    assert chains.links == 0
    assert chains.chain.tolist() == [-1]


def test_particles_at_the_same_place_are_neighbors() -> None:
    found = nearest_neighbors(np.zeros((2, 3)), np.tile(np.eye(3), (2, 1, 1)))
    assert found.nearest.tolist() == [1, 0]
    np.testing.assert_allclose(found.distance_A, 0.0)
