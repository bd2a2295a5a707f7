"""Training with bodies through the command line, what it leaves behind, and how it goes on."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis_scripts.main import main as dsdsh
from opustomo.checkpoint.config import read_config
from opustomo.checkpoint.weights import read_weights
from opustomo.io.bodies import load_bodies, write_bodies
from opustomo.io.mrc import read_volume
from opustomo.io.pickles import load_torch
from opustomo.main import main
from tests.commands.conftest import SMALL
from tests.dynamics.analytic import sphere, write_definition


@pytest.fixture(scope="module")
def geometry(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mask_params.pkl of two bodies in the box of the tiny set (24³, 12 Å); poses beside it."""
    folder = tmp_path_factory.mktemp("bodies") / "my bodies"
    masks = [sphere(24, np.array([-3.0, 1.0, 0.0]), 3.5), sphere(24, np.array([4.0, -1.0, 0.0]), 3.5)]
    star = write_definition(folder, masks, 12.0, [2, 1])
    out = folder / "mask_params"
    words = ["-D", "24", "--Apix", "12", "--masks", str(star), "-o", str(folder / "poses.pkl"), "--outmasks", str(out)]
    assert main(["parse_multi_pose_star", str(tiny_set / "particles.star"), *words]) == 0
    return folder / "mask_params.pkl"


def train(tiny_set: Path, outdir: Path, *words: str) -> tuple[int, str]:
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = main(["train_tomo", str(tiny_set / "particles.star"), "-o", str(outdir), *SMALL, *words])
    return code, said.getvalue()


@pytest.fixture(scope="module")
def run(tiny_set: Path, geometry: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One epoch with bodies and the poses made with them, and a second one after a restart."""
    outdir = tmp_path_factory.mktemp("moving") / "a run"
    words = [
        "-r",
        str(tiny_set / "mask.mrc"),
        "--masks",
        str(geometry),
        "--poses",
        str(geometry.with_name("poses.pkl")),
    ]
    assert train(tiny_set, outdir, *words, "-n", "1")[0] == 0
    code, said = train(tiny_set, outdir, *words, "-n", "2", "--load", "latest")
    assert code == 0 and "goes on in epoch 2" in (outdir / "run.log").read_text(), said
    return outdir


def test_the_checkpoint_knows_the_bodies(run: Path, geometry: Path) -> None:
    bodies = load_bodies(geometry)
    sizes, boxes, _ = read_config(run / "config.pkl")
    assert sizes.bodies == bodies and sizes.estimate_pose
    for epoch in (0, 1):
        state = read_weights(run / f"weights.{epoch}.pkl")["decoder_state_dict"]
        np.testing.assert_allclose(state["com_bodies"], bodies.array("com_bodies"), rtol=1e-5)
        np.testing.assert_allclose(state["rotate_directions"] * boxes.box, bodies.array("rotate_directions"), rtol=1e-5)
        assert state["template.affine_out.2.weight"].shape[0] == 18
    assert load_torch(run / "z.1.pkl")["multi_mu"].shape == (16, 3)


def test_training_moves_the_bodies_rows(run: Path) -> None:
    first, second = (
        read_weights(run / f"weights.{epoch}.pkl")["decoder_state_dict"]["template.affine_out.2.weight"]
        for epoch in (0, 1)
    )
    assert bool(((first - second).abs().amax(1) > 0).all())
    assert bool(torch.isfinite(second).all())


def test_dpc_needs_no_masks(run: Path, tmp_path: Path) -> None:
    (run / "analyze.1/kmeans2").mkdir(parents=True)
    (run / "defanalyze.1/pc1").mkdir(parents=True)
    np.savetxt(run / "analyze.1/kmeans2/centers.txt", np.zeros((2, 2)))
    np.savetxt(run / "defanalyze.1/pc1/z_pc.txt", np.linspace([-400.0, 0, 0], [400.0, 0, 0], 3))
    assert dsdsh(["eval_vol", str(run), "1", "dpc", "1", "12", "--kmeans", "2"]) == 0
    volumes = [read_volume(run / f"defanalyze.1/pc1/reference{i}.mrc")[0] for i in range(3)]
    assert np.abs(volumes[2] - volumes[0]).max() > 1e-3 * np.abs(volumes[0]).max()


def test_mistakes(tiny_set: Path, geometry: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pkl"
    bodies = load_bodies(geometry)
    write_bodies(other, bodies, 48, 12.0)
    for words, message in (
        (["--masks", str(other)], "made for a box of 48 voxels but the subtomograms have 24"),
        (["--masks", str(tmp_path / "none.pkl")], "no such file"),
        (["--masks", str(geometry), "--zaffinedim", "0"], "zaffinedim must be at least 1"),
        (["--masks", str(geometry.with_name("mask0.mrc"))], "mask0.mrc"),
    ):
        code, said = train(tiny_set, tmp_path / "out", *words)
        assert code == 1 and message in said and said.count("\n") == 1, said
    assert not (tmp_path / "out").exists()
