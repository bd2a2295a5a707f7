"""Command lines that combine RELION and opustomo."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from analysis_scripts.main import main as dsdsh
from opustomo.io.mrc import read_volume
from opustomo.io.star_tables import read_particles
from opustomo.main import main as dsd
from tests.commands.test_prepare_ctf import write_tomogram
from tests.relion.conftest import APIX, BOX, run
from tests.relion.programs import NEEDS_RELION, relion_map

pytestmark = NEEDS_RELION


def shell(line: str, folder: Path) -> str:
    """Run a line of a job script with sh."""
    done = subprocess.run(["sh", "-c", line], cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("form", ["relion30", "relion31"])
def test_map_of_a_class(form: str, simulated: Path, fabricated_run: Path, tmp_path: Path) -> None:
    """`relion_reconstruct --i pre1.star --3d_rot` where the table lies beside the data, then by its path in the run."""
    data = tmp_path / "data"
    shutil.copytree(simulated / form, data)
    run(dsdsh, "parse_pose", data / "particles.star", BOX, APIX, fabricated_run, 0, 2, "--relion31")
    written = fabricated_run / "analyze.0" / "kmeans2" / "pre1.star"
    shutil.copy(written, data / "pre1.star")
    said = shell("relion_reconstruct --i pre1.star --3d_rot", data)
    assert "relion.mrc" in said
    volume, apix = read_volume(data / "relion.mrc")
    assert volume.shape == (BOX,) * 3 and apix == pytest.approx(APIX)
    assert np.array_equal(volume, relion_map(data / "pre1.star"))
    shell(f"relion_reconstruct --i {shlex.quote(str(written))} --3d_rot --o again.mrc", data)
    assert np.array_equal(volume, read_volume(data / "again.mrc")[0])


def test_ctf_volumes_by_script(tmp_path: Path) -> None:
    """`sh do_all_reconstruct_ctfs.sh 128` in the folder that prepare_ctf wrote, whose name holds a space."""
    coords = write_tomogram(tmp_path / "my tomograms")
    coords.write_text(coords.read_text().splitlines()[0])
    out = tmp_path / "ctf out"
    words = ("--apix", 5, "--tomo-size", 400, 300, 120, "--workers", 1)
    run(dsd, "prepare_ctf", coords, "-o", out, *words)
    shell("sh do_all_reconstruct_ctfs.sh 128", out)
    for name in read_particles(out / "all.star").strings("rlnCtfImage"):
        volume, apix = read_volume(out / name)
        assert volume.shape == (128,) * 3 and apix == pytest.approx(5.0)


def test_script_stops_where_relion_fails(tmp_path: Path) -> None:
    """A job script sees the failure."""
    coords = write_tomogram(tmp_path / "in")
    words = ("--apix", 5, "--tomo-size", 400, 300, 120, "--workers", 1)
    run(dsd, "prepare_ctf", coords, "-o", tmp_path / "ctf", *words)
    (tmp_path / "ctf" / "TS_1" / "TS_1_000002_ctf.star").unlink()
    done = subprocess.run(
        ["sh", "ctf/do_all_reconstruct_ctfs.sh", "16"], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode != 0
    assert [path.name for path in (tmp_path / "ctf" / "TS_1").glob("*.mrc")] == ["TS_1_000001_ctf.mrc"]
