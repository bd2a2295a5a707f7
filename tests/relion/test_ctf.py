"""The 3D CTF against `relion_reconstruct --reconstruct_ctf`."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from opustomo.io.ctf_tables import TiltTable, read_relion_table
from opustomo.io.mrc import read_volume
from opustomo.io.star_tables import read_particles
from opustomo.io.tilt_series.series import TiltOptics
from opustomo.main import main
from opustomo.physics.ctf import TiltBatch, ctf_volume, sampling_weights
from opustomo.physics.fourier import centered_full
from opustomo.prepare.ctf_preparation import write_ctf_table
from tests.commands.quick import train, use_tiny_networks
from tests.commands.test_prepare_ctf import write_tomogram
from tests.relion.programs import NEEDS_RELION, radius_px, relion

pytestmark = NEEDS_RELION

BOX, APIX = 48, 8.0
FULL, ONE_SIDED, ASYMMETRIC = np.arange(-60.0, 61, 3), np.arange(-60.0, 1, 3), np.arange(-39.0, 61, 3)


def tilt_table(tilts: np.ndarray, astigmatism_A: float = 0.0, azimuth: float = 0.0, b_sign: float = 1.0) -> TiltTable:
    """A dose-symmetric series at 3 µm whose defocus changes by 20 Å per degree."""
    ones = np.ones(len(tilts))
    dose = 3.0 * (1 + np.argsort(np.argsort(np.abs(tilts), kind="stable")))
    defocus = 30000.0 + 20.0 * tilts
    return TiltTable(
        tilt_deg=tilts,
        defocus_u_A=defocus + astigmatism_A,
        defocus_v_A=defocus - astigmatism_A,
        astigmatism_deg=azimuth * ones,
        voltage_kv=300 * ones,
        cs_mm=2.7 * ones,
        amplitude_contrast=0.07 * ones,
        phase_shift_deg=0 * ones,
        bfactor_A2=b_sign * 4 * dose,
        scale=np.cos(np.deg2rad(tilts)),
    )


def relion_ctf(table: TiltTable, folder: Path, box: int = BOX, apix: float = APIX) -> np.ndarray:
    """The CTF volume that RELION makes of a table, (D, D, D) with the zero frequency at D/2."""
    optics = TiltOptics(
        voltage_kv=float(table.voltage_kv[0]),
        cs_mm=float(table.cs_mm[0]),
        amplitude_contrast=float(table.amplitude_contrast[0]),
        defocus_u_A=table.defocus_u_A,
        defocus_v_A=table.defocus_v_A,
        astigmatism_deg=table.astigmatism_deg,
        phase_shift_deg=table.phase_shift_deg,
        bfactor_A2=table.bfactor_A2,
        scale=table.scale,
    )
    write_ctf_table(folder / "t.star", optics, table.tilt_deg, np.zeros(len(table)))
    relion("reconstruct", "--i", "t.star", "--o", "t.mrc", "--reconstruct_ctf", box, "--angpix", apix, cwd=folder)
    return read_volume(folder / "t.mrc")[0].astype(np.float64)


def our_ctf(table: TiltTable, normalized: bool = True, box: int = BOX, apix: float = APIX) -> np.ndarray:
    tilts = TiltBatch.pad([table], torch.float64)
    return centered_full(ctf_volume(tilts, box, apix, normalized=normalized))[0].numpy()


def slice_counts(table: TiltTable, box: int = BOX) -> np.ndarray:
    """How many slices reach a voxel, laid out as `our_ctf`."""
    weights = sampling_weights(TiltBatch.pad([table], torch.float64), box)
    return centered_full(weights.expand(1, box, box, box // 2 + 1).contiguous())[0].numpy()


def agreement(one: np.ndarray, other: np.ndarray, where: np.ndarray) -> float:
    """Return the correlation about zero, as CTFs enter products."""
    a, b = one[where], other[where]
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def inner(box: int) -> np.ndarray:
    """Voxels that can be compared: RELION sets the zero frequency to 0 and leaves out the corners beyond Nyquist."""
    radius = radius_px(box)
    return (radius > 2) & (radius < box / 2 - 1)


CASES = {
    "symmetric": tilt_table(FULL),
    "one-sided": tilt_table(ONE_SIDED),
    "asymmetric": tilt_table(ASYMMETRIC),
    "asymmetric, other sign": tilt_table(-ASYMMETRIC),
    "astigmatic": tilt_table(ASYMMETRIC, 3000.0, 35.0),
    "amplifying B": tilt_table(ASYMMETRIC, 3000.0, 35.0, b_sign=-1.0),
    "phase plate": replace(tilt_table(FULL), phase_shift_deg=np.full(len(FULL), 60.0)),
}


@pytest.mark.parametrize("case", CASES)
def test_normalized_form_is_relions(case: str, tmp_path: Path) -> None:
    """Where slices overlap (Σ W ≥ 1) both are the same weighted mean; docs/relion.md explains the rest.

    Measured in these cases: 0.9999 where slices overlap, 0.995 to 0.9995 with one division, 0.986 to 0.997 as it is.
    """
    table = CASES[case]
    theirs, ours, count = relion_ctf(table, tmp_path), our_ctf(table), slice_counts(table)
    where = inner(BOX)
    assert agreement(theirs, ours, where & (count >= 1)) > 0.9997
    # RELION divides by Σ W also at the rim of single slices, where ours tapers
    divided = np.where(count > 1e-5, ours * np.maximum(count, 1) / np.maximum(count, 1e-9), 0.0)
    assert agreement(theirs, divided, where) > 0.993
    assert agreement(theirs, ours, where) > 0.98
    # what RELION sees and ours does not, lies at the rim of the wedge
    seen, ours_sees = np.abs(theirs) > 1e-7, count > 1e-5
    assert (seen & ~ours_sees & where).sum() < 0.01 * where.sum()
    assert (ours_sees & ~seen & where).sum() < 0.01 * where.sum()
    both = where & (count >= 1)
    assert np.sum(theirs[both] * ours[both]) / np.sum(ours[both] ** 2) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("case", ["one-sided", "asymmetric", "astigmatic"])
def test_mirrored_tilts_do_not_fit(case: str, tmp_path: Path) -> None:
    """The comparison tells the sign of the tilt and of the azimuth."""
    table = CASES[case]
    theirs, where = relion_ctf(table, tmp_path), inner(BOX)
    right = agreement(theirs, our_ctf(table), where)
    assert agreement(theirs, our_ctf(replace(table, tilt_deg=-table.tilt_deg)), where) < right - 0.05
    if case == "astigmatic":
        assert agreement(theirs, our_ctf(replace(table, astigmatism_deg=-table.astigmatism_deg)), where) < right - 0.02


def test_plain_form_is_another(tmp_path: Path) -> None:
    """The CTF of plain back-projections keeps the sum, which RELION always divides by Σ W (measured: 0.671)."""
    table = CASES["symmetric"]
    assert 0.6 < agreement(relion_ctf(table, tmp_path), our_ctf(table, normalized=False), inner(BOX)) < 0.75


@pytest.mark.parametrize(("box", "apix", "lowest"), [(64, 5.0, 0.985), (96, 4.0, 0.94)])
def test_fine_grids(box: int, apix: float, lowest: float, tmp_path: Path) -> None:
    """Slices overlap less in a larger box, so that the taper counts for more (measured: 0.989 and 0.9445)."""
    table = CASES["symmetric"]
    theirs, ours = relion_ctf(table, tmp_path, box, apix), our_ctf(table, True, box, apix)
    where = inner(box)
    assert agreement(theirs, ours, where) > lowest
    assert agreement(theirs, ours, where & (slice_counts(table, box) >= 1)) > 0.9995


def test_negative_b_factors(tmp_path: Path) -> None:
    """RELION amplifies by the negative B factors of M and WARP, which our reader takes for damping."""
    table = tilt_table(FULL, b_sign=-1.0)
    theirs, where = relion_ctf(table, tmp_path, BOX, 4.0), inner(BOX)
    read = read_relion_table(tmp_path / "t.star")
    np.testing.assert_allclose(read.bfactor_A2, -table.bfactor_A2)
    damped = relion_ctf(tilt_table(FULL), tmp_path, BOX, 4.0)
    # measured: 0.9936; in this box the CTF oscillates within few voxels, which RELION's interpolation blurs
    assert agreement(damped, our_ctf(read, apix=4.0), where & (slice_counts(table) >= 1)) > 0.99
    # RELION's own volumes of both signs, near the Nyquist frequency (measured: a factor of 3.65, |CTF| up to 2.7)
    fine = where & (radius_px(BOX) > BOX / 2 - 4)
    assert np.linalg.norm(theirs[fine]) > 3 * np.linalg.norm(damped[fine])


def test_written_by_training(simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`train_tomo --write-ctf` writes the 3D CTF of the first particle on the grid that training renders."""
    use_tiny_networks(monkeypatch)
    star = simulated / "relion31" / "particles.star"
    code, said = train(star, tmp_path / "run", "--write-ctf", "-n", "1")
    assert code == 0, said
    ours, apix = read_volume(tmp_path / "run" / "ctf.mrc")
    table = read_relion_table((star.parent / read_particles(star).strings("rlnCtfImage")[0]).with_suffix(".star"))
    assert apix is not None
    theirs = relion_ctf(table, tmp_path, len(ours), apix)
    where = inner(len(ours)) & (slice_counts(table, len(ours)) >= 1)
    assert where.sum() > 500
    assert agreement(theirs, ours.astype(np.float64), where) > 0.9997


def test_script_of_prepare_ctf(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`sh do_all_reconstruct_ctfs.sh BOX` from another folder; RELION's volumes agree with ours."""
    coords = write_tomogram(tmp_path / "my tomograms")
    out = tmp_path / "ctf out"
    words = ("--apix", str(APIX), "--tomo-size", "400", "300", "120")
    assert main(["prepare_ctf", str(coords), "-o", str(out), *words, "--workers", "1"]) == 0
    script = out / "do_all_reconstruct_ctfs.sh"
    assert str(script) in capfd.readouterr().out
    done = subprocess.run(["sh", str(script), "32"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    star = read_particles(out / "all.star")
    for name in star.strings("rlnCtfImage"):
        theirs, apix = read_volume(out / name)
        table = read_relion_table((out / name).with_suffix(".star"))
        assert theirs.shape == (32,) * 3 and apix == pytest.approx(APIX)
        where = inner(32) & (slice_counts(table, 32) >= 1)
        assert where.sum() > 500
        assert agreement(theirs.astype(np.float64), our_ctf(table, True, 32), where) > 0.9997


def test_script_refuses_a_wrong_box(tmp_path: Path) -> None:
    coords = write_tomogram(tmp_path)
    assert main(["prepare_ctf", str(coords), "-o", str(tmp_path), "--apix", "8", "--tomo-size", "9", "9", "9"]) == 0
    for words in ([], ["128.5"], ["-i"]):
        command = ["sh", str(tmp_path / "do_all_reconstruct_ctfs.sh"), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "usage:" in done.stderr
