"""Tables put one after the other."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opustomo.convert.combine import combine
from opustomo.errors import UserError
from opustomo.io.star import ParticleStar, read_particles
from tests.convert.tables import FILES, loop, star_of

MODERN = "ImageName AngleRot OriginXAngst OriginYAngst OriginZAngst OpticsGroup RandomSubset"
GROUPS = ("one 1.5 300", "one 2.5 300", "two 1.5 200", "three 4 300")


def modern(folder: Path, name: str, groups: list[int], rows: list[tuple[int, float]]) -> ParticleStar:
    """A 3.1 table; a row is (place of its group in the optics table, origin x)."""
    optics = loop(
        "optics",
        "OpticsGroup OpticsGroupName ImagePixelSize Voltage",
        *(f"{number} {GROUPS[group]}" for number, group in enumerate(groups, 1)),
    )
    lines = [f"{name}{i} 1 {x} 0 0 {place + 1} {1 + i % 2}" for i, (place, x) in enumerate(rows)]
    return star_of(folder, loop("particles", MODERN, *lines) + optics, f"{name}.star")


@st.composite
def contents(draw: st.DrawFn) -> tuple[list[int], list[tuple[int, float]]]:
    groups = draw(st.lists(st.sampled_from([0, 2, 3]) | st.sampled_from([1]), min_size=1, max_size=3, unique=True))
    origin = st.floats(-50, 50).map(lambda number: round(number, 3))
    rows = draw(st.lists(st.tuples(st.integers(0, len(groups) - 1), origin), min_size=1, max_size=5))
    return groups, rows


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents(), contents(), contents())
def test_optics_are_merged_and_renumbered(tmp_path: Path, one: tuple, two: tuple, three: tuple) -> None:
    """Pixel size, voltage, origin in pixels and half-set of every particle stay, in the order of the tables."""
    stars = [modern(tmp_path, name, *content) for name, content in zip("abc", (one, two, three), strict=True)]
    result = combine(stars)
    result.star.write(tmp_path / "out.star")
    found = read_particles(tmp_path / "out.star")
    assert list(found.blocks) == ["optics", "particles"]
    optics = found.blocks["optics"]
    assert list(optics["rlnOpticsGroup"]) == [str(number) for number in range(1, len(optics) + 1)]
    assert len(set(optics["rlnOpticsGroupName"])) == len(optics)
    used = {group for groups, _ in (one, two, three) for group in groups}
    assert len(optics) == len(used)
    for method in ("pixel_sizes", "origins_px"):
        expected = np.concatenate([getattr(star, method)() for star in stars])
        np.testing.assert_allclose(getattr(found, method)(), expected, atol=1e-6)
    for column in ("rlnImageName", "rlnRandomSubset", "rlnOriginXAngst"):
        assert found.strings(column) == [value for star in stars for value in star.strings(column)]


def test_relion30_joins_relion31(tmp_path: Path) -> None:
    new = modern(tmp_path, "new", [0, 3], [(0, 3.0), (1, 4.0)])
    columns = "ImageName AngleRot OriginX OriginY OriginZ Magnification DetectorPixelSize Voltage Extra"
    old = star_of(
        tmp_path, loop("", columns, "o1 7 2 0 -1 10000 1.5 300.000 x", "o2 8 1 0 0 5000 1.0 200 y"), "old.star"
    )
    for stars in ([new, old], [old, new]):
        found = combine(stars)
        star = found.star
        places = {name: row for row, name in enumerate(star.strings("rlnImageName"))}
        order = [places[name] for name in ("new0", "new1", "o1", "o2")]
        np.testing.assert_allclose(star.numbers("rlnOriginXAngst")[order], [3, 4, 3, 2])
        np.testing.assert_allclose(star.origins_px()[order], [[2, 0, 0], [1, 0, 0], [2, 0, -1], [1, 0, 0]])
        assert np.array(star.strings("rlnExtra"))[order].tolist() == ["None", "None", "x", "y"]
        assert np.array(star.strings("rlnRandomSubset"))[order].tolist() == ["1", "2", "0", "0"]
        groups = np.array(star.strings("rlnOpticsGroup"))[order]
        # the old particles of 1.5 Å and 300 kV are of the group that is like them
        assert groups[0] == groups[2]
        assert len(set(groups)) == 3
        assert "rlnOriginX" not in star
        assert any("rlnExtra" in note for note in found.notes)
        np.testing.assert_allclose(star.numbers("rlnDetectorPixelSize")[order], [1.5, 4, 1.5, 1.0])


def test_tomograms_and_premultiplication_of_different_versions(tmp_path: Path) -> None:
    """Either column names the tomogram; a table that says nothing of it is not multiplied by the CTF."""
    optics = loop("optics", "OpticsGroup OpticsGroupName ImagePixelSize CtfDataAreCtfPremultiplied", "1 a 4 1")
    four = star_of(tmp_path, optics + loop("particles", "ImageName TomoName OpticsGroup", "x TS_1 1"), "4.star")
    columns = "ImageName MicrographName DetectorPixelSize Magnification"
    three = star_of(tmp_path, loop("", columns, "y 'TS 2.mrc' 4 10000"), "3.star")
    found = combine([four, three]).star
    assert found.strings("rlnTomoName") == ["TS_1", "TS 2.mrc"] == found.strings("rlnMicrographName")
    flags = found.value_per_particle("rlnCtfDataAreCtfPremultiplied")
    assert flags is not None and flags.tolist() == [1, 0]


def test_old_tables_stay_old(tmp_path: Path) -> None:
    one = star_of(tmp_path, loop("", "ImageName AngleRot OriginX", "a 1 2.50"), "a.star")
    two = star_of(tmp_path, loop("images", "AngleRot ImageName OriginXAngst PixelSize", "1 b 6 3"), "b.star")
    result = combine([one, two]).star
    assert result.particle_block == ""
    assert result.strings("rlnImageName") == ["a", "b"]
    assert result.strings("rlnOriginX") == ["2.50", "2.000000"]


def test_duplicates_are_told_and_left_out_if_asked(tmp_path: Path) -> None:
    one = star_of(tmp_path, loop("", "ImageName AngleRot", "a 1", "b 2"), "a.star")
    two = star_of(tmp_path, loop("", "ImageName AngleRot", "c 1", "b 9", "a 1"), "b.star")
    kept = combine([one, two])
    assert len(kept.star) == kept.count_in == 5
    assert any(note.startswith("2 duplicates (kept") and note.endswith("example a") for note in kept.notes)
    dropped = combine([one, two], drop_duplicates=True)
    assert dropped.count_in == 5
    assert dropped.star.strings("rlnImageName") == ["a", "b", "c"]
    assert dropped.star.strings("rlnAngleRot") == ["1", "2", "1"]


def test_missing_aberrations_are_none(tmp_path: Path) -> None:
    optics = "OpticsGroup OpticsGroupName ImagePixelSize BeamTiltX MagMat00 MagMat01 OddZernike Voltage"
    one = star_of(
        tmp_path,
        loop("particles", "ImageName OpticsGroup", "a 1") + loop("optics", optics, "1 x 2 0.5 1.1 0.1 [1,2] 300"),
    )
    two = star_of(
        tmp_path,
        loop("particles", "ImageName OpticsGroup", "b 1")
        + loop("optics", "OpticsGroup OpticsGroupName ImagePixelSize", "1 y 4"),
        "b.star",
    )
    table = combine([one, two]).star.blocks["optics"]
    assert table.iloc[1].tolist() == ["2", "y", "4", "0.000000", "1.000000", "0.000000", "[0,0]", "300"]


def test_mistakes(tmp_path: Path) -> None:
    places = "CenteredCoordinateXAngst CenteredCoordinateYAngst CenteredCoordinateZAngst TomoName"
    centred = star_of(tmp_path, loop("particles", places, "1 2 3 t"), "c.star")
    pixels = star_of(tmp_path, loop("", "CoordinateX CoordinateY CoordinateZ ImageName", "1 2 3 t"), "p.star")
    for stars in ([centred, pixels], [pixels, centred]):
        with pytest.raises(UserError, match="bring them into one form with dsdsh convert_relion5"):
            combine(stars)
    with pytest.raises(UserError, match=r"p.star: tells no pixel size"):
        combine([modern(tmp_path, "m", [0], [(0, 1.0)]), star_of(tmp_path, loop("", "ImageName", "t"))])
    angst = star_of(tmp_path, loop("", "ImageName OriginXAngst", "t 1"), "a.star")
    with pytest.raises(UserError, match=r"a.star: origins are in Å, .* no pixel size is told; add rlnPixelSize"):
        combine([star_of(tmp_path, loop("", "ImageName OriginX", "t 1")), angst])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("other", ["relion31_57", "relion30_origins_6"])
def test_real_files(shared_data: Path, tmp_path: Path, name: str, other: str) -> None:
    stars = [read_particles(shared_data / "star" / f"{file}.star") for file in (name, other)]
    if name == "relion5_3d_5":
        with pytest.raises(UserError, match="convert_relion5"):
            combine(stars)
        return
    combine(stars).star.write(tmp_path / "o.star")
    found = read_particles(tmp_path / "o.star")
    assert len(found) == len(stars[0]) + len(stars[1])
    np.testing.assert_allclose(found.origins_px(), np.concatenate([star.origins_px() for star in stars]), atol=1e-5)
    np.testing.assert_allclose(found.eulers_deg(), np.concatenate([star.eulers_deg() for star in stars]))
