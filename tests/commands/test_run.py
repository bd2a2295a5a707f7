"""`opustomo.Run` on a short training, and the example notebook that uses it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import mrcfile
import numpy as np
import pytest

import opustomo
from analysis_scripts.main import main as dsdsh
from opustomo.analysis.figures import latent_figures
from opustomo.analysis.volumes.decoding import EvalRequest, evaluate_volumes
from opustomo.errors import UserError
from opustomo.io.latents import read_latents
from opustomo.io.mrc import read_volume
from opustomo.io.poses import read_poses
from opustomo.io.star_tables import read_particles

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "explore.ipynb"


@pytest.fixture
def run(trained_run: Path) -> opustomo.Run:
    return opustomo.Run(trained_run, device="cpu")


def test_latents_poses_particles_and_epochs(run: opustomo.Run, trained_run: Path, tiny_set: Path) -> None:
    mu, multi_mu = read_latents(trained_run / "z.1.pkl")
    assert run.epochs == [0, 1] and "my run" in repr(run)
    np.testing.assert_array_equal(run.latents(), mu)
    np.testing.assert_array_equal(run.latents(0), read_latents(trained_run / "z.0.pkl")[0])
    np.testing.assert_array_equal(run.conformations(), multi_mu)
    np.testing.assert_array_equal(run.poses().eulers_deg, read_poses(trained_run / "pose.1.pkl").eulers_deg)
    assert run.particles.path == tiny_set / "particles.star"
    assert (run.boxes.box, run.boxes.apix) == (24, 12.0) and run.settings["model_args"]["zdim"] == 2
    assert list(run.losses()["training"].epochs) == [0, 1]
    table = run.table()
    assert table["rlnAngleRot"].dtype == np.float64 and len(table) == 16
    np.testing.assert_array_equal(table[["z1", "z2"]], mu)
    with pytest.raises(UserError, match="available epochs are 0-1"):
        run.latents(7)


def test_decoding_is_that_of_the_command(run: opustomo.Run, trained_run: Path, tmp_path: Path) -> None:
    z = run.latents()[:11]
    volumes = run.decode(z, apix=10.0, full_box=True)
    request = EvalRequest(
        trained_run / "weights.1.pkl", trained_run / "config.pkl", tmp_path, z, 10.0, full_box=True, device="cpu"
    )
    for path, volume in zip(evaluate_volumes(request), volumes.voxels, strict=True):
        np.testing.assert_array_equal(read_volume(path)[0], volume)
    written = volumes.write(tmp_path / "other place")
    with mrcfile.open(written[3]) as one, mrcfile.open(tmp_path / "reference3.mrc") as other:
        assert one.header.origin == other.header.origin and float(one.voxel_size.x) == pytest.approx(10.0)
    assert run.decode(z[0]).apix == run.boxes.render_apix and len(run.decode(z[0])) == 1
    with pytest.raises(UserError, match="zdim 2"):
        run.decode(np.zeros((1, 4)))


def test_clusters_of_an_analysis_and_made_now(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latent_figures, "write_figure", lambda path, figure, dpi: path.touch())
    names = ("z.1.pkl", "pose.1.pkl", "config.pkl")
    for name in names:
        (tmp_path / "run").mkdir(exist_ok=True)
        shutil.copy(trained_run / name, tmp_path / "run" / name)
    run = opustomo.Run(tmp_path / "run")
    with pytest.raises(UserError, match="Run dsdsh analyze"):
        run.clusters(3)
    assert dsdsh(["analyze", str(tmp_path / "run"), "1", "1", "3", "--skip-umap"]) == 0
    found, made = run.clusters(3), run.cluster(3)
    np.testing.assert_array_equal(found.labels, made.labels)
    np.testing.assert_array_equal(found.center_indices, made.center_indices)
    np.testing.assert_array_equal(found.centers, made.centers)
    assert dsdsh(["analyze", str(tmp_path / "run"), "1", "1", "2", "--skip-umap", "--kpc", "3:0-1"]) == 0
    later = run.clusters(2, "filter.1")
    assert len(later.labels) == 16 and later.sizes.sum() == found.sizes[:2].sum()
    assert run.analyzed("filter.1").members.tolist() == np.flatnonzero(found.labels < 2).tolist()


def test_a_particle_table_that_moved(trained_run: Path, tiny_set: Path, tmp_path: Path) -> None:
    star = tmp_path / "other.star"
    read_particles(tiny_set / "particles.star").subset(np.arange(15)).write(star)
    with pytest.raises(UserError, match="has 15 particles"):
        _ = opustomo.Run(trained_run, star=star).particles
    with pytest.raises(UserError, match=r"none\.star: the STAR file does not exist"):
        _ = opustomo.Run(trained_run, star=tmp_path / "none.star").particles


def test_the_package_stays_light() -> None:
    check = "import sys, opustomo; print(sorted({'torch', 'numpy', 'pandas', 'sklearn'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="Banana"):
        _ = opustomo.Banana
