"""`dsdsh prepare_multi` and `dsd parse_multi_pose_star` through the command line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from analysis_scripts.main import main as dsdsh
from opustomo.io.body_files import load_bodies
from opustomo.io.pickles import load_pickle
from opustomo.io.poses import read_poses
from opustomo.main import main as dsd
from tests.dynamics.analytic import sphere, write_definition


@pytest.fixture
def inputs(tmp_path: Path) -> tuple[Path, Path]:
    """Particle table and definition of two bodies, in a folder with a space in its name."""
    folder = tmp_path / "a set"
    masks = [sphere(24, np.array([-5.0, 0.0, 0.0]), 4.0), sphere(24, np.array([5.0, 0.0, 0.0]), 4.0)]
    bodies = write_definition(folder, masks, 6.0, [2, 1])
    star = folder / "particles.star"
    columns = "rlnAngleRot rlnAngleTilt rlnAnglePsi rlnOriginX rlnOriginY rlnOriginZ rlnCoordinateX".split()
    head = "".join(f"_{name} #{i}\n" for i, name in enumerate(columns, 1))
    star.write_text(f"\ndata_\n\nloop_\n{head}10 20 30 1 2 -4 5\n40 50 60 0 0 0.5 6\n")
    return star, bodies


def test_prepare_multi_writes_both_files(
    inputs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    star, bodies = inputs
    monkeypatch.chdir(tmp_path)
    assert dsdsh(["prepare_multi", str(star), "48", "3.0", str(bodies), "2", "--relion31"]) == 0
    poses = star.with_name("particles_pose_euler.pkl")
    rot, trans, euler, body_eulers, body_trans = load_pickle(poses)
    assert rot.shape == (2, 3, 3) and rot.dtype == np.float32
    np.testing.assert_allclose(trans, [[1 / 48, 2 / 48, -4 / 48], [0, 0, 0.5 / 48]])
    np.testing.assert_allclose(euler, [[10, 20, 30], [40, 50, 60]])
    assert body_eulers.shape == body_trans.shape == (2, 2, 3)
    assert (body_eulers == [0.0, 90.0, 0.0]).all() and not body_trans.any()
    assert len(read_poses(poses)) == 2
    geometry = load_bodies(tmp_path / "mask_params.pkl", 48, 3.0)
    np.testing.assert_allclose(geometry.com_bodies, [[-10, 0, 0], [10, 0, 0]], atol=0.05)


def test_the_long_form_says_the_same(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    star, bodies = inputs
    out, name = tmp_path / "poses.pkl", tmp_path / "my geometry"
    words = ["-D", "48", "--Apix", "3", "--masks", str(bodies), "-o", str(out), "--outmasks", str(name)]
    assert dsd(["parse_multi_pose_star", str(star), *words]) == 0
    assert len(load_pickle(out)) == 5
    assert load_bodies(tmp_path / "my geometry.pkl").parents == (1, 0)


def test_nothing_is_written_after_a_mistake(
    inputs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    star, bodies = inputs
    monkeypatch.chdir(tmp_path)
    before = {path for path in tmp_path.rglob("*") if os.path.isfile(path)}
    for words, message in (
        (["48", "3.0", str(bodies), "3"], "defines 2 bodies, but 3"),
        (["48", "0", str(bodies), "2"], "apix must be positive, got 0"),
        (["0", "3", str(bodies), "2"], "D must be at least 2, got 0"),
        (["8", "3", str(bodies), "2"], "outside the box"),
        (["48", "3", str(bodies), "2", "--volumes", str(tmp_path)], "reference0.mrc does not exist"),
    ):
        assert dsdsh(["prepare_multi", str(star), *words]) == 1
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1
    assert {path for path in tmp_path.rglob("*") if os.path.isfile(path)} == before
