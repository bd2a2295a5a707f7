"""Conversion of RELION 5 particle sets."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis_scripts.main import main
from opustomo.convert.conventions import compose_frames, relion_rotations
from opustomo.convert.relion5 import read_tomograms, to_pixels, to_relion5
from opustomo.errors import UserError
from opustomo.io.star import read_blocks
from opustomo.io.star_tables import ParticleStar, read_particles
from tests.convert.tables import FILES, loop, star_of

NUMBER = st.floats(-900, 900).map(lambda number: round(number, 4))
TRIPLE = st.tuples(NUMBER, NUMBER, NUMBER)
ROWS = st.lists(st.tuples(TRIPLE, TRIPLE, TRIPLE, TRIPLE, st.integers(0, 1)), min_size=1, max_size=5)
HERE = settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
SIZE, SERIES = ((4000, 3000, 1501), (800, 600, 400)), (1.5, 3.105)
TOMOGRAMS = loop(
    "global",
    "TomoName TomoTiltSeriesPixelSize TomoSizeX TomoSizeY TomoSizeZ Voltage SphericalAberration AmplitudeContrast",
    *(f"TS_0{i + 1} {SERIES[i]} {' '.join(map(str, SIZE[i]))} 300 2.7 0.07" for i in range(2)),
)
PLACE = "CenteredCoordinateXAngst CenteredCoordinateYAngst CenteredCoordinateZAngst"
POSE = "AngleRot AngleTilt AnglePsi OriginXAngst OriginYAngst OriginZAngst"
FRAME = "TomoSubtomogramRot TomoSubtomogramTilt TomoSubtomogramPsi"
OPTICS = loop(
    "optics",
    "OpticsGroup OpticsGroupName TomoTiltSeriesPixelSize ImagePixelSize",
    f"1 a {SERIES[0]} 6",
    f"2 b {SERIES[1]} 12.42",
)


def tomograms(folder: Path):  # type: ignore[no-untyped-def]
    (folder / "tomograms.star").write_text(TOMOGRAMS)
    return read_tomograms(folder / "tomograms.star")


def relion5_set(folder: Path, rows: list[tuple], frames: bool) -> ParticleStar:
    columns = f"{PLACE} {POSE} TomoName OpticsGroup RandomSubset TomoParticleName Unknown" + f" {FRAME}" * frames
    lines = []
    for index, (place, angles, origin, frame, tomogram) in enumerate(rows):
        values = [*place, *angles, *origin, f"TS_0{tomogram + 1}", tomogram + 1, 1 + index % 2, f"n/{index}", "'a b'"]
        lines.append(" ".join(map(str, [*values, *(frame if frames else ())])))
    return star_of(
        folder, OPTICS + loop("particles", columns, *lines) + "data_general\n_rlnTomoSubTomosAre2DStacks 1\n"
    )


@HERE
@given(ROWS, st.booleans())
def test_to_pixels_and_back(tmp_path: Path, rows: list[tuple], frames: bool) -> None:
    star, known = relion5_set(tmp_path, rows, frames), tomograms(tmp_path)
    to_pixels(star, known, keep_frames=True).star.write(tmp_path / "pixels.star")
    pixels = read_particles(tmp_path / "pixels.star")
    for axis, name in enumerate("XYZ"):
        expected = [row[0][axis] / SERIES[row[4]] + SIZE[row[4]][axis] / 2 for row in rows]
        np.testing.assert_allclose(pixels.numbers(f"rlnCoordinate{name}"), expected, atol=1e-6)
    back = to_relion5(pixels, known).star
    for index, name in enumerate(PLACE.split()):
        np.testing.assert_allclose(back.numbers(f"rln{name}"), [row[0][index] for row in rows], atol=5e-6)
    kept = [name for name in star.particles if "Centered" not in name]
    assert back.particles[kept].to_numpy().tolist() == star.particles[kept].to_numpy().tolist()
    assert back.blocks["general"] == star.blocks["general"]
    assert next(iter(back.blocks)) == "optics"


@HERE
@given(ROWS)
def test_frames_are_composed(tmp_path: Path, rows: list[tuple]) -> None:
    """In the tomogram: rotation S A, position c − S o; compared with SciPy."""
    star, known = relion5_set(tmp_path, rows, True), tomograms(tmp_path)
    found = to_pixels(star, known).star
    outer = relion_rotations(np.array([row[3] for row in rows]))
    inner = relion_rotations(np.array([row[1] for row in rows]))
    matrices = relion_rotations(found.eulers_deg()).as_matrix()
    np.testing.assert_allclose(matrices, outer.as_matrix() @ inner.as_matrix(), atol=1e-6)
    shifts = np.einsum("nij,nj->ni", outer.as_matrix(), np.array([row[2] for row in rows]))
    origins = np.stack([found.numbers(f"rlnOrigin{axis}Angst") for axis in "XYZ"], axis=1)
    np.testing.assert_allclose(origins, shifts, atol=1e-5)
    assert not any("TomoSubtomogram" in name for name in found.particles)
    assert compose_frames(found) is found


@HERE
@given(ROWS, st.floats(1, 10).map(lambda size: round(size, 3)))
def test_warp_table_to_relion5(tmp_path: Path, rows: list[tuple], apix: float) -> None:
    """A RELION 3.0 table: place in Å from the corner, origin in Å, half-set, pixel size and microscope stay."""
    columns = "CoordinateX CoordinateY CoordinateZ AngleRot AngleTilt AnglePsi OriginX OriginY OriginZ MicrographName "
    lines = [
        " ".join(map(str, [*row[0], *row[1], *row[2]]))
        + f" F:\\\\x\\\\TS_0{row[4] + 1}.mrc.tomostar {apix} 10000 {1 + i % 2}"
        for i, row in enumerate(rows)
    ]
    star = star_of(tmp_path, loop("", columns + "DetectorPixelSize Magnification RandomSubset", *lines))
    to_relion5(star, tomograms(tmp_path)).star.write(tmp_path / "five.star")
    found = read_particles(tmp_path / "five.star")
    for axis, name in enumerate(PLACE.split()):
        expected = [row[0][axis] * apix - SIZE[row[4]][axis] / 2 * SERIES[row[4]] for row in rows]
        np.testing.assert_allclose(found.numbers(f"rln{name}"), expected, atol=1e-5)
    np.testing.assert_allclose(found.origins_px(), [row[2] for row in rows], atol=1e-5)
    sizes = found.pixel_sizes()
    assert sizes is not None
    np.testing.assert_allclose(sizes, apix, rtol=1e-5)
    series = found.value_per_particle("rlnTomoTiltSeriesPixelSize")
    assert series is not None
    np.testing.assert_allclose(series, [SERIES[row[4]] for row in rows])
    assert found.strings("rlnTomoName") == [f"TS_0{row[4] + 1}" for row in rows]
    names = found.strings("rlnTomoParticleName")
    assert len(set(names)) == len(rows)
    assert names[0] == f"TS_0{rows[0][4] + 1}/1"
    assert found.strings("rlnRandomSubset") == star.strings("rlnRandomSubset")
    optics = found.blocks["optics"]
    assert set(optics["rlnVoltage"]) == {"300"}
    assert set(optics["rlnAmplitudeContrast"]) == {"0.07"}
    assert not any(name in found for name in ("rlnOriginX", "rlnCoordinateX", "rlnVoltage"))
    again = to_pixels(found, tomograms(tmp_path)).star
    for axis, name in enumerate("XYZ"):
        expected = [row[0][axis] * apix / SERIES[row[4]] for row in rows]
        np.testing.assert_allclose(again.numbers(f"rlnCoordinate{name}"), expected, atol=1e-5)


def test_particles_outside_of_their_tomograms_are_said(tmp_path: Path) -> None:
    """As with coordinates of another binning, or the tomograms of another project."""
    table = loop("global", "TomoName TomoTiltSeriesPixelSize TomoSizeX TomoSizeY TomoSizeZ", "t 2 100 80 60")
    (tmp_path / "tomograms.star").write_text(table)
    known = read_tomograms(tmp_path / "tomograms.star")
    columns = "TomoName CoordinateX CoordinateY CoordinateZ PixelSize"
    inside, outside = "t 99 79 59 2", "t 50 81 30 2"
    assert to_relion5(star_of(tmp_path, loop("", columns, inside)), known).notes == ()
    notes = to_relion5(star_of(tmp_path, loop("", columns, inside, outside)), known).notes
    assert any("1 of 2 particles lie outside their tomograms, the first in row 2 at 50, 81, 30" in n for n in notes)
    centered = "TomoName CenteredCoordinateXAngst CenteredCoordinateYAngst CenteredCoordinateZAngst"
    assert to_pixels(star_of(tmp_path, loop("", centered, "t -99 79 -59")), known).notes == ()
    notes = to_pixels(star_of(tmp_path, loop("", centered, "t 101 0 0")), known).notes
    assert any("1 of 1 particles lie outside their tomograms" in note for note in notes)


@pytest.mark.parametrize(
    ("column", "value"), [("TomoSizeX", "-999"), ("TomoSizeZ", "0"), ("TomoTiltSeriesPixelSize", "-1.35")]
)
def test_tomograms_without_size(tmp_path: Path, column: str, value: str) -> None:
    """RELION writes -999 for the size of a tomogram that was not reconstructed."""
    names = "TomoName TomoTiltSeriesPixelSize TomoSizeX TomoSizeY TomoSizeZ".split()
    row = dict(zip(names, "TS_02 1.35 4000 3000 1000".split(), strict=True)) | {column: value}
    path = tmp_path / "tomograms.star"
    path.write_text(loop("global", " ".join(names), "TS_01 1.35 4000 3000 1000", " ".join(row.values())))
    with pytest.raises(UserError, match=rf"tomograms.star: rln{column} of row 2 \(TS_02\) is {value}, but"):
        read_tomograms(path)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An optimisation set in, a set with a new optimisation set out, names of columns of one tomogram too."""
    folder = tmp_path / "a project"
    folder.mkdir()
    relion5_set(folder, [((0.0, 0.0, 0.0), (1.0, 2.0, 3.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 0)], False)
    tomograms(folder)
    optimisation = folder / "optimisation_set.star"
    optimisation.write_text("data_\n_rlnTomoParticlesFile p.star\n_rlnTomoTomogramsFile tomograms.star\n")
    assert main(["convert_relion5", str(optimisation)]) == 0
    out = folder / "optimisation_set_pixels.star"
    assert f"Wrote 1 of 1 particles to {out}" in capsys.readouterr().out
    assert read_particles(out).strings("rlnCoordinateX") == ["2000.000000"]
    five = folder / "five.star"
    command = ["convert_relion5", str(out), "--tomograms", str(folder / "tomograms.star"), "-o", str(five)]
    assert main(command) == 0
    assert read_blocks(folder / "five_optimisation_set.star")[""] == {
        "rlnTomoParticlesFile": str(five),
        "rlnTomoTomogramsFile": str(folder / "tomograms.star"),
    }
    assert main(["convert_relion5", str(folder / "five_optimisation_set.star"), "-o", str(folder / "x.star")]) == 0
    for words, reason in (
        ([str(five)], "Give their tomograms.star"),
        ([str(five), "--to", "relion5"], "is a RELION 5 particle set already"),
        ([str(out), "--to", "pixels"], "has no column rlnCenteredCoordinateXAngst"),
        ([str(five), "--tomograms", str(five)], "a RELION 5 particle set .* but a RELION tomogram set"),
        ([str(five), "--tomograms", str(folder / "no.star")], "STAR file does not exist"),
    ):
        assert main(["convert_relion5", *words]) == 1
        said = capsys.readouterr().err
        assert re.search(reason, said), said
    (folder / "p.star").unlink()
    assert main(["convert_relion5", str(optimisation)]) == 1
    assert "p.star of rlnTomoParticlesFile does not exist" in capsys.readouterr().err


def test_errors(tmp_path: Path) -> None:
    known = tomograms(tmp_path)
    other = star_of(tmp_path, loop("", f"{PLACE} TomoName TomoTiltSeriesPixelSize", "1 2 3 TS_01 2.5"))
    with pytest.raises(UserError, match=r"the tilt series is 2\.5 Å in row 1, but .* states 1\.5 Å for TS_01"):
        to_pixels(other, known)
    lost = star_of(tmp_path, loop("", f"{PLACE} TomoName", "1 2 3 TS_09"))
    with pytest.raises(UserError, match=r"the tomogram TS_09 is not in .*tomograms\.star \(TS_01, TS_02\)"):
        to_pixels(lost, known)
    bare = star_of(tmp_path, loop("", "CoordinateX CoordinateY CoordinateZ MicrographName", "1 2 3 TS_01.mrc"))
    with pytest.raises(UserError, match=r"the pixel size is missing\. Give it with --angpix"):
        to_relion5(bare, known)
    assert to_relion5(bare, known, 3.0).star.numbers("rlnCenteredCoordinateXAngst")[0] == 3 - 3000
    (tmp_path / "t.star").write_text(TOMOGRAMS.split("TS_01")[0])
    with pytest.raises(UserError, match="has no rows"):
        read_tomograms(tmp_path / "t.star")


@pytest.mark.parametrize("name", FILES)
def test_real_files(shared_data: Path, tmp_path: Path, name: str) -> None:
    """Every real table goes to RELION 5 and back with its places, poses and other columns."""
    star = read_particles(shared_data / "star" / f"{name}.star")
    column = "rlnTomoName" if "rlnTomoName" in star else "rlnMicrographName"
    distinct = sorted(set(star.strings(column)))
    apix = 3.105 if name == "relion5_3d_5" else 1.329
    rows = [f"'{text}' {apix} 960 928 500" for text in distinct]
    (tmp_path / "t.star").write_text(loop("t", "TomoName TomoTiltSeriesPixelSize TomoSizeX TomoSizeY TomoSizeZ", *rows))
    known = read_tomograms(tmp_path / "t.star")
    if name == "relion31_6optics":
        with pytest.raises(UserError, match="no column rlnCoordinateZ"):
            to_relion5(star, known)
        return
    if name == "relion5_3d_5":
        star = to_pixels(star, known).star
    five = to_relion5(star, known).star
    five.write(tmp_path / "five.star")
    back = to_pixels(read_particles(tmp_path / "five.star"), known).star
    np.testing.assert_allclose(back.eulers_deg(), star.eulers_deg())
    np.testing.assert_allclose(back.origins_px(), star.origins_px(), atol=1e-5)
    assert len(back) == len(star)
    if name in ("relion4_300", "relion5_3d_5"):
        np.testing.assert_allclose(back.numbers("rlnCoordinateY"), star.numbers("rlnCoordinateY"), atol=1e-5)
