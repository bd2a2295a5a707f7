"""Geometry of bodies against closed formulas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from opustomo.dynamics.body_masks import center_of_mass, frame_along, geometry_of_masks, principal_extent, read_bodies
from opustomo.errors import UserError
from opustomo.geometry.rigid_bodies import TENSOR_NAMES
from opustomo.io.body_files import load_bodies, write_bodies
from tests.dynamics.analytic import ellipsoid, sphere, write_definition

HALF_AXES = np.array([5.0, 8.0, 11.0])


@given(st.integers(0, 2**32 - 1))
def test_align_is_a_rotation_that_ends_in_the_lever(seed: int) -> None:
    direction = np.random.default_rng(seed).normal(size=3)
    direction /= np.linalg.norm(direction)
    frame = frame_along(direction)
    np.testing.assert_allclose(frame @ frame.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(frame) == pytest.approx(1.0)
    np.testing.assert_allclose(frame[2], direction)
    assert frame[1, 0] == 0.0
    np.testing.assert_allclose(frame[1] @ [direction[0], direction[1], direction[2]], 0.0, atol=1e-12)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_align_along_x(sign: float) -> None:
    assert frame_along([sign, 0.0, 0.0]).tolist() == [[0.0, 0.0, -sign], [0.0, 1.0, 0.0], [sign, 0.0, 0.0]]


def test_moments_of_a_turned_ellipsoid() -> None:
    """A solid ellipsoid of half-axes a has the radii a/√5 along its axes."""
    turn = Rotation.from_rotvec([0.4, -0.9, 0.3]).as_matrix()
    center = np.array([3.25, -4.5, 1.75])
    density = ellipsoid(48, center, HALF_AXES, turn)
    found = center_of_mass(density)
    np.testing.assert_allclose(found, center, atol=0.02)
    radii, axes = principal_extent(density, found)
    np.testing.assert_allclose(radii, HALF_AXES / np.sqrt(5), rtol=0.02)
    assert np.abs(np.diag(axes @ turn)).min() > 0.999
    negative = density.copy()
    negative[density == 0] = -0.3
    np.testing.assert_allclose(center_of_mass(negative), found)


@pytest.fixture
def definition(tmp_path: Path) -> Path:
    """Two bodies on masks of 4 Å; the second relative to the first and the first to the second."""
    masks = [sphere(40, np.array([-8.0, 2.0, 0.0]), 6.0), ellipsoid(40, np.array([7.0, 2.0, 0.0]), HALF_AXES * 0.6)]
    return write_definition(tmp_path / "my bodies", masks, 4.0, [2, 1])


def test_lengths_follow_the_pixel_sizes(definition: Path) -> None:
    """Masks of 40 voxels of 4 Å for subtomograms of 64 voxels of 2.5 Å."""
    geometry = geometry_of_masks(read_bodies(definition, 2), 64, 2.5)
    np.testing.assert_allclose(geometry.com_bodies[0], np.array([-8.0, 2.0, 0.0]) * 1.6, atol=0.05)
    np.testing.assert_allclose(geometry.com_bodies[1], np.array([7.0, 2.0, 0.0]) * 1.6, atol=0.05)
    np.testing.assert_allclose(geometry.radii_bodies[1], HALF_AXES * 0.6 * 1.6 / np.sqrt(5), rtol=0.04)
    np.testing.assert_allclose(geometry.radii_bodies[0], 6.0 * 1.6 / np.sqrt(5), rtol=0.03)
    np.testing.assert_allclose(geometry.in_relatives, np.array(geometry.com_bodies)[[1, 0]])
    np.testing.assert_allclose(geometry.rotate_directions[1], [24.0, 0.0, 0.0], atol=0.05)
    np.testing.assert_allclose(geometry.rotate_directions[0], [-24.0, 0.0, 0.0], atol=0.05)
    # the origin body's frame looks the other way: both frames are one
    np.testing.assert_allclose(geometry.orient_bodies[0], geometry.orient_bodies[1], atol=1e-12)
    np.testing.assert_allclose(geometry.orient_bodies[1][2], [1.0, 0.0, 0.0], atol=1e-3)
    assert geometry.parents == (1, 0)


def test_box_ratio_without_pixel_size(definition: Path) -> None:
    import mrcfile

    for name in ("mask0.mrc", "mask1.mrc"):
        with mrcfile.open(definition.parent / name, "r+") as handle:
            handle.voxel_size = 0.0
    geometry = geometry_of_masks(read_bodies(definition), 80, 2.5)
    np.testing.assert_allclose(geometry.com_bodies[0], [-16.0, 4.0, 0.0], atol=0.05)


def test_absolute_mask_names(definition: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere.star"
    folder = str(definition.parent)
    folder_without_space = tmp_path / "masks"
    folder_without_space.symlink_to(folder)
    text = definition.read_text()
    moved.write_text(
        text.replace("mask0.mrc", f"{folder_without_space}/mask0.mrc").replace(
            "mask1.mrc", f"{folder_without_space}/mask1.mrc"
        )
    )
    assert read_bodies(moved).names[1] == folder_without_space / "mask1.mrc"


def test_file_round_trip(definition: Path, tmp_path: Path) -> None:
    geometry = geometry_of_masks(read_bodies(definition), 64, 2.5)
    path = tmp_path / "mask params.pkl"
    write_bodies(path, geometry, 64, 2.5)
    content = torch.load(path, weights_only=True)
    shapes = {name: tuple(content[name].shape) for name in TENSOR_NAMES}
    assert shapes == {
        "com_bodies": (2, 3), "in_relatives": (2, 3), "rotate_directions": (2, 3), "orient_bodies": (2, 3, 3),
        "radii_bodies": (2, 3), "principal_axes": (2, 3, 3),
    }  # fmt: skip
    assert all(content[name].dtype == torch.float32 for name in TENSOR_NAMES)
    back = load_bodies(path, 64, 2.5)
    for name in TENSOR_NAMES:
        np.testing.assert_allclose(back.array(name), geometry.array(name), atol=1e-5)
    assert back.parents == geometry.parents
    with pytest.raises(UserError, match="box of 64 voxels, but the subtomograms have 48"):
        load_bodies(path, 48)
    with pytest.raises(UserError, match=r"2\.5 Å per pixel, but the subtomograms have 5"):
        load_bodies(path, 64, 5.0)


def test_reads_a_geometry_without_our_additions(definition: Path, tmp_path: Path) -> None:
    geometry = geometry_of_masks(read_bodies(definition), 64, 2.5)
    path = tmp_path / "theirs.pkl"
    torch.save({name: geometry.tensor(name) for name in TENSOR_NAMES}, path)
    assert load_bodies(path, 64, 2.5).parents == (1, 0)
    with pytest.raises(UserError, match="outside the box"):
        load_bodies(path, 16)
    torch.save({"com_bodies": geometry.tensor("com_bodies")}, path)
    with pytest.raises(UserError, match="not a geometry of bodies"):
        load_bodies(path)


A = sphere(24, np.array([-5.0, 0.0, 0.0]), 4.0)
B = sphere(24, np.array([5.0, 0.0, 0.0]), 4.0)


@pytest.mark.parametrize(
    ("masks", "apix", "parents", "message"),
    [
        ([A, B], [4.0, 5.0], [2, 1], r"mask1\.mrc is 5 Å, but that of mask0\.mrc is 4 Å"),
        ([A, sphere(32, np.array([5.0, 0.0, 0.0]), 4.0)], 4.0, [2, 1], "32 voxels per side, but mask0.mrc has 24"),
        ([A, sphere(24, np.array([-3.0, 0.0, 0.0]), 4.0)], 4.0, [2, 1], r"mask1\.mrc overlaps with mask0\.mrc by"),
        ([A, np.zeros_like(B)], 4.0, [2, 1], r"mask1\.mrc has no voxel"),
        ([A, -B], 4.0, [2, 1], r"mask1\.mrc has no voxel"),
        ([A, B], 4.0, [1, 1], "body 1 is relative to itself"),
        ([A, B], 4.0, [2, 3], "body 2 is relative to body 3, which does not exist"),
        ([A, B], 4.0, [0, 1], "body 1 is relative to body 0, which does not exist"),
        ([A, B[:20]], 4.0, [2, 1], "24×24×20 voxels, but it must be an even cube"),
        ([A, B[:23, :23, :23]], 4.0, [2, 1], "23×23×23 voxels, but it must be an even cube"),
        ([A], 4.0, [1], "at least 2 are required"),
    ],
)
def test_invalid_definitions_are_refused(
    masks: list[np.ndarray], apix: float | list[float], parents: list[int], message: str, tmp_path: Path
) -> None:
    star = write_definition(tmp_path, masks, apix, parents)
    with pytest.raises(UserError, match=message) as error:
        read_bodies(star)
    assert "\n" not in str(error.value)


def test_the_number_of_bodies_must_agree(definition: Path) -> None:
    with pytest.raises(UserError, match="defines 2 bodies, but 3 were requested"):
        read_bodies(definition, 3)


def test_a_missing_mask_is_named(definition: Path) -> None:
    (definition.parent / "mask1.mrc").unlink()
    with pytest.raises(UserError, match=r"mask1\.mrc: the MRC file does not exist"):
        read_bodies(definition)
