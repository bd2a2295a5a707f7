"""Impossible poses are reported by row before training, and nothing is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from analysis_scripts.main import main as dsdsh
from opustomo.io.poses import Poses, angle_note, origin_note, write_poses
from opustomo.io.star_poses import poses_from_star
from opustomo.io.star_tables import read_particles
from opustomo.main import main

BOX, APIX = 24, 12.0
SMALL = "--zdim 2 --templateres 32 --encoderres 8 -n 1 -b 8 --num-workers 1 --device cpu --normalizectf".split()


@pytest.fixture
def own_set(tiny_set: Path, tmp_path: Path) -> Path:
    """A copy of the tiny set to break."""
    return Path(shutil.copytree(tiny_set, tmp_path / "a set"))


def change(folder: Path, **columns: dict[int, object]) -> None:
    """Write values into rows (from 0) of the particle table."""
    path = folder / "particles.star"
    star = read_particles(path)
    for column, values in columns.items():
        if column not in star:
            star.particles[column] = "0"
        for row, value in values.items():
            star.particles.loc[row, column] = str(value)
    star.write(path)


def refused(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Check that `dsd check` and training refuse the set for the same reason; return their messages."""
    star = str(folder / "particles.star")
    assert main(["check", star, "--normalizectf", *words]) == 1
    checked = capsys.readouterr().out
    assert "Verdict: usable" not in checked
    out = folder / "run"
    assert main(["train_tomo", star, "-o", str(out), *SMALL, *words]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "Traceback" not in said
    assert not out.exists()
    reason = said.split("error: ", 1)[1].strip().rstrip(".")
    assert reason in checked, (reason, checked)
    return said


@pytest.mark.parametrize("value", ["5000", "-1e30", "12.01"])
def test_origins_beyond_the_box(own_set: Path, capsys: pytest.CaptureFixture[str], value: str) -> None:
    change(own_set, rlnOriginY={4: value, 9: value})
    said = refused(own_set, capsys)
    assert "2 origins move their particles by more than half of the box of 24 pixels (row 5, 10; the first is" in said
    assert f"is {float(value):g} pixels" in said and "correct these rows or leave them out" in said


def test_origins_within_the_box_pass(own_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(own_set, rlnOriginY={4: 11.9})
    assert main(["check", str(own_set / "particles.star"), "--normalizectf"]) == 0
    assert "Verdict: usable" in capsys.readouterr().out


@pytest.mark.parametrize("column", ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"])
def test_angles_without_a_cosine(own_set: Path, capsys: pytest.CaptureFixture[str], column: str) -> None:
    change(own_set, **{column: {6: "1e308"}})
    said = refused(own_set, capsys)
    assert f"{column} of row 7 is 1e+308, which is not an angle in degrees" in said


def test_angstroms_in_a_column_of_pixels(own_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Origins of up to 2 pixels, written in Å, reach beyond half of a box of 24."""
    rng = np.random.default_rng(3)
    origins = rng.uniform(-2, 2, (16, 3)) * APIX
    change(own_set, **{f"rlnOrigin{axis}": dict(enumerate(origins[:, i])) for i, axis in enumerate("XYZ")})
    said = refused(own_set, capsys)
    assert "divided by the pixel size of 12 Å all origins would fit: if the columns hold Å, name them" in said


def test_rows_of_a_selection_are_those_of_the_table(own_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(own_set, rlnOriginX={3: 99, 12: 99})
    (own_set / "chosen.txt").write_text("0\n12\n13\n")
    star = read_particles(own_set / "particles.star").subset([0, 12, 13])
    with pytest.raises(Exception, match=r"1 origin moves its particle .* \(row 13; the first is 99 pixels\)"):
        poses_from_star(star, BOX, APIX, np.array([0, 12, 13]))


def test_pose_files(own_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = poses_from_star(read_particles(own_set / "particles.star"), BOX)
    far = good.origins.copy()
    far[2, 1] = 3.0
    write_poses(own_set / "far.pkl", Poses(good.eulers_deg, far))
    said = refused(own_set, capsys, "--poses", str(own_set / "far.pkl"))
    assert "far.pkl" in said and "(row 3; the first is 72 pixels)" in said
    turned = good.eulers_deg.copy()
    turned[5, 0] = 1e300
    write_poses(own_set / "turned.pkl", Poses(turned, good.origins))
    said = refused(own_set, capsys, "--poses", str(own_set / "turned.pkl"))
    assert "turned.pkl" in said and "rlnAngleRot of row 6 is 1e+300" in said


@pytest.mark.parametrize("command", ["parse_pose_star", "prepare"])
def test_commands_that_write_poses(own_set: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    change(own_set, rlnOriginX={1: 1e30})
    star, out = str(own_set / "particles.star"), own_set / "particles_pose_euler.pkl"
    if command == "prepare":
        code = dsdsh(["prepare", star, "24", "12"])
    else:
        code = main(["parse_pose_star", star, "-D", "24", "--Apix", "12", "-o", str(out)])
    assert code == 1 and not out.exists()
    assert "(row 2; the first is 1e+30 pixels)" in capsys.readouterr().err


def test_doubtful_poses_are_said(own_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Angles converted to degrees twice, as a real WarpTools export has them, and many large origins."""
    star = read_particles(own_set / "particles.star")
    degrees = np.rad2deg(star.eulers_deg())
    columns = {f"rlnAngle{name}": dict(enumerate(degrees[:, i])) for i, name in enumerate(("Rot", "Tilt", "Psi"))}
    change(own_set, **columns, rlnOriginX={0: 7, 5: -8})
    assert main(["check", str(own_set / "particles.star"), "--normalizectf"]) == 0
    said = capsys.readouterr().out
    assert "converted from radians to degrees twice" in said
    assert "origins of 2 of 16 particles exceed a quarter of the box of 24 pixels (the first in row 1)" in said


def test_notes_on_plain_poses_are_silent() -> None:
    assert angle_note(np.array([[359.0, -180, 700]])) is None
    assert origin_note(np.array([[0.2, 0.1, 0]] * 20 + [[0.3, 0, 0]]), 64) is None
    said = angle_note(np.array([[0.0, 0, 0], [1, 50_000, 1]]))
    assert said is not None and "rlnAngleTilt of row 2 is 50000°" in said and "twice" not in said


def test_pixels_in_a_table_of_angstroms(own_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A RELION 3.1 table has origins in Å; origins in pixels are converted, and a note reports it."""
    path = own_set / "particles.star"
    optics = "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnVoltage\n1 300\n\n"
    path.write_text(optics + path.read_text().replace("data_\n", "data_particles\n", 1))
    assert main(["check", str(path), "--normalizectf"]) == 0
    assert "has optics groups as in RELION 3.1, but origins in pixels" in capsys.readouterr().out


def test_angstroms_that_stay_within_the_box(own_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Origins of up to 0.9 pixels of 12 Å look like 11 pixels, less than half of a box of 24."""
    rng = np.random.default_rng(5)
    origins = rng.uniform(-0.9, 0.9, (16, 3)) * APIX
    change(own_set, **{f"rlnOrigin{axis}": dict(enumerate(origins[:, i])) for i, axis in enumerate("XYZ")})
    said = refused(own_set, capsys)
    assert "would not if they were divided by 12 Å per pixel" in said and "rlnOriginXAngst" in said
    star = str(own_set / "particles.star")
    assert main(["check", star, "--normalizectf", "--force"]) == 0
    assert "exceed a quarter of the box" in capsys.readouterr().out
    assert dsdsh(["prepare", star, str(BOX), str(APIX)]) == 0
    assert "exceed a quarter of the box" in capsys.readouterr().out
    said = refused(own_set, capsys, "--poses", str(own_set / "particles_pose_euler.pkl"))
    assert "particles_pose_euler.pkl: origins of" in said
    for axis in "XYZ":
        (own_set / "particles.star").write_text(
            (own_set / "particles.star").read_text().replace(f"rlnOrigin{axis} ", f"rlnOrigin{axis}Angst ")
        )
    assert main(["check", star, "--normalizectf"]) == 0
