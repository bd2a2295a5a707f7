"""`relion_convert_star`, commands of opustomo, and `relion_refine` on their output."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from analysis_scripts.main import main as dsdsh
from opustomo.geometry.rotations import euler_to_matrix
from opustomo.io.mrc import read_volume, write_volume
from opustomo.io.star_tables import ParticleStar, read_particles
from opustomo.main import main as dsd
from tests.relion.conftest import APIX, BOX, run
from tests.relion.programs import NEEDS_RELION, correlation, radius_px, relion

pytestmark = NEEDS_RELION


def refine(table: Path, truth: np.ndarray) -> tuple[np.ndarray, ParticleStar]:
    """Two iterations of a local search on a grid of 3.75° with CTF correction: the last map and the first table.

    The reference is the truth, low-pass filtered at 40 Å. RELION pads maps twice by default; with --pad 1 the
    correlation with the truth falls to 0.75.
    """
    folder = table.parent / "refined"
    folder.mkdir()
    write_volume(table.with_name("start.mrc"), truth.astype(np.float32), APIX)
    start = ("--ref", "start.mrc", "--ini_high", 40, "--K", 1, "--iter", 2, "--tau2_fudge", 4, "--ctf")
    search = ("--healpix_order", 3, "--sigma_ang", 3, "--offset_range", 2, "--offset_step", 1, "--oversampling", 1)
    rest = ("--particle_diameter", 360, "--j", 1, "--dont_check_norm", "--perturb", 0, "--random_seed", 1)
    relion("refine", "--i", table.name, "--o", "refined/run", *start, *search, *rest, cwd=table.parent)
    volume, apix = read_volume(folder / "run_it002_class001.mrc")
    assert apix == pytest.approx(APIX)
    assert len(read_particles(folder / "run_it002_data.star")) == len(read_particles(table))
    return volume.astype(np.float64), read_particles(folder / "run_it001_data.star")


def errors_deg(found: ParticleStar, truth: ParticleStar) -> np.ndarray:
    """Angles between the orientations of two tables, (N,) in degrees."""
    one, other = (euler_to_matrix(torch.from_numpy(star.eulers_deg())).numpy() for star in (found, truth))
    trace = np.einsum("nij,nij->n", one, other)
    return np.asarray(np.rad2deg(np.arccos(np.clip((trace - 1) / 2, -1, 1))))


def test_from_relion30_through_our_commands_to_refinement(simulated: Path) -> None:
    """RELION 3.0 table, RELION's converter, `parse_pose_star`, RELION's CTF volumes, `relion_refine`, `prepare`.

    Measured: correlation with the truth 0.944, orientations 2.7° from it on average, on a grid of 3.75°.
    """
    folder = simulated / "relion31"
    truth = np.load(folder / "volumes.npy")[0].astype(np.float64)
    run(dsdsh, "convert_star", folder / "particles.star", APIX, "-o", folder / "old.star")
    relion("convert_star", "--i", "old.star", "--o", "converted.star", cwd=folder)
    assert read_particles(folder / "converted.star").optics_block is not None
    words = ("-D", BOX, "--Apix", APIX, "--perturb-rot", 3, "--perturb-trans", 0.5)
    run(dsd, "parse_pose_star", folder / "converted.star", *words, "--out-star", folder / "moved.star")
    for name in read_particles(folder / "moved.star").strings("rlnCtfImage"):
        table = Path(name).with_suffix(".star")
        relion("reconstruct", "--i", table, "--o", name, "--reconstruct_ctf", BOX, "--angpix", APIX, cwd=folder)
    found, table = refine(folder / "moved.star", truth)
    assert correlation(found, truth, radius_px(BOX) < BOX / 2 - 2) > 0.9
    assert np.median(errors_deg(table, read_particles(folder / "particles.star"))) < 4.5
    # and back: we read what RELION refined
    after = folder / "refined" / "run_it002_data.star"
    run(dsdsh, "prepare", after, BOX, APIX)
    assert after.with_name("run_it002_data_pose_euler.pkl").is_file()


def test_exported_set_refines(simulated: Path, tmp_path: Path) -> None:
    """The folder of `export_relion` needs nothing else: float32 copies, CTF volumes of ours, optics table.

    Measured: correlation with the truth 0.960.
    """
    source = simulated / "float16"
    truth = np.load(source / "volumes.npy")[0].astype(np.float64)
    run(dsdsh, "export_relion", source / "particles.star", "-o", tmp_path / "out", "--normalizectf")
    found, table = refine(tmp_path / "out" / "particles.star", truth)
    assert correlation(found, truth, radius_px(BOX) < BOX / 2 - 2) > 0.9
    assert np.median(errors_deg(table, read_particles(source / "particles.star"))) < 4.5
