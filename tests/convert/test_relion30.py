"""Conversion of tables of any RELION version to RELION 3.0."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opustomo.convert.relion30 import first_copies, rows_with_label, to_relion30
from opustomo.errors import UserError
from opustomo.io.star_tables import read_particles
from tests.convert.tables import FILES, loop, star_of

NUMBER = st.floats(-2000, 2000).map(lambda number: round(number, 3))
ROW = st.tuples(*[NUMBER] * 6, st.sampled_from("12"), st.integers(1, 2))
SIZE = st.floats(0.7, 20)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ROW, min_size=1, max_size=5), SIZE, st.none() | SIZE, st.booleans())
def test_places_stay_where_they_are(
    tmp_path: Path, rows: list[tuple], apix: float, target: float | None, angst: bool
) -> None:
    """Coordinate minus origin, in Å, is the same before and after; so are half-sets, optics and unknown columns."""
    kind = "Angst" if angst else ""
    columns = f"CoordinateX CoordinateY CoordinateZ OriginX{kind} OriginY{kind} OriginZ{kind} RandomSubset OpticsGroup"
    lines = [" ".join(map(str, row)) + f" keep{index} 0.50" for index, row in enumerate(rows)]
    optics = loop("optics", f"OpticsGroup ImagePixelSize Voltage {'_myOwn'}", f"1 {apix} 300.0 a", f"2 {apix} 200.0 b")
    star = star_of(tmp_path, loop("particles", columns + " Unknown AngleRot", *lines) + optics)
    result = to_relion30(star, apix, target)
    result.star.write(tmp_path / "out.star")
    found = read_particles(tmp_path / "out.star")
    numbers = np.array([row[:6] for row in rows], dtype=float)
    before = numbers[:, :3] * apix - numbers[:, 3:] * (1.0 if angst else apix)
    out = apix if target is None else target
    sizes = found.pixel_sizes()
    assert sizes is not None
    np.testing.assert_allclose(sizes, out, rtol=1e-5)
    coordinates = np.stack([found.numbers(f"rlnCoordinate{axis}") for axis in "XYZ"], axis=1)
    np.testing.assert_allclose((coordinates - found.origins_px()) * out, before, atol=2e-6 * out)
    assert found.strings("rlnRandomSubset") == [row[6] for row in rows]
    assert found.strings("rlnVoltage") == [("300.0", "200.0")[row[7] - 1] for row in rows]
    assert found.strings("myOwn") == ["ab"[row[7] - 1] for row in rows]
    assert found.strings("rlnUnknown") == [f"keep{index}" for index in range(len(rows))]
    assert found.strings("rlnAngleRot") == ["0.50"] * len(rows)
    assert not any("Angst" in column for column in found.particles)
    assert list(found.blocks) == [""]


def test_what_needs_no_change_stays_to_the_character(tmp_path: Path) -> None:
    text = loop("", "ImageName CoordinateX OriginX OriginY RandomSubset Magnification", "a 1.50 0.25 -3 02 1e4")
    result = to_relion30(star_of(tmp_path, text + loop("other", "A", "1")), 2.0)
    row = result.star.particles.iloc[0].to_dict()
    kept = ("rlnImageName", "rlnCoordinateX", "rlnOriginX", "rlnOriginY", "rlnRandomSubset")
    assert [row[column] for column in kept] == ["a", "1.50", "0.25", "-3", "02"]
    assert row["rlnDetectorPixelSize"] == "2"
    assert "other" in result.star.blocks
    assert not result.notes


def test_a_wrong_pixel_size_is_reported(tmp_path: Path) -> None:
    result = to_relion30(star_of(tmp_path, loop("", "AngleRot PixelSize", "1 4.0")), 2.0)
    assert result.notes == ("the file states a pixel size of 4 Å, not 2 Å",)


def test_every_pixel_size_is_reported(tmp_path: Path) -> None:
    sizes = (4.0, 4.5, 5.0, 5.5, 6.25)
    optics = "OpticsGroup ImagePixelSize TomoTiltSeriesPixelSize"
    rows = [f"{number} {size} {size / 2}" for number, size in enumerate(sizes, 1)]
    particles = [f"1 {number} 1 2 3" for number in range(1, 6)]
    text = loop("optics", optics, *rows)
    text += loop("particles", "AngleRot OpticsGroup CoordinateX CoordinateY CoordinateZ", *particles)
    found = to_relion30(star_of(tmp_path, text), 4.0)
    assert any("a pixel size of 4, 4.5, 5, 5.5 and 6.25 Å, not 4 Å" in note for note in found.notes)
    assert any("of the tilt series, 2, 2.25, 2.5, 2.75 and 3.125 Å" in note for note in found.notes)


def test_pixel_size_of_pytom_match_pick(tmp_path: Path) -> None:
    """`rlnDetectorPixelSize` without a magnification is the pixel size in Å."""
    star = star_of(tmp_path, loop("", "CoordinateX CoordinateY CoordinateZ DetectorPixelSize", "1 2 3 20.712"))
    assert star.pixel_sizes().tolist() == [20.712]  # type: ignore[union-attr]
    assert to_relion30(star, 20.712).notes == ()
    assert to_relion30(star, 10.0).notes == ("the file states a pixel size of 20.712 Å, not 10 Å",)


def test_the_optics_table_decides_about_the_microscope(tmp_path: Path) -> None:
    """Rows of 0 kV, which an earlier version wrote, with optics of 300 kV."""
    optics = loop("optics", "OpticsGroup ImagePixelSize Voltage SphericalAberration", "1 4 300 2.7")
    columns = "ImageName OpticsGroup Voltage SphericalAberration"
    star = star_of(tmp_path, optics + loop("particles", columns, "a 1 0 0", "b 1 300.000 2.7"))
    found = to_relion30(star, 4.0)
    assert found.star.strings("rlnVoltage") == ["300", "300.000"]
    assert found.star.strings("rlnSphericalAberration") == ["2.7", "2.7"]
    assert any("rlnVoltage of 1 rows of" in note for note in found.notes)
    bare = to_relion30(star_of(tmp_path, loop("", "ImageName Voltage", "a 300", "b 0")), 4.0)
    assert any("rlnVoltage is 0 in 1 rows, the first is row 2" in note for note in bare.notes)


def test_copies_and_labels(tmp_path: Path) -> None:
    star = star_of(
        tmp_path, loop("", "ImageName RandomSubset ClassNumber", "a 1 1", "b 2 3", "a 1 2", "c 1 3", "b 2 3")
    )
    assert first_copies(star).tolist() == [0, 1, 3]
    assert rows_with_label(star, "1").tolist() == [0, 2, 3]
    assert rows_with_label(star, "rlnClassNumber=3").tolist() == [1, 3, 4]
    assert rows_with_label(star, "_rlnImageName=b").tolist() == [1, 4]
    with pytest.raises(UserError, match=r"no particle has rlnClassNumber 7, only 1, 2, 3"):
        rows_with_label(star, "rlnClassNumber=7")
    places = star_of(
        tmp_path, loop("", "MicrographName CoordinateX CoordinateY CoordinateZ", "t 1 2 3", "u 1 2 3", "t 1.0 2 3")
    )
    assert first_copies(places).tolist() == [0, 1]
    with pytest.raises(UserError, match="copies of a particle cannot be recognized"):
        first_copies(star_of(tmp_path, loop("", "AngleRot", "1")))


@pytest.mark.parametrize("name", FILES)
def test_real_files(shared_data: Path, name: str) -> None:
    star = read_particles(shared_data / "star" / f"{name}.star")
    sizes = star.pixel_sizes()
    assert sizes is not None
    found = to_relion30(star, float(sizes[0])).star
    assert len(found) == len(star)
    np.testing.assert_allclose(found.origins_px(), star.origins_px(float(sizes[0])), atol=1e-6)
    for column in set(star.particles) - {
        "rlnImagePixelSize",
        "rlnPixelSize",
        "rlnDetectorPixelSize",
        "rlnMagnification",
    }:
        if "Angst" not in column or "Origin" not in column:
            assert found.strings(column) == star.strings(column)


def test_relion4_coordinates_are_of_the_tilt_series(shared_data: Path) -> None:
    """Rescaling converts coordinates (unbinned) and origins to one pixel size; otherwise a note says so."""
    star = read_particles(shared_data / "star" / "relion4_300.star")
    kept = to_relion30(star, 10.632)
    assert kept.star.strings("rlnCoordinateX") == star.strings("rlnCoordinateX")
    assert kept.star.strings("rlnMicrographName") == star.strings("rlnTomoName")
    assert any("pixels of the tilt series, 1.329 Å" in note for note in kept.notes)
    for target in (10.632, 5.0):
        scaled = to_relion30(star, 10.632, target).star
        for axis in "XYZ":
            before = star.numbers(f"rlnCoordinate{axis}") * 1.329 - star.numbers(f"rlnOrigin{axis}Angst")
            after = (scaled.numbers(f"rlnCoordinate{axis}") - scaled.numbers(f"rlnOrigin{axis}")) * target
            np.testing.assert_allclose(after, before, atol=1e-4)
        assert set(scaled.strings("rlnTomoTiltSeriesPixelSize")) == {f"{target:g}"}
