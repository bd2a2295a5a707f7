"""`dsdsh export_relion` and the microscope columns that RELION requires; tests/relion runs RELION itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from analysis_scripts.main import main as dsdsh
from opustomo.convert.relion_export import inner_name
from opustomo.io.ctf_tables import read_relion_table
from opustomo.io.image_paths import resolve_images
from opustomo.io.mrc import read_header, read_volume
from opustomo.io.poses import Poses, write_poses
from opustomo.io.star_conventions import ignored_origins
from opustomo.io.star_tables import ParticleStar, read_particles
from opustomo.main import main as dsd
from opustomo.physics.ctf import TiltBatch, ctf_volume
from tests.commands.test_prepare_ctf import write_tomogram


def export(*words: object) -> int:
    return dsdsh(["export_relion", *map(str, words)])


def test_set_of_half_precision(tiny_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """float32 copies, an optics table with all that RELION asks for, origins in Å, a CTF volume per table."""
    out = tmp_path / "for relion"
    assert export(tiny_set / "particles.star", "-o", out, "--normalizectf") == 0
    assert "wrote 16 subtomograms as float32 and 16 CTF volumes" in capsys.readouterr().out
    before, after = read_particles(tiny_set / "particles.star"), read_particles(out / "particles.star")
    optics = after.blocks["optics"]
    assert {column: optics[column][0] for column in optics if column != "rlnOpticsGroupName"} == {
        "rlnOpticsGroup": "1",
        "rlnImagePixelSize": "12.000000",
        "rlnVoltage": "300.000000",
        "rlnSphericalAberration": "2.700000",
        "rlnAmplitudeContrast": "0.070000",
        "rlnImageSize": "24",
        "rlnImageDimensionality": "3",
    }
    assert list(after.blocks) == ["optics", "particles"] and "rlnOriginX" not in after
    np.testing.assert_allclose(after.origins_px(), before.origins_px(), atol=1e-6)
    np.testing.assert_allclose(after.eulers_deg(), before.eulers_deg(), atol=1e-6)
    for old, new in zip(resolve_images(before, None), resolve_images(after, None), strict=True):
        assert read_header(new).dtype == np.float32 and np.array_equal(read_volume(new)[0], read_volume(old)[0])
    row = 3
    table = read_relion_table((tiny_set / before.strings("rlnCtfImage")[row]).with_suffix(".star"))
    volume, apix = read_volume(out / after.strings("rlnCtfImage")[row])
    half = ctf_volume(TiltBatch.pad([table]), 24, 12.0, normalized=True)[0].numpy()
    assert apix == pytest.approx(12.0) and volume.shape == (24, 24, 24)
    # the zero frequency lies at voxel D/2, and the volume is even about it
    for kz, ky, kx in ((0, 0, 0), (1, 2, 3), (-4, 5, 6), (3, -7, 9)):
        assert volume[12 + kz, 12 + ky, 12 + kx] == pytest.approx(half[kz, ky, kx])
        assert volume[12 - kz, 12 - ky, 12 - kx] == pytest.approx(half[kz, ky, kx])


def test_refined_poses_and_chosen_rows(tiny_set: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    poses = Poses(rng.uniform(0, 90, (16, 3)), rng.normal(size=(16, 3)) / 24)
    write_poses(tmp_path / "pose.pkl", poses)
    (tmp_path / "ind.txt").write_text("4\n2\n")
    words = ("--poses", tmp_path / "pose.pkl", "--ind", tmp_path / "ind.txt")
    assert export(tiny_set / "particles.star", "-o", tmp_path / "out", *words) == 0
    star = read_particles(tmp_path / "out" / "particles.star")
    rows = [int(Path(name).stem[-6:]) for name in star.strings("rlnImageName")]
    assert sorted(rows) == [2, 4]
    np.testing.assert_allclose(star.eulers_deg(), poses.eulers_deg[rows], atol=1e-5)
    np.testing.assert_allclose(star.origins_px(), poses.origins[rows] * 24, atol=1e-5)
    assert len(list((tmp_path / "out").rglob("*_ctf.mrc"))) == 2


def test_tables_without_pixel_size_and_shared_ctf(
    tiny_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pixel size of the headers is used; a common CTF table gives one volume."""
    folder = tmp_path / "set"
    shutil.copytree(tiny_set, folder)
    star = read_particles(folder / "particles.star")
    table = star.particles[[name for name in star.particles if name not in ("rlnMagnification", "rlnVoltage")]].copy()
    table["rlnCtfImage"] = table["rlnCtfImage"].iloc[0]
    ParticleStar(None, {"": table}, "").write(folder / "bare.star")
    assert export(folder / "bare.star", "-o", tmp_path / "out") == 0
    after = read_particles(tmp_path / "out" / "particles.star")
    assert after.pixel_sizes() == pytest.approx(12.0) and len(set(after.strings("rlnCtfImage"))) == 1
    np.testing.assert_allclose(after.origins_px(), star.origins_px(), atol=1e-5)
    assert export(folder / "bare.star", "-o", tmp_path / "wedge", "--no-ctf", "--tilt-range", "60") == 0
    after = read_particles(tmp_path / "wedge" / "particles.star")
    assert read_volume(tmp_path / "wedge" / after.strings("rlnCtfImage")[0])[0].min() >= -0.2
    assert "the optics block has 300 kV, 2.7 mm and 0.07" in capsys.readouterr().out
    assert list(after.blocks["optics"]["rlnSphericalAberration"]) == ["2.700000"]


def test_without_ctf_volumes(tiny_set: Path, tmp_path: Path) -> None:
    """rlnCtfImage refers to files next to the tables of the set, where volumes of RELION may exist."""
    assert export(tiny_set / "particles.star", "-o", tmp_path / "out", "--no-ctf-volumes") == 0
    star = read_particles(tmp_path / "out" / "particles.star")
    assert not list((tmp_path / "out").rglob("*_ctf.mrc"))
    assert all((tmp_path / "out" / name).with_suffix(".star").is_file() for name in star.strings("rlnCtfImage"))


def test_several_pixel_sizes(tiny_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "set"
    shutil.copytree(tiny_set, folder)
    star = read_particles(folder / "particles.star")
    sizes = ["12.0"] * 8 + ["13.0"] * 8
    ParticleStar(None, {"": star.particles.assign(rlnDetectorPixelSize=sizes)}, "").write(folder / "two.star")
    assert export(folder / "two.star", "-o", tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert "range from 12 to 13 Å" in said and said.count("\n") == 1 and not (tmp_path / "out").exists()
    (tmp_path / "ind.txt").write_text("0\n5\n")
    assert export(folder / "two.star", "-o", tmp_path / "out", "--ind", tmp_path / "ind.txt") == 0


def test_the_set_itself_is_not_overwritten(tiny_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "set"
    shutil.copytree(tiny_set, folder)
    (folder / "particles.star").rename(folder / "mine.star")
    before = {path: path.read_bytes() for path in folder.rglob("*.mrc")}
    assert export(folder / "mine.star", "-o", folder) == 1
    assert "exists already" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in folder.rglob("*.mrc")}


def test_errors(tiny_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(tiny_set / "particles.star", "-o", tmp_path / "out", "--angpix", "10") == 1
    said = capsys.readouterr().err
    assert "--angpix is 10 Å" in said and said.count("\n") == 1 and not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "particles.star").write_text("mine")
    assert export(tiny_set / "particles.star", "-o", tmp_path / "out") == 1
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "out" / "particles.star").read_text() == "mine"


def test_names_that_relion_reads() -> None:
    assert str(inner_name("../a b/c@1.mrc")) == "a_b/c_1.mrc"
    assert str(inner_name("/lab/set/p.mrc")) == "lab/set/p.mrc"
    assert str(inner_name("F:\\my set\\p.mrc")) == "my_set/p.mrc"


def test_ignored_origins_are_reported(tiny_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """RELION 3.1 ignores origins in pixels unless every row has voltage and aberration."""
    star = read_particles(tiny_set / "particles.star")
    assert ignored_origins(star) is None
    names = [name for name in star.particles if name != "rlnSphericalAberration"]
    bare = ParticleStar(None, {"": star.particles[names]}, "")
    assert "dsdsh export_relion" in str(ignored_origins(bare))
    bare.write(tmp_path / "bare.star")
    assert dsdsh(["convert_star", str(tmp_path / "bare.star"), "12", "-o", str(tmp_path / "out.star")]) == 0
    assert "RELION 3.1 and later ignore origins in pixels" in capsys.readouterr().out
    still = bare.particles.assign(rlnOriginX="0", rlnOriginY="0.0", rlnOriginZ="0")
    assert ignored_origins(ParticleStar(None, {"": still}, "")) is None


def test_script_of_prepare_ctf(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One call of relion_reconstruct per particle, from the folder of the script, for the volumes of rlnCtfImage."""
    coords = write_tomogram(tmp_path / "in")
    out = tmp_path / "ctf"
    words = ["--apix", "5", "--tomo-size", "400", "300", "120", "--workers", "1"]
    star = tmp_path / "tables" / "all.star"
    assert dsd(["prepare_ctf", str(coords), "-o", str(out), "--out-star", str(star), *words]) == 0
    lines = (out / "do_all_reconstruct_ctfs.sh").read_text().splitlines()
    calls = [line for line in lines if line.startswith("relion_reconstruct")]
    assert calls[2] == (
        "relion_reconstruct --i TS_1/TS_1_000003_ctf.star --o TS_1/TS_1_000003_ctf.mrc --reconstruct_ctf $1 --angpix 5"
    )
    assert len(calls) == 4
    found = read_particles(star)
    assert found.strings("rlnCtfImage")[2] == "../ctf/TS_1/TS_1_000003_ctf.mrc"
    assert set(found.strings("rlnVoltage")) == {"300.000000"} and "rlnSphericalAberration" in found
    # a table that holds no pixel size
    head = "data_\n\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnCoordinateZ\n"
    (tmp_path / "p.star").write_text(head + "TS_1.mrc 200 150 60\n")
    words = ["--tilts", str(tmp_path / "in"), "--tomo-size", "400", "300", "120", "--workers", "1"]
    capsys.readouterr()
    assert dsd(["prepare_ctf", str(tmp_path / "p.star"), "-o", str(tmp_path / "b"), *words, "--apix", "7"]) == 0
    assert "--angpix 7" in (tmp_path / "b" / "do_all_reconstruct_ctfs.sh").read_text()
