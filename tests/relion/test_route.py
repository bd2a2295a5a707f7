"""From tomograms to training through RELION: commands of docs/route-relion.md on a simulated tilt series."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from analysis_scripts.main import main as dsdsh
from opustomo.io.mrc import read_volume, write_volume
from opustomo.io.star_tables import read_particles
from opustomo.main import main as dsd
from opustomo.simulate.volumes import gather_volumes
from tests.commands.quick import use_tiny_networks
from tests.convert.tables import loop
from tests.relion.conftest import run
from tests.relion.programs import NEEDS_RELION, correlation, radius_px, relion, shell_correlation

pytestmark = NEEDS_RELION
SIMULATOR = Path(__file__).resolve().parents[3] / "shared" / "tools" / "simulate_tilt_series.py"
BOX, APIX, SIZE, COUNT = 32, 12.0, (160, 160, 64), 20


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Folder of a RELION project: a tomogram, text files of its tilt series, picks, and the true density."""
    if not SIMULATOR.is_file():
        pytest.skip("the shared simulator (../shared/tools/simulate_tilt_series.py) is not on this machine")
    density = gather_volumes([], ["70S_APE_mRNA"], APIX, BOX)[0][0]
    np.save(tmp_path / "density.npy", density[None])
    out, tomograms = tmp_path / "simulated", tmp_path / "tomograms"
    words = (
        f"-n {COUNT} --size {SIZE[0]} {SIZE[1]} {SIZE[2]} --apix {APIX} --gap 24 --snr 0.5 --misalign 0 --device cpu"
    )
    subprocess.run([sys.executable, SIMULATOR, tmp_path / "density.npy", "-o", out, *words.split()], check=True)
    tomograms.mkdir()
    volume, _ = read_volume(out / "tomogram.mrc")
    write_volume(tomograms / "TS_1.mrc", -volume, APIX)  # particles are dark in a tomogram
    write_volume(tmp_path / "template.mrc", density.astype(np.float32), APIX)
    tilts = np.genfromtxt(out / "tilts.csv", delimiter=",", names=True)
    # the simulator's angles have the opposite sign to those of IMOD
    rows = list(zip(-tilts["tilt_deg"], tilts["defocus_A"], tilts["dose"], strict=True))
    (tomograms / "TS_1.tlt").write_text("".join(f"{tilt:.2f}\n" for tilt, _, _ in rows))
    (tomograms / "TS_1.order").write_text("".join(f"{tilt:.2f} {dose:.2f}\n" for tilt, _, dose in rows))
    lines = (f"{i} {i} {tilt:.2f} {tilt:.2f} {defocus / 10:.1f}\n" for i, (tilt, defocus, _) in enumerate(rows, 1))
    (tomograms / "TS_1.defocus").write_text("".join(lines))
    truth = np.genfromtxt(out / "truth.csv", delimiter=",", names=True)
    rng = np.random.default_rng(0)
    picks = (
        " ".join(f"{value:.3f}" for value in [*(row[a] for a in "xyz"), *angles])
        for row, angles in zip(
            truth, np.stack([truth[a] for a in ("rot", "tilt", "psi")], 1) + rng.normal(0, 2, (COUNT, 3)), strict=True
        )
    )
    columns = "CoordinateX CoordinateY CoordinateZ AngleRot AngleTilt AnglePsi"
    (tomograms / "TS_1_picks.star").write_text(loop("", columns, *picks))
    optics = "OpticsGroup OpticsGroupName MicrographPixelSize Voltage SphericalAberration AmplitudeContrast"
    head = loop("optics", optics, f"1 opticsGroup1 {APIX} 300 2.7 0.07")
    (tmp_path / "tomograms.star").write_text(
        head + loop("micrographs", "MicrographName OpticsGroup", "tomograms/TS_1.mrc 1")
    )
    return tmp_path


def test_from_relion_to_training(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step reads the files of the step before. Measured: FSC with the truth at 35 Å 0.86 and 0.88."""
    use_tiny_networks(monkeypatch)
    monkeypatch.chdir(project)
    truth = read_volume("template.mrc")[0].astype(np.float64)
    where = radius_px(BOX) < BOX / 2 - 2
    extract = ("--extract", "--extract_size", BOX, "--norm", "--bg_radius", 13, "--invert_contrast")
    files = ("--coord_suffix", "_picks.star", "--coord_dir", "./", "--part_dir", "Extract/")
    relion(
        "preprocess", "--i", "tomograms.star", *files, "--part_star", "Extract/particles.star", *extract, cwd=project
    )
    said = run(dsd, "prepare_ctf", "Extract/particles.star", "--tilts", "tomograms", "-o", "ctf", "--hand", 1)
    assert "Next: dsd check ctf/all.star" in said
    subprocess.run(["sh", "do_all_reconstruct_ctfs.sh", str(BOX)], cwd="ctf", check=True, capture_output=True)
    Path("ctf/refined").mkdir()
    start = ("--ref", "../template.mrc", "--ini_high", 60, "--K", 1, "--iter", 2, "--tau2_fudge", 4, "--ctf")
    search = ("--healpix_order", 3, "--sigma_ang", 3, "--offset_range", 2, "--offset_step", 1, "--oversampling", 1)
    rest = ("--particle_diameter", 360, "--j", 1, "--dont_check_norm", "--perturb", 0, "--random_seed", 1)
    relion("refine", "--i", "all.star", "--o", "refined/run", *start, *search, *rest, cwd=project / "ctf")
    average = read_volume("ctf/refined/run_it002_class001.mrc")[0].astype(np.float64)
    assert correlation(average, truth, where) > 0.9
    table = "ctf/refined/run_it002_data.star"
    assert len(read_particles(table)) == COUNT
    # RELION's tomograms are weighted back-projections; the map of the average is regularized, ours is not
    run(dsd, "reconstruct", table, "-o", "ours.mrc", "--normalizectf")
    ours = shell_correlation(read_volume("ours.mrc")[0].astype(np.float64), truth)
    assert min(ours[1:12].min(), shell_correlation(average, truth)[1:12].min()) > 0.8  # to 35 Å
    run(dsdsh, "prepare", table, BOX, APIX)
    run(dsdsh, "create_mask", "ctf/refined/run_it002_class001.mrc", "-o", "mask.mrc", "--dilate", 2, "--soft-edge", 3)
    poses = "ctf/refined/run_it002_data_pose_euler.pkl"
    run(dsd, "check", table, "--poses", poses, "-r", "mask.mrc", "--no-timing")
    settings = "--templateres 32 --encoderres 8 --zdim 2 -b 4 -n 1 --num-workers 1 --device cpu -o run".split()
    run(
        dsd,
        "train_tomo",
        table,
        "--poses",
        poses,
        "-r",
        "mask.mrc",
        "--angpix",
        APIX,
        "--estpose",
        "--normalizectf",
        *settings,
    )
    assert Path("run/weights.0.pkl").is_file()
