"""`dsd extract_subtomos` and `prepare_ctf` from .aln, .mdoc and .tomostar files and .tlt files with two columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from opustomo.io.ctf_tables import TiltTable, read_relion_table
from opustomo.io.mrc import write_volume
from opustomo.io.star_tables import read_particles
from opustomo.main import main
from tests.prepare import imaged_series
from tests.prepare.extracted_series import (
    AGREE,
    IMAGE_APIX,
    LONG,
    SHORT,
    VOLUME,
    Series,
    extract,
    extracted,
    score,
    write_star,
)
from tests.prepare.imaged_series import ASTIGMATISM_A, AZIMUTH_DEG, DEFOCUS_A, DOSE, TILTS

AXIS_DEG, ALPHA_DEG = 84.0, 1.5
DARK = 4
"""Section of the raw stack that holds a dark image."""
HEAD = "# SEC     ROT         GMAG       TX          TY      SMEAN     SFIT    SCALE     BASE     TILT\n"


def sections_of_tilts() -> np.ndarray:
    """Section of each tilt in a raw stack that is in no order, and has a dark image more."""
    order = np.random.default_rng(7).permutation(len(TILTS))
    return np.asarray(order + (order >= DARK))


def mdoc(tilts: np.ndarray, doses: np.ndarray, sections: np.ndarray) -> str:
    """SerialEM's file of a stack; the dose before each exposure and of it, which is 1 e/Å²."""
    text = f"PixelSpacing = {IMAGE_APIX}\n\n[T =     Tilt axis angle = {AXIS_DEG}, binning = 1]\n"
    for tilt, dose, section in zip(tilts, doses, sections, strict=True):
        text += f"\n[ZValue = {section}]\nTiltAngle = {tilt}\nExposureDose = 1\nPriorRecordDose = {dose - 1}\n"
    return text


def aretomo_series(folder: Path) -> Series:
    """Write an unordered raw stack, its alignment by AreTomo 3, doses of SerialEM and defoci of CTFFIND."""
    folder.mkdir(parents=True)
    particles = imaged_series.draw_particles(4000.0)
    rotations = np.stack([Rotation.from_euler("yz", [t, AXIS_DEG], degrees=True).as_matrix() for t in TILTS])
    shifts = np.random.default_rng(3).uniform(-30, 30, (len(TILTS), 2))
    images = imaged_series.render(particles, rotations, shifts, -1, (SHORT + 280, LONG), IMAGE_APIX)
    sections = sections_of_tilts()
    stack = np.zeros((len(TILTS) + 1, *images.shape[1:]), np.float32)
    stack[sections] = images
    write_volume(folder / "TS_1.st", stack, IMAGE_APIX)
    lines = [
        f"{section + 1:5d} {AXIS_DEG:9.4f} 1.00000 {x:9.4f} {y:9.4f} 1.00 1.00 1.00 0.00 {tilt:8.2f}"
        for section, (x, y), tilt in zip(sections, shifts / IMAGE_APIX, TILTS, strict=True)
    ]
    head = f"# AreTomo Alignment / Priims bprmMn\n# RawSize = {stack.shape[2]} {stack.shape[1]} {stack.shape[0]}\n"
    head += f"# NumPatches = 0\n# DarkFrame = 0 {DARK + 1} -68.50\n# AlphaOffset = {ALPHA_DEG}\n# BetaOffset = 0.00\n"
    (folder / "TS_1.aln").write_text(head + HEAD + "\n".join(lines) + "\n")
    doses, nominal = np.append(DOSE, 200.0), np.append(TILTS - ALPHA_DEG, -70.0)
    (folder / "TS_1.mdoc").write_text(mdoc(nominal, doses, np.append(sections, DARK)))
    half = ASTIGMATISM_A / 2
    rows = ["# one line for each section"] + [""] * len(stack)
    rows[DARK + 1] = f"{DARK + 1} 99999 99999 0 0 0.1 9"
    for section, defocus in zip(sections, DEFOCUS_A, strict=True):
        rows[section + 1] = f"{section + 1} {defocus + half} {defocus - half} {AZIMUTH_DEG} 0 0.1 9"
    (folder / "TS_1_ctffind.txt").write_text("\n".join(rows) + "\n")
    pixels = particles.coordinates_A / IMAGE_APIX + np.array(VOLUME) / 2
    write_star(folder, particles, {f"rlnCoordinate{axis}": pixels[:, i] for i, axis in enumerate("XYZ")})
    sizes = ("--tomo-size", *map(str, VOLUME), "--series-apix", str(IMAGE_APIX))
    return Series(folder, particles, ("--tilts", str(folder), *sizes))


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Series:
    return aretomo_series(tmp_path_factory.mktemp("aretomo") / "my series")


def test_subtomograms_of_an_alignment_by_aretomo(series: Series, capsys: pytest.CaptureFixture[str]) -> None:
    out = extract(series)
    said = capsys.readouterr().out
    found = extracted(out)
    assert score(found).min() > AGREE
    assert "1 dark frames are left out" in said and "AlphaOffset" not in said
    np.testing.assert_allclose(found.tables[0].tilt_deg, -TILTS, atol=0.01)
    np.testing.assert_allclose(found.tables[0].bfactor_A2, 4 * DOSE, atol=1e-4)


def test_the_stack_elsewhere_and_transforms_of_imod(series: Series, tmp_path: Path) -> None:
    """With --images; the .xf and .tlt files of AreTomo agree with its .aln file."""
    folder = tmp_path / "imod"
    folder.mkdir()
    for name in ("TS_1.aln", "TS_1.mdoc", "TS_1_ctffind.txt"):
        (folder / name).write_bytes((series.folder / name).read_bytes())
    words = ["--box", "20", "--apix", "8", "--tomo-size", *map(str, VOLUME), "--series-apix", str(IMAGE_APIX)]
    words = [*words, "--workers", "1", "--images", str(series.folder)]
    star = str(series.folder / "p.star")
    assert main(["extract_subtomos", star, "-o", str(tmp_path / "a"), "--tilts", str(folder), *words]) == 0
    rows = [line.split() for line in (folder / "TS_1.aln").read_text().splitlines() if not line.startswith("#")]
    (folder / "TS_1.aln").unlink()
    xf, tlt = ["1 0 0 1 0 0"] * (len(rows) + 1), ["-68.5"] * (len(rows) + 1)
    for row in rows:
        turn = Rotation.from_euler("z", -float(row[1]), degrees=True).as_matrix()[:2, :2]
        moved = turn @ [-float(row[3]), -float(row[4])]
        xf[int(row[0]) - 1] = " ".join(map(str, [*turn.ravel(), *moved]))
        tlt[int(row[0]) - 1] = row[9]
    (folder / "TS_1.xf").write_text("\n".join(xf) + "\n")
    (folder / "TS_1.tlt").write_text("\n".join(tlt) + "\n")
    (folder / "TS_1.st").symlink_to(series.folder / "TS_1.st")
    assert main(["extract_subtomos", star, "-o", str(tmp_path / "b"), "--tilts", str(folder), *words[:-2]]) == 0
    one, other = (read_relion_table(tmp_path / n / "TS_1" / "TS_1_000002_ctf.star") for n in "ab")
    # with IMOD's unit transform the dark image does not show the particle
    order = [section - (section > DARK) for section in (int(row[0]) - 1 for row in rows)]
    for name in ("tilt_deg", "defocus_u_A", "astigmatism_deg", "bfactor_A2"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name)[order], atol=1e-3)


def test_subtomograms_of_a_tomostar_with_axis_offsets(tmp_path: Path) -> None:
    """As older versions of WARP list them: offsets in Å, averages of the movies in a folder of their own."""
    folder = tmp_path / "my series"
    (folder / "average").mkdir(parents=True)
    particles = imaged_series.draw_particles(1000.0)
    rotations = np.stack([Rotation.from_euler("yz", [t, AXIS_DEG], degrees=True).as_matrix() for t in TILTS])
    shifts = np.random.default_rng(3).uniform(-30, 30, (len(TILTS), 2))
    images = imaged_series.render(particles, rotations, shifts, -1, (SHORT + 280, LONG), IMAGE_APIX)
    head = "data_\n\nloop_\n_wrpMovieName\n_wrpAngleTilt\n_wrpAxisAngle\n_wrpAxisOffsetX\n_wrpAxisOffsetY\n_wrpDose\n"
    rows = []
    for i, image in enumerate(images):
        write_volume(folder / "average" / f"m{i}.mrc", image[None], IMAGE_APIX)
        rows.append(f"../frames/m{i}.tif {-TILTS[i]} {AXIS_DEG} {shifts[i, 0]:.4f} {shifts[i, 1]:.4f} {DOSE[i]}")
    (folder / "TS_1.tomostar").write_text(head + "\n".join(rows) + "\n")
    half = ASTIGMATISM_A / 2
    lines = (f"{i + 1} {d + half} {d - half} {AZIMUTH_DEG} 0 0.1 9" for i, d in enumerate(DEFOCUS_A))
    (folder / "TS_1_ctffind.txt").write_text("# CTFFIND\n" + "\n".join(lines) + "\n")
    pixels = particles.coordinates_A / IMAGE_APIX + np.array(VOLUME) / 2
    write_star(folder, particles, {f"rlnCoordinate{axis}": pixels[:, i] for i, axis in enumerate("XYZ")})
    words = ("--tilts", str(folder), "--images", str(folder / "average"), "--tomo-size", *map(str, VOLUME))
    found = extracted(extract(Series(folder, particles, (*words, "--series-apix", str(IMAGE_APIX)))))
    assert score(found).min() > AGREE
    np.testing.assert_allclose(found.tables[0].bfactor_A2, 4 * DOSE, atol=1e-4)


def test_what_contradicts_the_options_is_reported(series: Series, capsys: pytest.CaptureFixture[str]) -> None:
    mdoc_file = series.folder / "TS_1.mdoc"
    text = mdoc_file.read_text()
    mdoc_file.write_text("Voltage = 200\n" + text)
    extract(series, "--series-apix", "3.9", "--coord-apix", "4")
    mdoc_file.write_text(text)
    said = capsys.readouterr().out
    assert "TS_1.mdoc: Voltage is 200 kV, but 300 kV is used" in said
    assert "TS_1.st: the shifts of the alignment are in pixels of 4 Å" in said and "size of the series is 3.9 Å" in said


def coords(folder: Path, name: str = "TS_1") -> Path:
    """Write two particles, at the center and 100 Å along x, and return the common options."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.coords").write_text("50 50 20\n60 50 20\n")
    rows = (f"{i + 1} {d} {d - 1000} 30 0 0.1 9" for i, d in enumerate(DEFOCI))
    (folder / f"{name}_ctffind.txt").write_text("# CTFFIND\n" + "\n".join(rows) + "\n")
    return folder / f"{name}.coords"


ANGLES = np.array([-40.0, -20.0, 0.0, 20.0])
DEFOCI = np.array([30000.0, 31000, 32000, 33000])


def prepared(path: Path, out: Path, *words: str) -> tuple[TiltTable, TiltTable]:
    start = ["prepare_ctf", str(path), "-o", str(out), "--apix", "10", "--tomo-size", "100", "100", "40"]
    assert main([*start, "--hand", "-1", "--clip-sigma", "0", "--workers", "1", *words]) == 0
    names = read_particles(out / "all.star").strings("rlnCtfImage")
    one, other = (read_relion_table((out / name).with_suffix(".star")) for name in names)
    return one, other


def test_ctf_tables_from_an_mdoc(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = coords(tmp_path / "t")
    text = mdoc(ANGLES, np.array([9.0, 4, 2, 6]), np.arange(4))
    (tmp_path / "t" / "TS_1.mrc.mdoc").write_text(text)
    center, right = prepared(path, tmp_path / "out")
    np.testing.assert_allclose(center.tilt_deg, -ANGLES, atol=1e-6)
    np.testing.assert_allclose(center.defocus_u_A, DEFOCI, atol=1e-3)
    np.testing.assert_allclose(right.defocus_u_A - DEFOCI, 100 * np.sin(np.deg2rad(ANGLES)), atol=1e-3)
    np.testing.assert_allclose(center.bfactor_A2, [36, 16, 8, 24])
    # the axis of the raw image, in which CTFFIND measured the azimuth, is the slice's y
    np.testing.assert_allclose(center.astigmatism_deg, 30 - AXIS_DEG, atol=1e-4)
    assert "note:" not in capsys.readouterr().out
    (tmp_path / "t" / "TS_1.mrc.mdoc").write_text(text.replace("ExposureDose = 1", "ExposureDose = 0"))
    again, _ = prepared(path, tmp_path / "out", "--dose", "2.5")
    assert sorted(again.bfactor_A2) == [10, 20, 30, 40]
    assert "no dose was recorded; each exposure adds 2.5 e/Å²" in capsys.readouterr().out


def test_pixel_size_and_flipped_volumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The pixel size of SerialEM is used if there is no other, and possibly exchanged axes are mentioned."""
    path = coords(tmp_path / "t")
    (tmp_path / "t" / "TS_1.mdoc").write_text(mdoc(ANGLES, np.array([9.0, 4, 2, 6]), np.arange(4)))
    words = [str(path), "-o", str(tmp_path / "out"), "--hand", "-1", "--workers", "1"]
    assert main(["prepare_ctf", *words, "--tomo-size", "100", "100", "40"]) == 0
    assert "PixelSpacing, 4 Å, is used as the pixel size of the tomogram" in capsys.readouterr().out
    assert read_particles(tmp_path / "out" / "all.star").pixel_sizes() == pytest.approx([4, 4])
    write_volume(tmp_path / "t" / "TS_1_Vol.mrc", np.zeros((30, 12, 40), np.int8), 10.0)
    assert main(["prepare_ctf", *words]) == 0
    said = capsys.readouterr().out
    assert "TS_1_Vol.mrc: the third axis is longer than the second" in said and "PixelSpacing" not in said


def test_ctf_tables_from_a_tomostar(tmp_path: Path) -> None:
    """Its angles have the sign of CTF tables, those of .tlt that of IMOD; doses are matched by angle."""
    path = coords(tmp_path / "t")
    head = "data_\n\nloop_\n_wrpMovieName\n_wrpAngleTilt\n_wrpAxisAngle\n_wrpDose\n"
    rows = [f"../f/{i}.tif {-t} {AXIS_DEG} {d}" for i, (t, d) in enumerate(zip(ANGLES, (9, 3, 0, 6), strict=True))]
    (tmp_path / "t" / "TS_1.tomostar").write_text(head + "\n".join(rows) + "\n")
    center, right = prepared(path, tmp_path / "out")
    np.testing.assert_allclose(center.tilt_deg, -ANGLES, atol=1e-6)
    np.testing.assert_allclose(right.defocus_u_A - DEFOCI, 100 * np.sin(np.deg2rad(ANGLES)), atol=1e-3)
    np.testing.assert_allclose(center.bfactor_A2, [36, 12, 0, 24])
    (tmp_path / "t" / "TS_1.tlt").write_text("\n".join(str(t + 0.2) for t in ANGLES) + "\n")
    again, _ = prepared(path, tmp_path / "out2")
    np.testing.assert_allclose(again.bfactor_A2, [36, 12, 0, 24])
    np.testing.assert_allclose(again.tilt_deg, -ANGLES - 0.2, atol=1e-6)


def test_two_columns_of_tilt_angles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = coords(tmp_path / "t")
    (tmp_path / "t" / "TS_1.tlt").write_text("-40 4\n-20 2\n0 1\n20 3\n")
    center, _ = prepared(path, tmp_path / "out", "--dose", "2")
    np.testing.assert_allclose(center.bfactor_A2, [32, 16, 8, 24])
    assert "note:" not in capsys.readouterr().out
    (tmp_path / "t" / "TS_1.tlt").write_text("-40\n-20\n0\n20\n")
    assert not prepared(path, tmp_path / "out")[0].bfactor_A2.any()
    assert "no file states the doses of TS_1" in capsys.readouterr().out


def test_a_real_alignment_of_aretomo_1(shared_data: Path, tmp_path: Path) -> None:
    """Sections run against the tilts: defoci of the raw stack, 100 Å more from section to section, are turned round."""
    folder = tmp_path / "t"
    path = coords(folder)
    (folder / "TS_1.aln").write_bytes((shared_data / "star_real" / "aretomo1_model_5.aln").read_bytes())
    rows = (f"{i + 1} {20000 + 100 * i} {20000 + 100 * i} 0 0 0.1 9" for i in range(61))
    (folder / "TS_1_ctffind.txt").write_text("# CTFFIND\n" + "\n".join(rows) + "\n")
    center, _ = prepared(path, tmp_path / "out")
    assert center.tilt_deg[[0, -1]].tolist() == [59.99, -59.99]
    np.testing.assert_allclose(center.defocus_u_A, 26000 - 100 * np.arange(61))


def test_errors(series: Series, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "t"
    folder.mkdir()
    words = ["--tilts", str(folder), "--box", "20", "--apix", "8", "--tomo-size", *map(str, VOLUME), "--workers", "1"]

    def said(*more: str) -> str:
        start = ["extract_subtomos", str(series.folder / "p.star"), "-o", str(tmp_path / "out"), *words]
        assert main([*start, *more]) == 1
        message = capsys.readouterr().err
        assert message.count("\n") == 1 and not (tmp_path / "out").exists()
        return message

    assert "there is no TS_1.tlt, TS_1.aln, TS_1.tomostar or TS_1.mdoc" in said()
    for name in ("TS_1.mdoc", "TS_1_ctffind.txt"):
        (folder / name).write_bytes((series.folder / name).read_bytes())
    assert "TS_1.mdoc: the file has the tilts of TS_1 but no alignment. Put TS_1.aln" in said()
    (folder / "TS_1.aln").write_bytes((series.folder / "TS_1.aln").read_bytes())
    assert "does not list the images of TS_1. Give their folder with --images" in said("--series-apix", "4")
    write_volume(folder / "TS_1.st", np.zeros((3, 40, 40), np.float32), 4.0)
    assert f"TS_1.st: the stack has 3 sections, but {folder / 'TS_1.aln'} refers to a raw stack of 32" in said(
        "--series-apix", "4", "--images", str(folder)
    )
    (folder / "TS_1.mdoc").unlink()
    (folder / "TS_1.order").write_text("1\n")
    assert "Give it with --series-apix" in said()
    (folder / "TS_1_ctffind.txt").write_text("# CTFFIND\n1 20000 20000 0 0 0.1 9\n")
    (folder / "TS_1.order").write_text("".join(f"{t - ALPHA_DEG} 1\n" for t in TILTS))
    assert "TS_1_ctffind.txt: there are 1 lines but 32 tilts" in said("--series-apix", "4")
    for command in (["prepare_ctf", "-o", str(tmp_path / "out")], ["check"]):
        for name in ("TS_1.aln", "TS_1.mdoc"):
            assert main([*command, str(folder / name)]) == 1
            assert "describes a tilt series, not particles" in capsys.readouterr().err
