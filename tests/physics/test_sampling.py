"""Posed sampling: center at voxel D/2, and direction and order of rotations as in RELION."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from opustomo.geometry.rotations import euler_to_matrix
from opustomo.model.observation import swing_and_twist
from opustomo.physics.sampling import resample_cube, rotate_about_z, sample_posed

DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
SIZE = 12
QUARTER_TURNS = [m.round() for m in Rotation.create_group("O").as_matrix()]


def random_volume(size: int = SIZE, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Return random voxels with zeros on the outermost layers, so that rotations lose nothing."""
    volume = torch.rand(size, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    volume[:2] = volume[-2:] = 0
    volume[:, :2] = volume[:, -2:] = 0
    volume[:, :, :2] = volume[:, :, -2:] = 0
    return volume.to(dtype)


def smooth_volume(size: int, seed: int = 0) -> torch.Tensor:
    """Broad random blobs within a third of the box: linear interpolation follows them to a few per cent."""
    rng = np.random.default_rng(seed)
    axis = np.arange(size) - size // 2
    along = np.exp(-0.5 * ((axis - rng.uniform(-0.15, 0.15, (8, 3, 1)) * size) / (size / 10)) ** 2)
    return torch.from_numpy(np.einsum("nz,ny,nx->zyx", *along.transpose(1, 0, 2)))


def pulled_back(volume: torch.Tensor, matrix: np.ndarray, shift_voxels: np.ndarray, size: int) -> np.ndarray:
    """V(M (x - c) + c + t) by scipy, about voxel D/2; x, y, z."""
    axis = np.arange(size) - size // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    at = np.einsum("ij,jzyx->izyx", matrix, np.stack([x, y, z])) + shift_voxels[:, None, None, None] + size // 2
    return map_coordinates(volume.numpy(), at[::-1], order=1, mode="constant")


@DEVICES
@pytest.mark.parametrize("matrix", QUARTER_TURNS, ids=lambda m: "".join(f"{int(v)}" for v in m.ravel()))
def test_quarter_turns_permute_voxels(matrix: np.ndarray, device: str) -> None:
    """About voxel D/2: y(x) = V(M x), found voxel by voxel."""
    volume = random_volume()
    half = SIZE // 2
    turned = sample_posed(volume[None].to(device), torch.from_numpy(matrix).to(device)[None, None], SIZE)[0, 0].cpu()
    expected = torch.zeros_like(volume)
    inside = range(-half + 1, half)
    for z in inside:
        for y in inside:
            for x in inside:
                sx, sy, sz = (int(v) for v in matrix @ np.array([x, y, z]))
                expected[z + half, y + half, x + half] = volume[sz + half, sy + half, sx + half]
    assert torch.allclose(turned, expected, atol=1e-12)


def test_identity() -> None:
    volume = random_volume()
    same = sample_posed(volume[None], torch.eye(3, dtype=torch.float64)[None, None], SIZE)
    assert same.shape == (1, 1, SIZE, SIZE, SIZE)
    assert torch.allclose(same[0, 0], volume, atol=1e-12)


def test_posed_by_relion_angles_moves_density_forwards() -> None:
    """A maps the reference to the subtomogram: density at (3, 0, 0) moves to A·(3, 0, 0)."""
    volume = torch.zeros(SIZE, SIZE, SIZE, dtype=torch.float64)
    half = SIZE // 2
    volume[half, half, half + 3] = 1.0
    a = euler_to_matrix(torch.tensor([0.0, 90.0, 90.0], dtype=torch.float64))
    x, y, z = (round(float(v)) for v in a @ torch.tensor([3.0, 0.0, 0.0], dtype=torch.float64))
    assert (x, y, z) == (0, 0, 3)
    posed = sample_posed(volume[None], a.mT[None, None], SIZE)[0, 0]
    assert float(posed[half + z, half + y, half + x]) == pytest.approx(1.0)


@given(st.integers(0, 10**6))
def test_any_rotation_and_shift_as_scipy_samples(seed: int) -> None:
    """Grid units to voxels: (D - 1)/2. The shift moves the place that is sampled, in the volume's frame."""
    rng = np.random.default_rng(seed)
    matrix, shift = Rotation.random(random_state=seed).as_matrix(), rng.uniform(-2, 2, 3)
    volume = random_volume(seed=seed)
    ours = sample_posed(
        volume[None],
        torch.from_numpy(matrix)[None, None],
        SIZE,
        torch.from_numpy(shift * 2 / (SIZE - 1))[None, None],
    )[0, 0]
    assert np.abs(ours.numpy() - pulled_back(volume, matrix, shift, SIZE)).max() < 1e-9


def test_poses_and_volumes_do_not_mix() -> None:
    """(B, P): each volume with its own poses; a shift may be shared."""
    volumes = torch.stack([random_volume(seed=s) for s in range(3)])
    matrices = torch.from_numpy(Rotation.random(6, random_state=1).as_matrix()).view(3, 2, 3, 3)
    shift = torch.tensor([0.1, -0.2, 0.05], dtype=torch.float64).expand(3, 1, 3) * torch.arange(3)[:, None, None]
    together = sample_posed(volumes, matrices, 10, shift)
    for b in range(3):
        for p in range(2):
            alone = sample_posed(volumes[b : b + 1], matrices[b : b + 1, p : p + 1], 10, shift[b : b + 1])
            assert torch.allclose(together[b, p], alone[0, 0], atol=1e-12)


def test_template_of_another_size_spans_the_same_cube() -> None:
    """T points between the same ends: a linear ramp stays the ramp."""
    ramp = torch.linspace(-1, 1, 9, dtype=torch.float64)[None, None, :].expand(9, 9, 9)
    out = sample_posed(ramp[None], torch.eye(3, dtype=torch.float64)[None, None], 14)[0, 0]
    assert torch.allclose(out, torch.linspace(-1, 1, 14, dtype=torch.float64)[None, None, :].expand(14, 14, 14))


def test_turning_twice_is_turning_by_the_product() -> None:
    volume = smooth_volume(32)
    first, second = torch.from_numpy(Rotation.random(2, random_state=4).as_matrix())
    once = sample_posed(volume[None], (first @ second)[None, None], 32)[0, 0]
    twice = sample_posed(sample_posed(volume[None], first[None, None], 32)[0], second[None, None], 32)[0, 0]
    assert float((once - twice).abs().max()) < 0.05 * float(volume.max())


@DEVICES
@pytest.mark.parametrize("quarter", [0, 1, 2, 3])
def test_turn_about_z_by_quarters(quarter: int, device: str) -> None:
    """y(M x) in every plane, as the same turn in three dimensions."""
    volume = random_volume().to(device)
    c, s = [(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)][quarter]
    matrix = torch.tensor([[c, -s], [s, c]], dtype=torch.float64, device=device)
    full = torch.eye(3, dtype=torch.float64, device=device)
    full[:2, :2] = matrix
    expected = sample_posed(volume[None], full[None, None], SIZE)[0, 0]
    assert torch.allclose(rotate_about_z(volume[None], matrix[None])[0], expected, atol=1e-9)


def _quaternion(w: float, x: float, y: float, z: float) -> Rotation | None:
    norm = np.sqrt(w * w + x * x + y * y + z * z)
    return None if norm < 1e-3 else Rotation.from_quat([x / norm, y / norm, z / norm, w / norm])


component = st.floats(-1, 1, width=32)
rotations = st.one_of(
    st.builds(_quaternion, component, component, component, component).filter(lambda r: r is not None),
    st.floats(-180, 180).map(lambda psi: Rotation.from_euler("z", psi, degrees=True)),
    st.floats(-180, 180).map(lambda psi: Rotation.from_euler("ZX", [psi, 180], degrees=True)),
)


@given(rotations)
def test_swing_and_twist_give_the_rotation_back(rotation: Rotation) -> None:
    """A = (turn about z) · (turn about an axis in the x, y plane), poles included."""
    matrix = torch.from_numpy(rotation.as_matrix())[None]
    out_of_plane, about_z = swing_and_twist(matrix)
    twist = torch.eye(3, dtype=torch.float64)[None].clone()
    twist[:, :2, :2] = about_z
    assert torch.allclose(twist @ out_of_plane, matrix, atol=1e-6)
    assert torch.allclose(out_of_plane @ out_of_plane.mT, torch.eye(3, dtype=torch.float64), atol=1e-6)
    # no turn about z is left in it: the axis lies in the plane
    vector = Rotation.from_matrix(out_of_plane[0].numpy()).as_rotvec()
    assert abs(vector[2]) < 1e-3
    assert float(torch.linalg.det(about_z[0])) == pytest.approx(1.0)


@given(st.integers(0, 10**6))
def test_two_turns_equal_the_one_rotation(seed: int) -> None:
    """rotate_about_z, then out of plane: y(A x), the subtomogram in the reference frame."""
    matrix = torch.from_numpy(Rotation.random(random_state=seed).as_matrix())[None]
    volume = smooth_volume(24, seed)[None]
    out_of_plane, about_z = swing_and_twist(matrix)
    in_two = sample_posed(rotate_about_z(volume, about_z), out_of_plane[:, None], 24)[0, 0]
    directly = sample_posed(volume, matrix[:, None], 24)[0, 0]
    assert float((in_two - directly).abs().max()) < 0.04 * float(volume.max())


def test_two_turns_undo_a_pose() -> None:
    """A density posed by A returns to the reference frame up to the error of three interpolations."""
    matrix = torch.from_numpy(Rotation.random(4, random_state=8).as_matrix())
    volume = smooth_volume(32).expand(4, -1, -1, -1)
    posed = sample_posed(volume, matrix.mT[:, None], 32)[:, 0]
    out_of_plane, about_z = swing_and_twist(matrix)
    back = sample_posed(rotate_about_z(posed, about_z), out_of_plane[:, None], 32)[:, 0]
    for one in back:
        assert np.corrcoef(one.flatten(), volume[0].flatten())[0, 1] > 0.998


@pytest.mark.parametrize(("n", "spacing", "size"), [(16, 1.0, 10), (16, 2.0, 8), (12, 0.5, 24), (20, 1.25, 14)])
def test_resampled_cube_keeps_center_and_scale(n: int, spacing: float, size: int) -> None:
    axis = torch.arange(n, dtype=torch.float64) - n // 2
    ramp = (axis[:, None, None] * 100 + axis[:, None] * 10 + axis).expand(n, n, n)
    out = resample_cube(ramp[None], spacing, size)[0]
    at = (torch.arange(size, dtype=torch.float64) - size // 2) * spacing
    expected = at[:, None, None] * 100 + at[:, None] * 10 + at
    covered = (at >= -(n // 2)) & (at <= n - 1 - n // 2)
    assert int(covered.sum()) > size // 2
    assert torch.allclose(
        out[covered][:, covered][:, :, covered], expected[covered][:, covered][:, :, covered], atol=1e-3
    )
    beyond = (at < -(n // 2) - 1) | (at > n - n // 2)
    assert float(out[beyond].abs().sum()) == 0.0
