"""All kinds of particle tables through `dsd train_tomo`: equivalent tables train equally, different tables differ."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import starfile

from opustomo.checkpoint.config import read_config
from opustomo.io.latents import read_latents
from opustomo.io.mrc import read_volume, write_volume
from opustomo.io.pickles import dump_pickle
from opustomo.io.poses import read_poses, write_poses
from opustomo.io.star_poses import poses_from_star
from opustomo.io.star_tables import read_particles
from opustomo.main import main
from tests import reference
from tests.commands.quick import assert_sound, own_copy, tiny_networks, train  # noqa: F401

COUNT, BOX, APIX = 6, 24, 12.0
ONE_STEP = "-n 1 -b 6 --valfrac 0".split()
ORIGINS = ["rlnOriginX", "rlnOriginY", "rlnOriginZ"]


@pytest.fixture
def star(tiny_set: Path, tmp_path: Path) -> Path:
    """Table of an own copy of six particles, RELION 3.0 style."""
    return own_copy(tiny_set, tmp_path / "a set", COUNT)


@dataclass(frozen=True)
class Result:
    """One step over all particles: loss, latents, poses and messages."""

    gen: float
    latents: np.ndarray
    eulers: np.ndarray
    origins: np.ndarray
    said: str

    def equals(self, other: Result) -> bool:
        return (
            np.isclose(self.gen, other.gen, rtol=1e-5)
            and np.allclose(self.latents, other.latents, atol=1e-5)
            and np.allclose(self.eulers, other.eulers, atol=1e-3)
            and np.allclose(self.origins, other.origins, atol=1e-6)
        )


def step(star: Path, outdir: Path, *words: str) -> Result:
    code, said = train(star, outdir, *ONE_STEP, *words)
    assert code == 0, said
    poses = read_poses(outdir / "pose.0.pkl")
    assert_sound(outdir, len(poses), epoch=0)
    mu, multi = read_latents(outdir / "z.0.pkl")
    with (outdir / "epochs.csv").open() as handle:
        gen = float(next(csv.DictReader(handle))["training_gen"])
    latents = mu if multi is None else np.hstack([mu, multi])
    return Result(gen, latents, poses.eulers_deg, poses.origins, said)


# Particle tables


def optics(groups: int) -> pd.DataFrame:
    number = np.arange(1, groups + 1)
    return pd.DataFrame(
        {
            "rlnOpticsGroup": number,
            "rlnOpticsGroupName": [f"opticsGroup{i}" for i in number],
            "rlnVoltage": 300.0,
            "rlnSphericalAberration": 2.7,
            "rlnAmplitudeContrast": 0.07,
            "rlnImagePixelSize": APIX,
            "rlnImageSize": BOX,
            "rlnImageDimensionality": 3,
        }
    )


def in_angstrom(table: pd.DataFrame, groups: int) -> pd.DataFrame:
    table = table.drop(columns=["rlnMagnification", "rlnDetectorPixelSize"])
    for name in ORIGINS:
        table[f"{name}Angst"] = table.pop(name) * APIX
    table["rlnOpticsGroup"] = np.arange(len(table)) % groups + 1
    return table


def relion31(table: pd.DataFrame, folder: Path, groups: int = 1) -> dict[str, pd.DataFrame]:
    return {"optics": optics(groups), "particles": in_angstrom(table, groups)}


def pseudo_subtomograms(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Rename subtomograms as `relion_tomo_subtomo` does, with tables of tilts named for the weights."""
    table = in_angstrom(table, 2)
    place = Path("Extract/job007/Subtomograms/TS_01")
    (folder / place).mkdir(parents=True)
    for i in range(len(table)):
        (folder / table["rlnImageName"][i]).rename(folder / place / f"{i + 1}_data.mrc")
        (folder / table["rlnCtfImage"][i]).with_suffix(".star").rename(folder / place / f"{i + 1}_weights.star")
    table["rlnImageName"] = [f"{place}/{i + 1}_data.mrc" for i in range(len(table))]
    table["rlnCtfImage"] = [f"{place}/{i + 1}_weights.mrc" for i in range(len(table))]
    table["rlnTomoName"] = "TS_01"
    table["rlnTomoParticleName"] = [f"TS_01/{i + 1}" for i in range(len(table))]
    return table


def relion4(table: pd.DataFrame, folder: Path) -> dict[str, pd.DataFrame]:
    more = {"rlnTomoSubtomogramBinning": 4.0, "rlnCtfDataAreCtfPremultiplied": 1}
    return {"optics": optics(2).assign(**more), "particles": pseudo_subtomograms(table, folder)}


def relion5(table: pd.DataFrame, folder: Path) -> dict[str, pd.DataFrame]:
    table = pseudo_subtomograms(table, folder)
    for axis in "XYZ":
        table[f"rlnCenteredCoordinate{axis}Angst"] = table.pop(f"rlnCoordinate{axis}") * 2.5 - 1000
    blocks = {"general": pd.DataFrame({"rlnTomoSubTomosAre2DStacks": [0]}), "optics": optics(2), "particles": table}
    return blocks


FORMATS: dict[str, Callable[[pd.DataFrame, Path], dict[str, pd.DataFrame]]] = {
    "RELION 3.1, one optics group": relion31,
    "RELION 3.1, three optics groups": lambda table, folder: relion31(table, folder, 3),
    "RELION 4": relion4,
    "RELION 5": relion5,
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_table_of_another_program_trains_the_same(star: Path, tmp_path: Path, name: str) -> None:
    plain, table = step(star, tmp_path / "plain"), starfile.read(star)
    starfile.write(table.assign(rlnOriginX=table["rlnOriginX"] + 1.0), star, overwrite=True)
    assert not step(star, tmp_path / "moved").equals(plain)  # the comparison would notice
    other = star.with_name("of another program.star")
    starfile.write(FORMATS[name](table, star.parent), other, float_format="%.9f")
    found = step(other, tmp_path / "other", "--relion31")
    assert found.equals(plain)
    assert ("phases would be flipped twice" in found.said) == (name == "RELION 4")


def test_ctf_volumes_without_tables(star: Path, tmp_path: Path) -> None:
    """Pseudo-subtomograms of RELION have 3D CTF volumes: a message gives the remedy; without CTF they train."""
    blocks = relion4(starfile.read(star), star.parent)
    starfile.write(blocks, star, overwrite=True)
    for path in star.parent.rglob("*_weights.star"):
        write_volume(path.with_suffix(".mrc"), np.ones((BOX, BOX, BOX), np.float32), APIX)
        path.unlink()
    code, said = train(star, tmp_path / "run", *ONE_STEP)
    assert code == 1 and said.count("\n") == 1
    assert "3D CTF volume" in said and "--no-ctf" in said and not (tmp_path / "run").exists()
    found = step(star, tmp_path / "run", "--no-ctf", "--tilt-range", "60", "--tilt-step", "3")
    assert "only the missing wedge of tilts up to ±60° is modeled" in found.said


def test_no_ctf_column(star: Path, tmp_path: Path) -> None:
    starfile.write(starfile.read(star).drop(columns="rlnCtfImage"), star, overwrite=True)
    found = step(star, tmp_path / "run")
    assert "no CTF is applied (the particle table has no rlnCtfImage)" in found.said


def test_warp_tables_and_their_bfactors(star: Path, tmp_path: Path) -> None:
    plain = step(star, tmp_path / "plain")
    assert step(star, tmp_path / "whole", "--warp", "--warp-bfactor-scale", "1").equals(plain)
    weak = step(star, tmp_path / "weak", "--warp")
    assert not weak.equals(plain)
    for path in (star.parent / "subtomo").glob("*_ctf.star"):
        table = starfile.read(path)
        table["rlnCtfBfactor"] *= 0.25
        starfile.write(table, path, overwrite=True, float_format="%.9f")
    assert step(star, tmp_path / "quarter").equals(weak)


# Tables of tilts


def tilts_of(table: pd.DataFrame) -> list[reference.Tilt]:
    names = "AngleTilt DefocusU DefocusV DefocusAngle Voltage SphericalAberration AmplitudeContrast PhaseShift"
    columns = [f"rln{name}" for name in [*names.split(), "CtfBfactor", "CtfScalefactor"]]
    return [reference.Tilt(*row) for row in table[columns].to_numpy()]


def test_every_tilt_of_every_table_counts(star: Path, tmp_path: Path) -> None:
    """Tables of different lengths, pre-tilted, asymmetric, with astigmatism and phase plate: all tilts are used."""
    tables = {}
    for i in range(3):
        path = star.parent / "subtomo" / f"p{i:06d}_ctf.star"
        table = starfile.read(path).iloc[3 * i : 21 - i].copy()
        table["rlnAngleTilt"] += (0.0, 11.3, -7.77)[i]
        table["rlnDefocusU"] += 4000.0 * i
        table["rlnDefocusAngle"] = 25.0 * i
        table["rlnPhaseShift"] = (0.0, 90.0, 30.0)[i]
        starfile.write(table, path, overwrite=True, float_format="%.9f")
        tables[i] = table
    sizes = reference.Sizes(BOX, APIX, BOX, BOX, 32, 8, 2)
    for i, table in tables.items():
        for words, kept in (([], table), (["--tilt-limit", "35"], table[table["rlnAngleTilt"].abs() <= 35])):
            np.savetxt(tmp_path / "ind.txt", [i], fmt="%d")
            step(star, tmp_path / "one", "--ind", str(tmp_path / "ind.txt"), "--write-ctf", "--overwrite", *words)
            written, apix = read_volume(tmp_path / "one" / "ctf.mrc")
            expected = reference.ctf_3d(tilts_of(kept), sizes, normalized=True)
            assert apix == pytest.approx(APIX)
            np.testing.assert_allclose(written[..., BOX // 2 :], expected[..., :-1], atol=2e-4)


def test_the_range_of_all_tables_is_reported(star: Path, tmp_path: Path) -> None:
    path = star.parent / "subtomo" / "p000001_ctf.star"
    table = starfile.read(path).iloc[4:]
    starfile.write(table, path, overwrite=True)
    said = step(star, tmp_path / "run", "--tilt-range", "50").said
    (line,) = [line for line in said.splitlines() if "#   tilts" in line]
    assert "-60…60°" in line and f"{len(table)}" in line
    assert "--tilt-range 50" in said


# Options


def test_ind_takes_rows_of_everything(star: Path, tmp_path: Path) -> None:
    """Poses, latents, split and output indices are those of the rows taken, in their order."""
    chosen = np.array([4, 1, 5])
    write_poses(tmp_path / "all.pkl", poses := poses_from_star(read_particles(star), BOX, APIX))
    write_poses(tmp_path / "chosen.pkl", poses.subset(chosen))
    dump_pickle(tmp_path / "ind.pkl", chosen)
    whole = starfile.read(star)
    alone = star.with_name("alone.star")
    starfile.write(whole.iloc[chosen], alone, float_format="%.6f")
    expected = step(alone, tmp_path / "alone", "-n", "2")
    for name in ("none", "all", "chosen"):
        words = [] if name == "none" else ["--poses", str(tmp_path / f"{name}.pkl")]
        found = step(star, tmp_path / name, "-n", "2", "--ind", str(tmp_path / "ind.pkl"), *words)
        assert found.equals(expected)
        selected = starfile.read(tmp_path / name / "particles.selected.star")
        assert selected["rlnImageName"].tolist() == whole["rlnImageName"][chosen].tolist()


def test_norm_and_voxel_types(star: Path, tmp_path: Path) -> None:
    plain = step(star, tmp_path / "plain", "--float16")
    scale = read_config(tmp_path / "plain" / "config.pkl")[2]["dataset_args"]["norm"][1]
    assert step(star, tmp_path / "given", "--norm", "0", repr(float(scale))).equals(plain)
    assert not step(star, tmp_path / "other", "--norm", "0", repr(2.0 * float(scale))).equals(plain)
    for path in (star.parent / "subtomo").glob("*.mrc"):
        volume, apix = read_volume(path)
        write_volume(path, volume.astype(np.float32), apix or 0.0)
    assert step(star, tmp_path / "float32").equals(plain)


@pytest.mark.parametrize(("beta", "expected"), [("cos", 0.1), ("a", 0.001), ("b", 5.0), ("d", 5.0), ("0.7", 0.7)])
def test_beta_of_the_first_steps(star: Path, tmp_path: Path, beta: str, expected: float) -> None:
    step(star, tmp_path / "run", "--beta", beta, "--plot", "--tmp-prefix", "now")
    with (tmp_path / "run" / "metrics.csv").open() as handle:
        row = next(csv.DictReader(handle))
    assert float(row["beta"]) == pytest.approx(expected, rel=1e-3)
    assert (tmp_path / "run" / "now.png").stat().st_size > 1000
    assert read_volume(tmp_path / "run" / "now.mrc")[0].shape == (32, 32, 32)
    assert not list((tmp_path / "run").glob("tmp.*"))


def test_a_homogeneous_run_can_be_evaluated(star: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    step(star, tmp_path / "run", "--encode-mode", "fixed")
    weights = str(tmp_path / "run" / "weights.0.pkl")
    assert main(["eval_vol", "--load", weights, "-o", str(tmp_path / "own")]) == 0
    shared = [repr(float(value)) for value in read_latents(tmp_path / "run" / "z.0.pkl")[0][3]]
    assert main(["eval_vol", "--load", weights, "-o", str(tmp_path / "given"), "-z", *shared]) == 0
    own, given = (read_volume(tmp_path / name / "reference0.mrc")[0] for name in ("own", "given"))
    np.testing.assert_allclose(own, given, atol=1e-5 * np.abs(own).max())
    assert own.std() > 0
    step(star, tmp_path / "heterogeneous")
    capsys.readouterr()
    words = ["--load", str(tmp_path / "heterogeneous" / "weights.0.pkl"), "-o", str(tmp_path / "none")]
    assert main(["eval_vol", *words]) == 1
    assert "Give the latents to decode" in capsys.readouterr().err and not (tmp_path / "none").exists()
