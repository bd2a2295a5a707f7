"""Pose and latent files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from opustomo.errors import UserError
from opustomo.io.latents import read_coordinates, read_latents, write_coordinates, write_latents
from opustomo.io.pickles import dump_pickle, dump_torch, load_pickle
from opustomo.io.poses import Poses, read_poses, write_poses

RNG = np.random.default_rng(0)
EULERS = RNG.uniform(-180, 180, (7, 3))
ORIGINS = RNG.uniform(-0.1, 0.1, (7, 3))


def test_pose_file_is_the_originals(tmp_path: Path) -> None:
    path = tmp_path / "pose euler.pkl"
    write_poses(path, Poses(EULERS, ORIGINS))
    rot, trans, euler = load_pickle(path)
    assert (rot.dtype, trans.dtype, euler.dtype) == (np.float32, np.float64, np.float64)
    expected = Rotation.from_euler("ZYZ", EULERS, degrees=True).as_matrix().transpose(0, 2, 1)
    np.testing.assert_allclose(rot, expected, atol=1e-6)
    np.testing.assert_array_equal(trans, ORIGINS)
    np.testing.assert_array_equal(euler, EULERS)
    found = read_poses(path)
    np.testing.assert_array_equal(found.eulers_deg, EULERS)
    np.testing.assert_array_equal(found.rotations, rot)


def test_stale_matrices_are_not_trusted(tmp_path: Path) -> None:
    stale = np.tile(np.eye(3, dtype=np.float32), (7, 1, 1))
    dump_pickle(tmp_path / "p.pkl", (stale, ORIGINS, EULERS))
    found = read_poses(tmp_path / "p.pkl")
    np.testing.assert_allclose(found.rotations, Poses(EULERS, ORIGINS).rotations)
    assert np.abs(found.rotations - stale).max() > 0.5


def test_multi_body_poses_and_single_precision(tmp_path: Path) -> None:
    rotations = Poses(EULERS, ORIGINS).rotations
    content = (rotations, ORIGINS.astype(np.float32), torch.tensor(EULERS), np.zeros((7, 2, 3)), np.zeros(2))
    dump_pickle(tmp_path / "p.pkl", content)
    found = read_poses(tmp_path / "p.pkl")
    assert found.eulers_deg.dtype == found.origins.dtype == np.float64
    np.testing.assert_array_equal(found.eulers_deg, EULERS)


def test_subsets_of_poses() -> None:
    poses = Poses(EULERS, ORIGINS)
    np.testing.assert_array_equal(poses.subset([3, 1]).origins, ORIGINS[[3, 1]])
    assert len(poses.subset(np.arange(7) > 4)) == 2
    assert len(poses.subset([])) == 0
    with pytest.raises(ValueError, match=r"\(N, 3\)"):
        Poses(EULERS[0], ORIGINS[0])
    with pytest.raises(ValueError, match="7 orientations but 2"):
        Poses(EULERS, ORIGINS[:2])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"rot": 1}, "not a tuple"),
        ((1, 2), "not a tuple"),
        ((EULERS, ORIGINS[:, :2], EULERS), "'trans' has the shape"),
        ((EULERS, ORIGINS[:5], EULERS), "7 orientations but 5"),
        ((EULERS, ORIGINS, EULERS * [1, np.nan, 1]), "particle 0 .* is not finite"),
        ((EULERS, ORIGINS, "abc"), "not numeric"),
    ],
)
def test_wrong_pose_files(tmp_path: Path, content: object, reason: str) -> None:
    dump_pickle(tmp_path / "p.pkl", content)
    with pytest.raises(UserError, match=reason):
        read_poses(tmp_path / "p.pkl")


@pytest.mark.parametrize("dynamics", [None, RNG.standard_normal((7, 4))])
def test_latents_round_trip(tmp_path: Path, dynamics: np.ndarray | None) -> None:
    path = tmp_path / "z.3.pkl"
    mu = RNG.standard_normal((7, 12))
    write_latents(path, mu, dynamics)
    content = torch.load(path, weights_only=True)
    assert content["nn"] is None
    assert ("multi_mu" in content) == (dynamics is not None)
    found, multi = read_latents(path)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, mu.astype(np.float32))
    if dynamics is None:
        assert multi is None
    else:
        assert multi is not None
        np.testing.assert_array_equal(multi, dynamics.astype(np.float32))


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16])
def test_latents_of_any_type(tmp_path: Path, kind: torch.dtype) -> None:
    mu = torch.nn.Parameter(torch.tensor([[0.5, -2.0], [1.0, 4.0]], dtype=kind))
    dump_torch(tmp_path / "z.pkl", {"mu": mu, "nn": None})
    np.testing.assert_array_equal(read_latents(tmp_path / "z.pkl")[0], [[0.5, -2.0], [1.0, 4.0]])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([1, 2], "no latents"),
        ({"nn": None}, "no latents"),
        ({"mu": torch.ones(3)}, "shape"),
        ({"mu": torch.tensor([[1.0], [float("nan")]])}, "particle 1"),
        ({"mu": torch.ones(3, 2), "multi_mu": torch.ones(2, 2)}, "3 rows, but 'multi_mu' has 2"),
        ({"mu": "x"}, "not a table"),
    ],
)
def test_wrong_latent_files(tmp_path: Path, content: object, reason: str) -> None:
    dump_torch(tmp_path / "z.pkl", content)
    with pytest.raises(UserError, match=reason):
        read_latents(tmp_path / "z.pkl")


def test_latents_must_be_tables(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two axes"):
        write_latents(tmp_path / "z.pkl", np.zeros(3))


def test_coordinates_round_trip_and_are_removed_with_none(tmp_path: Path) -> None:
    path = tmp_path / "coordinates.3.npy"
    assert read_coordinates(path, 7) is None
    values = RNG.standard_normal((7, 4)).astype(np.float32)
    values[2] = np.nan
    write_coordinates(path, values)
    np.testing.assert_array_equal(read_coordinates(path, 7), values)
    with pytest.raises(UserError, match="has 7 rows, but the run has 8 particles"):
        read_coordinates(path, 8)
    write_coordinates(path, None)
    assert not path.exists()


@pytest.mark.parametrize("content", [b"", b"no array", np.lib.format.magic(1, 0) + b"\x10\x00{'descr': '<f4'"])
def test_damaged_coordinates(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "coordinates.0.npy").write_bytes(content)
    with pytest.raises(UserError, match="Remove the file to cluster latents instead"):
        read_coordinates(tmp_path / "coordinates.0.npy", 7)


def test_coordinates_are_no_pickles_and_a_table(tmp_path: Path) -> None:
    path = tmp_path / "coordinates.0.npy"
    for values in (np.array([object()]), np.zeros(7), np.zeros((7, 2), dtype=int)):
        np.save(path, values)
        with pytest.raises(UserError, match="cannot be read"):
            read_coordinates(path, 7)
