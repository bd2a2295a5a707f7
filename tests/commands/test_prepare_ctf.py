"""`dsd prepare_ctf`: defoci against closed formulas, from every kind of metadata."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import starfile

from opustomo.io.ctf_tables import TiltTable, read_relion_table
from opustomo.io.mrc import write_volume
from opustomo.io.star_tables import read_particles
from opustomo.main import main

TILTS = np.array([-60.0, -46.0, -30.0, -10.0, 0.0, 10.0, 30.0, 46.0, 60.0])
RADIANS = np.deg2rad(TILTS)
MEAN = np.array([9000.0, 3150, 3100, 3050, 3000, 3040, 3110, 3160, 100])  # nm; the ends are badly estimated
SIZE = (400, 300, 120)
APIX = 5.0
COORDS = np.array([[200, 150, 60], [240, 150, 60], [200, 150, 72], [200, 190, 60]])
WARP = Path(__file__).parents[1] / "io" / "tilt_series" / "warp_tilt_series"


def write_tomogram(folder: Path, name: str = "TS_1") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.tlt").write_text("\n".join(map(str, TILTS)))
    (folder / f"{name}.order").write_text("\n".join(f"{t} {3 * i + 3}" for i, t in enumerate(TILTS[::-1])))
    rows = (f"{i + 1} {i + 1} {t} {t} {d}" for i, (t, d) in enumerate(zip(TILTS, MEAN, strict=True)))
    (folder / f"{name}_ctfplotter.defocus").write_text("\n".join(rows))
    (folder / f"{name}.coords").write_text("\n".join(" ".join(map(str, at)) for at in COORDS))
    return folder / f"{name}.coords"


def prepare(*words: object) -> int:
    return main(["prepare_ctf", *map(str, words), "--workers", "1"])


def tables(star: Path) -> list[TiltTable]:
    names = read_particles(star).strings("rlnCtfImage")
    return [read_relion_table((star.parent / name).with_suffix(".star")) for name in names]


def clipped(sigmas: float = 2.0) -> np.ndarray:
    """Defoci (Å) of the center, those beyond 45° within mean ± 2σ of the others."""
    low = 10 * MEAN[np.abs(TILTS) <= 45]
    near = np.clip(10 * MEAN, low.mean() - sigmas * low.std(), low.mean() + sigmas * low.std())
    return np.where(np.abs(TILTS) <= 45, 10 * MEAN, near)


@pytest.mark.parametrize(
    ("hand", "along_x", "along_z"),
    [
        (None, np.sin(RADIANS), np.cos(RADIANS)),
        ("original", np.sin(RADIANS), np.cos(RADIANS)),
        ("1", -np.sin(RADIANS), np.cos(RADIANS)),
        ("-1", np.sin(RADIANS), -np.cos(RADIANS)),
    ],
)
def test_particles_moved_along_x_and_z(
    hand: str | None, along_x: np.ndarray, along_z: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """40 pixels along x, 12 along z, 40 along the tilt axis."""
    coords = write_tomogram(tmp_path / "my tomograms")
    out = tmp_path / "ctf out"
    options = () if hand is None else ("--hand", hand)
    assert prepare(coords, "-o", out, "--apix", APIX, "--tomo-size", *SIZE, *options) == 0
    assert "Wrote 4 CTF tables for the particles in 1 .coords files" in capsys.readouterr().out
    center, right, up, along = tables(out / "all.star")
    assert np.allclose(center.defocus_u_A, clipped(), atol=1e-4)
    assert np.allclose(right.defocus_u_A - center.defocus_u_A, 40 * APIX * along_x, atol=1e-4)
    assert np.allclose(up.defocus_u_A - center.defocus_u_A, 12 * APIX * along_z, atol=1e-4)
    assert np.allclose(along.defocus_u_A, center.defocus_u_A)
    assert np.array_equal(center.defocus_u_A, center.defocus_v_A)
    # IMOD to RELION
    assert np.allclose(center.tilt_deg, -TILTS) and np.allclose(center.scale, np.cos(RADIANS), atol=1e-6)
    assert np.allclose(center.bfactor_A2, 4 * (3 * np.arange(9)[::-1] + 3))


def test_tilts_that_are_relions_already(tmp_path: Path) -> None:
    """With --tilt-sign 1 the original's depth is that of the rigid geometry: x sin t + z cos t of the written tilt."""
    coords = write_tomogram(tmp_path)
    words = (coords, "--apix", APIX, "--tomo-size", *SIZE, "--tilt-sign", 1, "--clip-sigma", 0)
    assert prepare(*words, "-o", tmp_path / "a") == 0 and prepare(*words, "-o", tmp_path / "b", "--hand", 1) == 0
    for one, other in zip(tables(tmp_path / "a" / "all.star"), tables(tmp_path / "b" / "all.star"), strict=True):
        assert np.array_equal(one.tilt_deg, TILTS) and np.allclose(one.defocus_u_A, other.defocus_u_A, atol=1e-5)
        assert one.defocus_u_A.max() > 80000  # nothing was clipped


def test_centers_of_odd_sizes(tmp_path: Path) -> None:
    """x = (X - nx/2) px, also where nx is odd."""
    coords = write_tomogram(tmp_path)
    words = (coords, "--apix", APIX, "--hand", 1, "--clip-sigma", 0)
    for name, size in (("even", SIZE), ("odd", (SIZE[0] + 1, SIZE[1], SIZE[2] + 1))):
        assert prepare(*words, "-o", tmp_path / name, "--tomo-size", *size) == 0
    even, odd = (tables(tmp_path / name / "all.star")[0] for name in ("even", "odd"))
    moved = -0.5 * APIX * (-np.sin(RADIANS) + np.cos(RADIANS))
    assert np.allclose(odd.defocus_u_A - even.defocus_u_A, moved, atol=1e-4)


def test_master_table_and_several_tomograms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Folders, sizes and pixel size from the tomograms' headers, names of images, magnification."""
    for name in ("TS_1", "TS_2"):
        write_tomogram(tmp_path / "in" / name, name)
        write_volume(tmp_path / "in" / name / f"{name}.mrc", np.zeros((12, 30, 40), np.int8), APIX)
    words = ("--image-name", "sub/{name}-{index}.mrc", "--magnification", 5000, "--out-star", tmp_path / "s" / "p.star")
    assert prepare(tmp_path / "in", "-o", tmp_path / "out", *words) == 0
    star = read_particles(tmp_path / "s" / "p.star")
    assert len(star) == 8 and star.pixel_sizes() == pytest.approx([APIX] * 8)
    assert star.strings("rlnImageName")[5] == "../out/sub/TS_2-2.mrc"
    assert star.strings("rlnMicrographName")[3:5] == ["TS_1.mrc", "TS_2.mrc"]
    assert np.array_equal(np.stack([star.numbers(f"rlnCoordinate{a}") for a in "XYZ"], 1), np.tile(COORDS, (2, 1)))
    assert (tmp_path / "out" / "TS_2" / "TS_2_000004_ctf.star").is_file()
    first = tables(tmp_path / "s" / "p.star")[0]
    offset = (200 - 20) * APIX * np.sin(RADIANS) + (60 - 6) * APIX * np.cos(RADIANS)
    assert np.allclose(first.defocus_u_A, clipped() + offset, atol=1e-4)
    # written as other programs read it
    table = starfile.read(tmp_path / "out" / "TS_1" / "TS_1_000001_ctf.star")
    assert list(table.rlnAngleRot) == [0.0] * 9 and len(table) == 9


def test_particle_star_keeps_all_it_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tomogram(tmp_path / "tilts")
    rows = "\n".join(
        f"a/TS_1_10.00Apx.mrc {x / 2} {y / 2} {z / 2} im{i}.mrc 'my note'" for i, (x, y, z) in enumerate(COORDS)
    )
    text = "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnImagePixelSize\n1 10\n\n"
    text += "data_particles\n\nloop_\n_rlnMicrographName\n"
    names = "_rlnCoordinateX\n_rlnCoordinateY\n_rlnCoordinateZ\n_rlnImageName\n_myNote\n"
    (tmp_path / "p.star").write_text(text + names + rows + "\n")
    (tmp_path / "im0.mrc").touch()
    out = tmp_path / "sub" / "out"
    words = ("--tilts", tmp_path / "tilts", "--apix", APIX, "--coord-apix", 2 * APIX, "--tomo-size", *SIZE)
    assert prepare(tmp_path / "p.star", "-o", out, *words) == 0
    assert "Wrote 4 CTF tables" in capsys.readouterr().out
    star = read_particles(out / "all.star")
    assert star.strings("myNote") == ["my note"] * 4 and "optics" in star.blocks
    assert star.strings("rlnImageName")[0] == "../../im0.mrc"
    center, right, *_ = tables(out / "all.star")
    assert np.allclose(right.defocus_u_A - center.defocus_u_A, 40 * APIX * np.sin(RADIANS), atol=1e-4)
    # without --coord-apix nobody knows whether images of 10 Å were picked in such a tomogram
    assert prepare(tmp_path / "p.star", "-o", out, *words[:4], *words[6:]) == 0
    assert "read in pixels of the tilt series, 5 Å; if they are in pixels of the images" in capsys.readouterr().out
    # pytom-match-pick tells the pixel size of its tomograms as rlnDetectorPixelSize, without a magnification
    picks = (
        "data_\n\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnCoordinateZ\n_rlnDetectorPixelSize\n"
    )
    (tmp_path / "picks.star").write_text(picks + "TS_1.tomostar 20 20 10 10.0\nTS_1.tomostar 21 20 10 12.5\n")
    assert prepare(tmp_path / "picks.star", "-o", tmp_path / "picked", *words[:4], *words[6:]) == 0
    said = capsys.readouterr().out
    assert "pixels of the images (10 and 12.5 Å), split the table by pixel size" in said
    assert "outside their tomograms" not in said
    assert prepare(tmp_path / "picks.star", "-o", tmp_path / "far", *words[:4], *words[6:], "--coord-apix", "100") == 0
    assert "2 of 2 particles of" in (said := capsys.readouterr().out) and "outside their tomograms" in said


def test_warp(tmp_path: Path) -> None:
    """Defoci of WARP's own points within 1 nm, tilts as WARP's; the plane of M's tilts is not quite about y."""
    shutil.copy(WARP / "TS_1.xml", tmp_path / "TS_1.xml")
    told = starfile.read(WARP / "TS_1_points.star")
    points = told["points"].to_numpy(float)
    head = "data_\n\nloop_\n_rlnTomoName\n" + "".join(f"_rlnCenteredCoordinate{a}Angst\n" for a in "XYZ")
    (tmp_path / "p.star").write_text(head + "\n".join(f"TS_1 {x} {y} {z}" for x, y, z in points) + "\n")
    words = ("--warp", tmp_path, "--image-size", 5760, 4092)
    assert prepare(tmp_path / "p.star", "-o", tmp_path / "out", *words) == 0
    found = tables(tmp_path / "out" / "all.star")
    u = told["mappings"]["defocusU"].to_numpy().reshape(27, 41)
    assert np.abs(np.stack([table.defocus_u_A for table in found]) - u).max() < 1.0
    told_tilt = told["mappings"]["angleTilt"].to_numpy()[:41]
    assert np.abs(np.abs(found[0].tilt_deg) - told_tilt).max() < 2.0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--tomo-size", "4", "0", "1"), "--tomo-size must be at least 1, got 0"),
        (("--apix", "-1"), "--apix must be positive, got -1"),
        (("--dose", "-1"), "--dose must be at least 0, got -1"),
        (("--amplitude", "1.5"), "--amplitude must lie in [0, 1), got 1.5"),
        (("--image-name", "{x}"), "--image-name is {x}"),
        (("--tomograms", "t.star"), "require a particle table"),
        (("--defocus-name", "{stem}.none"), "there is no TS_1.none"),
        (("--detector-pixel-size", "5"), "Give only one of them"),
    ],
)
def test_errors(words: tuple[str, ...], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coords = write_tomogram(tmp_path)
    assert prepare(coords, "-o", tmp_path / "out", "--apix", APIX, "--tomo-size", *SIZE, *words) == 1
    said = capsys.readouterr().err
    assert expected in said and said.count("\n") == 1 and not (tmp_path / "out").exists()


def test_missing_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coords = write_tomogram(tmp_path / "t")

    def said(*words: object) -> str:
        assert prepare(*words, "-o", tmp_path / "out") == 1
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        return message

    assert "the pixel size of the tomogram TS_1 is unknown" in said(coords)
    assert "--tomo-size" in said(coords, "--apix", APIX)
    (tmp_path / "empty").mkdir()
    assert "contains no .coords file" in said(tmp_path / "empty")
    assert "TS_1.coords is given twice" in said(coords, coords, "--apix", APIX, "--tomo-size", *SIZE)
    (tmp_path / "t" / "TS_1.tlt").unlink()
    assert "there is no TS_1.tlt" in said(coords, "--apix", APIX, "--tomo-size", *SIZE)
    (tmp_path / "p.star").write_text("data_\nloop_\n_rlnMicrographName\n_rlnCoordinateX\nx 1\n")
    assert "Give one of --tilts, --tomograms and --warp" in said(tmp_path / "p.star")
    assert "there is no x.xml" in said(tmp_path / "p.star", "--warp", tmp_path)
    turned = "".join(f"_rlnTomoSubtomogram{angle}\n" for angle in ("Rot", "Tilt", "Psi"))
    (tmp_path / "p.star").write_text(f"data_\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n{turned}x 1 0 90 0\n")
    assert "row 1 is rotated by 90° relative to its tomogram" in said(tmp_path / "p.star", "--warp", tmp_path)
    (tmp_path / "p.star").write_text("data_\nloop_\n_rlnImageName\n_rlnCoordinateX\nx 1\n")
    assert "neither rlnTomoName nor rlnMicrographName" in said(tmp_path / "p.star", "--warp", tmp_path)
