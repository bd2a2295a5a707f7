"""Cubes cut from a tomogram whose voxels encode their position."""

from __future__ import annotations

import io
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from scipy.spatial.transform import Rotation

from analysis_scripts.main import main
from opustomo.io.mrc import read_header, read_volume, write_volume
from opustomo.io.star_tables import read_particles
from opustomo.io.tomograms import tomogram_stem
from opustomo.prepare.cubes import cut_cubes, plan_cubes

SHAPE = (20, 24, 28)


def landmarks(dtype: str = "f4") -> np.ndarray:
    """A tomogram in which each voxel has a value of its own along x + y + z (few values for one byte)."""
    z, y, x = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    return ((x + 30 * y + 30 * 26 * z) % (100 if dtype == "i1" else 2000)).astype(dtype)


def write_star(path: Path, positions: np.ndarray, **columns: list[str]) -> Path:
    names = ["rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ", *columns]
    rows = [[*map(str, at), *(columns[name][i] for name in columns)] for i, at in enumerate(positions)]
    text = "data_\n\nloop_\n" + "".join(f"_{name}\n" for name in names) + "\n".join(" ".join(row) for row in rows)
    path.write_text(text + "\n")
    return path


@pytest.mark.parametrize("dtype", ["f4", "i2", "u2", "i1", "f2"])
def test_values_of_every_type(dtype: str, tmp_path: Path) -> None:
    tomogram = landmarks(dtype)
    write_volume(tmp_path / "tomo.mrc", tomogram, 5.0)
    header = read_header(tmp_path / "tomo.mrc")
    assert header.dtype == np.dtype(dtype)
    (cube,) = cut_cubes(header, np.array([[11, 9, 10]]), 8, normalize=False)
    assert np.array_equal(cube, tomogram[6:14, 5:13, 7:15].astype(np.float32))
    (cube,) = cut_cubes(header, np.array([[11, 9, 10]]), 8)
    assert abs(cube.mean()) < 1e-5 and cube.std() == pytest.approx(1, abs=1e-5)
    assert np.corrcoef(cube.ravel(), tomogram[6:14, 5:13, 7:15].astype(float).ravel())[0, 1] > 0.9999


@settings(max_examples=25)
@given(nps.arrays(np.float64, (3,), elements=st.floats(-12, 40)), st.sampled_from([4, 6, 10]))
def test_padded_cubes_hold_what_is_inside(tmp_path_factory: pytest.TempPathFactory, at: np.ndarray, box: int) -> None:
    """Against indexing of a padded copy."""
    path = tmp_path_factory.getbasetemp() / "tomo.mrc"
    if not path.exists():
        write_volume(path, landmarks(), 5.0)
    plan = plan_cubes(at[None], box, SHAPE)
    padded = np.pad(landmarks(), 60, constant_values=np.nan)
    x, y, z = np.round(at).astype(int) + 60 - box // 2
    expected = padded[z : z + box, y : y + box, x : x + box]
    assert plan.reachable[0] == np.isfinite(expected).any() and plan.inside[0] == np.isfinite(expected).all()
    if plan.reachable[0]:
        (cube,) = cut_cubes(read_header(path), plan.centers, box, normalize=False)
        assert np.allclose(cube, np.where(np.isnan(expected), np.nanmean(expected), expected), rtol=1e-6)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("round", [[2, 2, -2]]), ("floor", [[1, 2, -2]]), ("ceil", [[2, 3, -1]]), ("trunc", [[1, 2, -1]])],
)
def test_round_modes(mode: str, expected: list[list[int]]) -> None:
    plan = plan_cubes(np.array([[1.7, 2.2, -1.6]]), 4, SHAPE, mode)
    assert plan.centers.tolist() == expected
    assert np.allclose(plan.centers + plan.remainder, [[1.7, 2.2, -1.6]])


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows of the right tomogram, scale, one-based, padding, files, stack and table."""
    tomo, out = tmp_path / "TS_1_5.00Apx.mrc", tmp_path / "my cubes"
    write_volume(tomo, landmarks(), 5.0)
    positions = np.array([[10.0, 10.0, 10.0], [10.6, 9.0, 9.0], [2.0, 2.0, 2.0], [90.0, 9.0, 9.0], [9.0, 9.0, 9.0]])
    mic = ["TS_1.tomostar", "TS_1.tomostar", "TS_1.tomostar", "TS_1.tomostar", "TS_10.tomostar"]
    star = write_star(tmp_path / "p.star", 0.5 * (positions + 1), rlnMicrographName=mic, rlnOriginX=["1"] * 5)
    words = ["extract_tomo_cubes", str(tomo), str(star), "--box-size", "8", "-o", str(out), "--coord-scale", "2"]
    words += ["--one-based", "--out-star", str(tmp_path / "sub" / "out.star"), "--write-stack", "--prefix", "p"]
    assert main([*words, "--start-index", "7", "--keep-values"]) == 0
    said = capsys.readouterr().out
    assert "Wrote 2 subtomograms" in said and "4 of the 5 particles" in said and "2 particles are omitted" in said
    assert sorted(path.name for path in out.iterdir()) == ["p_000007.mrc", "p_000008.mrc", "p_stack.mrcs"]
    cube, apix = read_volume(out / "p_000008.mrc")
    assert apix == 5.0 and np.array_equal(cube, landmarks()[5:13, 5:13, 7:15])

    with mrcfile.open(out / "p_stack.mrcs") as stack:
        assert stack.is_volume_stack() and stack.data.shape == (2, 8, 8, 8)
        assert np.array_equal(stack.data[1], cube) and stack.voxel_size.x == 5.0
    for path in out.iterdir():
        assert mrcfile.validate(path, print_file=io.StringIO()), path

    table = read_particles(tmp_path / "sub" / "out.star")
    assert table.strings("rlnImageName") == ["../my cubes/p_000007.mrc", "../my cubes/p_000008.mrc"]
    assert table.numbers("rlnCoordinateX").tolist() == [10, 11]
    # the particle lies 0.4 voxels below the center, and 2·1 voxels of origin were there before
    assert table.origins_px()[1] == pytest.approx([2.4, 0, 0])

    assert main([*words, "--pad-outside", "--float16"]) == 0
    assert "Wrote 3 subtomograms" in capsys.readouterr().out
    assert read_header(out / "p_000003.mrc").dtype == np.float16


def test_the_table_reports_the_pixels_of_the_cubes(tmp_path: Path) -> None:
    """Coordinates of unbinned pixels, a tomogram of another size, by the columns of RELION 3.0."""
    write_volume(tmp_path / "t.mrc", landmarks(), 8.0)
    sizes = {"rlnMagnification": ["20000"], "rlnDetectorPixelSize": ["4.0"], "rlnAngleRot": ["007.50"]}
    star = write_star(tmp_path / "p.star", np.array([[40.0, 41.0, 42.0]]), rlnOriginX=["-1.5"], **sizes)
    words = ["extract_tomo_cubes", str(tmp_path / "t.mrc"), str(star), "--box-size", "8", "--coord-scale", "0.25"]
    assert main([*words, "-o", str(tmp_path), "--out-star", str(tmp_path / "o.star")]) == 0
    table = read_particles(tmp_path / "o.star")
    assert table.pixel_sizes() == pytest.approx([8.0])
    # in Å, place and origin are what they were
    places = np.array([table.numbers(f"rlnCoordinate{axis}")[0] for axis in "XYZ"]) - table.origins_px()[0]
    assert places * 8.0 == pytest.approx(2.0 * np.array([40 + 1.5, 41, 42]))
    assert table.strings("rlnAngleRot") == ["007.50"]


def test_a_scale_that_the_pixel_sizes_contradict_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_volume(tmp_path / "t.mrc", landmarks(), 8.0)
    star = write_star(tmp_path / "p.star", np.array([[10.0, 10.0, 10.0]]), rlnDetectorPixelSize=["2.0"])
    words = ["extract_tomo_cubes", str(tmp_path / "t.mrc"), str(star), "--box-size", "8", "-o", str(tmp_path / "o")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert (
        "are in pixels of 2 Å, and the tomogram has voxels of 8 Å, which suggests --coord-scale 0.25, but 1 is" in said
    )
    assert main([*words, "--coord-scale", "0.25", "--pad-outside"]) == 0
    assert "suggests --coord-scale" not in capsys.readouterr().out


def test_relion4_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Optics groups follow the cubes, and poses leave the frames that RELION's own subtomograms had."""
    write_volume(tmp_path / "t.mrc", landmarks(), 8.0)
    text = (
        "data_og\nloop_\n_rlnOpticsGroup\n_rlnTomoTiltSeriesPixelSize\n_rlnTomoSubtomogramBinning\n_rlnImagePixelSize\n"
    )
    text += "_rlnImageSize\n1 2.0 8 16.0 32\n\ndata_particles\nloop_\n"
    names = "CoordinateX CoordinateY CoordinateZ AngleRot AngleTilt AnglePsi OriginXAngst OpticsGroup".split()
    frame = [f"TomoSubtomogram{angle}" for angle in ("Rot", "Tilt", "Psi")]
    text += "".join(f"_rln{name}\n" for name in [*names, *frame]) + "40 44 41 10 20 30 3.0 1 -50 60 70\n"
    (tmp_path / "p.star").write_text(text)
    words = ["extract_tomo_cubes", str(tmp_path / "t.mrc"), str(tmp_path / "p.star"), "--box-size", "8"]
    words += ["--coord-scale", "0.25", "-o", str(tmp_path / "c"), "--out-star", str(tmp_path / "o.star")]
    assert main(words) == 0
    table = read_particles(tmp_path / "o.star")
    optics = table.blocks["og"]
    found = [
        str(optics[f"rln{name}"][0]) for name in ("TomoTiltSeriesPixelSize", "TomoSubtomogramBinning", "ImageSize")
    ]
    assert [float(text) for text in found] == [8.0, 1.0, 8.0]
    assert table.pixel_sizes() == pytest.approx([8.0])
    turn = Rotation.from_euler("ZYZ", [-50, 60, 70], degrees=True).inv()
    pose = turn * Rotation.from_euler("ZYZ", [10, 20, 30], degrees=True).inv()
    now = Rotation.from_euler("ZYZ", table.eulers_deg()[0], degrees=True).inv()
    assert (now * pose.inv()).magnitude() < 1e-5
    assert [table.numbers(f"rln{name}")[0] for name in frame] == [0, 0, 0]
    rounded = np.array([0, 0, 10.25 - 10])
    assert table.origins_px()[0] * 8.0 == pytest.approx(turn.apply([3.0, 0, 0]) - 8.0 * rounded, abs=1e-5)
    text = text.replace("rlnCoordinateX", "rlnCenteredCoordinateXAngst")
    (tmp_path / "p.star").write_text(text)
    assert main(words) == 1
    assert "Convert it with dsdsh convert_relion5 first" in capsys.readouterr().err


def test_which_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tomo = tmp_path / "other.mrc"
    write_volume(tomo, landmarks(), 5.0)
    at = np.full((3, 3), 10.0)
    star = write_star(tmp_path / "p.star", at, rlnMicrographName=["a/T1.mrc", "a/T1.mrc", "C:\\b\\T2.mrc"])
    words = ["extract_tomo_cubes", str(tomo), str(star), "--box-size", "8", "-o", str(tmp_path / "o")]
    assert main(words) == 1
    assert "rlnMicrographName has no tomogram other, only a/T1.mrc, C:\\b\\T2.mrc" in capsys.readouterr().err
    assert main([*words, "--tomo-id", "a/T1.mrc"]) == 0
    assert "Wrote 2 subtomograms" in capsys.readouterr().out
    # names with and without folders and suffixes, as everywhere else
    for name, count in (("T1", 2), ("T1.tomostar", 2), ("T2", 1)):
        assert main([*words, "--tomo-id", name]) == 0
        assert f"{count} of the " in capsys.readouterr().out
    assert main([*words, "--tomo-id", "T"]) == 1
    assert (
        "no particle belongs to the tomogram 'T'; the table has 2 tomograms: a/T1.mrc, C:\\b\\T2.mrc"
        in capsys.readouterr().err
    )
    star = write_star(tmp_path / "p.star", at, myTomo=["x", "x", "x"])
    assert main([*words, "--tomo-col", "myTomo"]) == 0
    assert main(words) == 0
    assert "3 of the " in capsys.readouterr().out


def test_names_of_tomograms() -> None:
    same = [
        "TS_1",
        "TS_1.mrc",
        "a/b/TS_1.tomostar",
        "TS_1_10.00Apx.mrc",
        "D:\\x\\TS_1.rec",
        "TS_1.mrc_15.00Apx.mrc",
        "TS_1_7.84Apx",
    ]
    assert {tomogram_stem(name) for name in same} == {"TS_1"}
    assert tomogram_stem("TS_10.mrc") == "TS_10" and tomogram_stem("TS_1.5.mrc") == "TS_1.5"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--box-size", "7"), "--box-size must be even"),
        (("--coord-scale", "0"), "--coord-scale must be positive, got 0"),
        (("--coord-cols", "a", "b", "c"), "no column a"),
        (("--data-block", "nothing"), "no block data_nothing"),
        (("--tomo-col", "nothing"), "no column nothing"),
        (("--coord-scale", "100"), "no box of 8 voxels at x, y, z"),
        (("--prefix", "a/b"), "--prefix is 'a/b', but it must be a file name"),
    ],
)
def test_errors(words: tuple[str, ...], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_volume(tmp_path / "t.mrc", landmarks(), 5.0)
    star = write_star(tmp_path / "p.star", np.full((3, 3), 10.0))
    start = ["extract_tomo_cubes", str(tmp_path / "t.mrc"), str(star), "--box-size", "8", "-o", str(tmp_path / "o")]
    assert main([*start, *words]) == 1
    said = capsys.readouterr().err
    assert expected in said and said.count("\n") == 1 and not (tmp_path / "o").exists()
