"""Combination of particle tables."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opustomo.convert.combine import combine
from opustomo.errors import UserError
from opustomo.io.mrc import write_volume
from opustomo.io.star_tables import ParticleStar, read_particles
from tests.convert.tables import FILES, loop, star_of

MODERN = "ImageName AngleRot OriginXAngst OriginYAngst OriginZAngst OpticsGroup RandomSubset"
GROUPS = ("one 1.5 300", "one 2.5 300", "two 1.5 200", "three 4 300")


def modern(folder: Path, name: str, groups: list[int], rows: list[tuple[int, float]]) -> ParticleStar:
    """Return a RELION 3.1 table with rows (index of the optics group, origin x)."""
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
    """Both columns name tomograms; a table without the column of premultiplication is not premultiplied."""
    optics = loop("optics", "OpticsGroup OpticsGroupName ImagePixelSize CtfDataAreCtfPremultiplied", "1 a 4 1")
    four = star_of(tmp_path, optics + loop("particles", "ImageName TomoName OpticsGroup", "x TS_1 1"), "4.star")
    columns = "ImageName MicrographName DetectorPixelSize Magnification"
    three = star_of(tmp_path, loop("", columns, "y 'TS 2.mrc' 4 10000"), "3.star")
    found = combine([four, three]).star
    assert found.strings("rlnTomoName") == ["TS_1", "TS 2.mrc"] == found.strings("rlnMicrographName")
    flags = found.value_per_particle("rlnCtfDataAreCtfPremultiplied")
    assert flags is not None and flags.tolist() == [1, 0]


def test_old_tables_stay_old(tmp_path: Path) -> None:
    one = star_of(tmp_path, loop("", "ImageName AngleRot OriginX PixelSize", "a 1 2.50 4"), "a.star")
    two = star_of(tmp_path, loop("images", "AngleRot ImageName OriginXAngst PixelSize", "1 b 6 3"), "b.star")
    result = combine([one, two]).star
    assert result.particle_block == ""
    assert result.strings("rlnImageName") == ["a", "b"]
    assert result.strings("rlnOriginX") == ["2.50", "2.000000"]


def test_rows_of_other_tables_get_the_microscope_of_their_optics_group(tmp_path: Path) -> None:
    """A RELION 3.0 table has voltage and Cs in its rows; rows of later tables must not get 0."""
    old = star_of(
        tmp_path,
        loop("", "ImageName DetectorPixelSize Magnification Voltage SphericalAberration", "o 5 10000 300.0 2.7"),
        "old.star",
    )
    optics = "OpticsGroup OpticsGroupName ImagePixelSize Voltage SphericalAberration AmplitudeContrast"
    new = star_of(
        tmp_path,
        loop("optics", optics, "1 a 4 300.000 2.700 0.1", "2 b 3 200 2.0 0.07")
        + loop("particles", "ImageName OpticsGroup", "x 1", "y 2"),
        "new.star",
    )
    with pytest.raises(
        UserError, match=r"old.star: rlnAmplitudeContrast is missing, and it is 0.1 and 0.07 in .*. Add"
    ):
        combine([old, new])
    new = new.subset([0, 1])
    new.blocks["optics"]["rlnAmplitudeContrast"] = "0.1"
    for order in ([old, new], [new, old]):
        star = combine(order).star
        places = [star.strings("rlnImageName").index(name) for name in "oxy"]
        assert star.numbers("rlnVoltage")[places].tolist() == [300, 300, 200]
        assert star.numbers("rlnSphericalAberration")[places].tolist() == [2.7, 2.7, 2.0]


def test_rows_that_contradict_the_optics_table_follow_it(tmp_path: Path) -> None:
    optics = loop("optics", "OpticsGroup ImagePixelSize Voltage SphericalAberration", "1 4 300 2.7")
    columns = "ImageName OpticsGroup Voltage SphericalAberration"
    one = star_of(tmp_path, optics + loop("particles", columns, "a 1 0 0", "b 1 300.00 2.7"), "one.star")
    two = star_of(tmp_path, optics + loop("particles", columns, "c 1 0 2.7"), "two.star")
    found = combine([one, two])
    assert found.star.strings("rlnVoltage") == ["300", "300.00", "300"]
    assert found.star.strings("rlnSphericalAberration") == ["2.7", "2.7", "2.7"]
    assert any("rlnVoltage of 1 rows of" in note and "one.star" in note for note in found.notes)


def test_a_voltage_of_0_is_said(tmp_path: Path) -> None:
    star = star_of(tmp_path, loop("", "ImageName PixelSize Voltage", "a 4 300", "b 4 0"))
    assert any("rlnVoltage is 0 in 2 rows, the first is row 2" in note for note in combine([star, star]).notes)


def test_old_tables_without_voltage(tmp_path: Path) -> None:
    """Without optics tables the voltage of the others is taken if they agree; 0 kV is never written."""
    tables = [
        star_of(tmp_path, loop("", "ImageName PixelSize Voltage", f"{name} 4 {kv}"), f"{name}.star")
        for name, kv in (("a", "300"), ("b", "300.0"), ("c", "200"))
    ]
    bare = star_of(tmp_path, loop("", "ImageName PixelSize", "d 4"), "d.star")
    found = combine([*tables[:2], bare])
    assert found.star.numbers("rlnVoltage").tolist() == [300, 300, 300]
    assert any(note.endswith("d.star has no rlnVoltage; missing values are filled with 300") for note in found.notes)
    with pytest.raises(
        UserError, match=r"d.star: rlnVoltage is missing, and it is 300 and 200 in the other tables. Add"
    ):
        combine([*tables, bare])


def test_microscope_in_the_rows_of_a_table_with_optics_groups(tmp_path: Path) -> None:
    """Values in rows belong to the optics group of these rows if the optics table lacks them."""
    optics = loop("optics", "OpticsGroup OpticsGroupName ImagePixelSize", "1 a 4")
    rows = star_of(
        tmp_path, optics + loop("particles", "ImageName OpticsGroup Voltage", "x 1 200", "z 1 200"), "r.star"
    )
    other = star_of(
        tmp_path,
        loop("optics", "OpticsGroup OpticsGroupName ImagePixelSize Voltage", "1 a 4 300")
        + loop("particles", "ImageName OpticsGroup", "y 1"),
        "o.star",
    )
    star = combine([rows, other]).star
    assert star.blocks["optics"]["rlnVoltage"].tolist() == ["200", "300"]
    voltages = star.value_per_particle("rlnVoltage")
    assert voltages is not None and voltages.tolist() == [200, 200, 300]
    mixed = rows.subset([0, 1])
    mixed.particles.loc[1, "rlnVoltage"] = "300"
    with pytest.raises(
        UserError, match=r"r.star: rows 1 and 2 belong to the optics group 1, but their rlnVoltage is 200 and 300"
    ):
        combine([mixed, other])


def test_no_pixel_size_is_invented(tmp_path: Path) -> None:
    """A table without pixel size is refused next to one with it."""
    picks = "OpticsGroup OpticsGroupName Voltage TomoTiltSeriesPixelSize"
    columns = "TomoName CoordinateX CoordinateY CoordinateZ OpticsGroup"
    four = star_of(tmp_path, loop("optics", picks, "1 a 300 1.17") + loop("particles", columns, "t 1 2 3 1"), "4.star")
    images = modern(tmp_path, "m", [0], [(0, 1.0)])
    for order in ([four, images], [images, four]):
        with pytest.raises(
            UserError, match=r"4.star: the pixel size of the images is missing, but .*m.star has one. Add"
        ):
            combine(order)
    old = star_of(tmp_path, loop("", "ImageName AngleRot PixelSize", "a 1 4"), "a.star")
    with pytest.raises(
        UserError, match=r"b.star: the pixel size of the images is missing, but .*a.star has one. Add rlnPixel"
    ):
        combine([old, star_of(tmp_path, loop("", "ImageName AngleRot", "b 1"), "b.star")])

    # picks alone: the pixels of the coordinates are all that there is
    pytom = star_of(
        tmp_path,
        loop("", "MicrographName CoordinateX CoordinateY CoordinateZ DetectorPixelSize", "u 1 2 3 20.7"),
        "pytom.star",
    )
    for order in ([four, pytom], [pytom, four]):
        found = combine(order)
        optics = found.star.blocks["optics"]
        rows = found.star.optics_rows()
        first = found.star.strings("rlnMicrographName").index("t")
        for row, size in ((first, 1.17), (1 - first, 20.7)):
            group = optics.iloc[rows[row]]
            assert float(group["rlnImagePixelSize"]) == float(group["rlnTomoTiltSeriesPixelSize"]) == size
            assert float(group["rlnTomoSubtomogramBinning"]) == 1
        assert found.star.numbers("rlnDetectorPixelSize").tolist() == [(1.17, 20.7)[index != first] for index in (0, 1)]
        assert any("4.star has no images; the pixel size of its coordinates, 1.17 Å" in note for note in found.notes)


def test_binning_follows_from_a_groups_own_pixel_sizes(tmp_path: Path) -> None:
    columns = "ImageName OpticsGroup"
    own = "OpticsGroup OpticsGroupName TomoTiltSeriesPixelSize ImagePixelSize"
    one = star_of(
        tmp_path,
        loop("optics", own + " TomoSubtomogramBinning", "1 a 2 8 4") + loop("particles", columns, "x 1"),
        "1.star",
    )
    two = star_of(tmp_path, loop("optics", own, "1 b 3 6") + loop("particles", columns, "y 1"), "2.star")
    three = star_of(
        tmp_path,
        loop("optics", "OpticsGroup OpticsGroupName TomoTiltSeriesPixelSize TomoSubtomogramBinning", "1 c 1.5 2")
        + loop("particles", columns, "z 1"),
        "3.star",
    )
    star = combine([one, two, three]).star
    assert star.blocks["optics"]["rlnTomoSubtomogramBinning"].astype(float).tolist() == [4, 2, 2]
    assert star.blocks["optics"]["rlnImagePixelSize"].astype(float).tolist() == [8, 6, 3]


def test_values_taken_from_an_equal_group_are_said(tmp_path: Path) -> None:
    optics = "OpticsGroup OpticsGroupName ImagePixelSize"
    columns = "ImageName OpticsGroup"
    one = star_of(tmp_path, loop("optics", optics, "1 a 4") + loop("particles", columns, "x 1"), "one.star")
    two = star_of(
        tmp_path, loop("optics", optics + " Voltage", "1 a 4 300") + loop("particles", columns, "y 1"), "two.star"
    )
    found = combine([one, two])
    assert len(found.star.blocks["optics"]) == 1
    assert any("one.star has no rlnVoltage for the optics group a; rlnVoltage 300 of" in note for note in found.notes)


def test_duplicates_are_reported_and_left_out_if_asked(tmp_path: Path) -> None:
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


def test_errors(tmp_path: Path) -> None:
    places = "CenteredCoordinateXAngst CenteredCoordinateYAngst CenteredCoordinateZAngst TomoName"
    centered = star_of(tmp_path, loop("particles", places, "1 2 3 t"), "c.star")
    pixels = star_of(tmp_path, loop("", "CoordinateX CoordinateY CoordinateZ ImageName", "1 2 3 t"), "p.star")
    for stars in ([centered, pixels], [pixels, centered]):
        with pytest.raises(UserError, match="convert one of the tables with dsdsh convert_relion5"):
            combine(stars)
    with pytest.raises(UserError, match=r"p.star: the pixel size of the images is missing"):
        combine([modern(tmp_path, "m", [0], [(0, 1.0)]), star_of(tmp_path, loop("", "ImageName", "t"))])
    angst = star_of(tmp_path, loop("", "ImageName OriginXAngst", "t 1"), "a.star")
    with pytest.raises(UserError, match=r"a.star: origins are in Å .* the pixel size is missing. Add rlnPixelSize"):
        combine([star_of(tmp_path, loop("", "ImageName OriginX", "t 1")), angst])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("other", ["relion31_57", "relion30_origins_6"])
def test_real_files(shared_data: Path, tmp_path: Path, name: str, other: str) -> None:
    stars = [read_particles(shared_data / "star" / f"{file}.star") for file in (name, other)]
    if name == "relion5_3d_5":
        with pytest.raises(UserError, match="convert_relion5"):
            combine(stars)
        return
    if name == "relion31_6optics":  # images of micrographs
        with pytest.raises(
            UserError, match=r"6optics.star: the table has one row per image .* has one row per particle. Make"
        ):
            combine(stars)
        return
    combine(stars).star.write(tmp_path / "o.star")
    found = read_particles(tmp_path / "o.star")
    assert len(found) == len(stars[0]) + len(stars[1])
    np.testing.assert_allclose(found.origins_px(), np.concatenate([star.origins_px() for star in stars]), atol=1e-5)
    np.testing.assert_allclose(found.eulers_deg(), np.concatenate([star.eulers_deg() for star in stars]))


def test_real_tables_of_four_versions(shared_data: Path, tmp_path: Path) -> None:
    """An earlier version gave 2,049 of 2,052 rows a voltage of 0 with optics groups of 300 kV."""
    folder = shared_data / "star_real"
    names = ("cryocat_relion_3.0", "cryocat_relion_4.0", "relion2dynamo_refine", "cryocat_relion_3.1_optics2")
    found = combine([read_particles(folder / f"{name}.star") for name in names]).star
    assert len(found) == 2052
    assert set(found.numbers("rlnVoltage")) == {300} and set(found.numbers("rlnSphericalAberration")) == {2.7}
    with pytest.raises(UserError, match=r"relion2dynamo_4_1.star: the pixel size of the images is missing"):
        combine([read_particles(folder / f"{name}.star") for name in ("cryocat_relion_4.0", "relion2dynamo_4_1")])


def test_images_and_particles_are_not_mixed(tmp_path: Path) -> None:
    images = star_of(tmp_path, loop("", "ImageName PixelSize DefocusU", "1@a.mrcs 4 1", "2@a.mrcs 4 2"), "i.star")
    cubes = star_of(tmp_path, loop("", "ImageName PixelSize", "a.mrc 4"), "c.star")
    for order in ([images, cubes], [cubes, images]):
        with pytest.raises(
            UserError, match=r"i.star: the table has one row per image of a stack .* but .*c.star has one row per"
        ):
            combine(order)
    assert len(combine([images, images]).star) == 4


def test_an_image_without_scale_keeps_its_weight(tmp_path: Path) -> None:
    """rlnCtfScalefactor 0 would leave the image out."""
    one = star_of(tmp_path, loop("", "ImageName PixelSize CtfScalefactor", "1@a.mrcs 4 0.5"), "1.star")
    two = star_of(tmp_path, loop("", "ImageName PixelSize", "1@b.mrcs 4"), "2.star")
    found = combine([one, two])
    assert found.star.numbers("rlnCtfScalefactor").tolist() == [0.5, 1.0]
    assert any("2.star has no rlnCtfScalefactor; missing values are filled with 1" in note for note in found.notes)


def test_the_box_comes_from_the_subtomograms_where_they_are(tmp_path: Path) -> None:
    """A RELION 3.0 table has no box, and that of another table may differ."""
    write_volume(tmp_path / "old.mrc", np.ones((12, 12, 12), np.float32), 4.0)
    old = star_of(tmp_path, loop("", "ImageName PixelSize", "old.mrc 4"), "old.star")
    optics = "OpticsGroup OpticsGroupName ImagePixelSize ImageSize ImageDimensionality"
    text = loop("optics", optics, "1 a 8 64 3") + loop("particles", "ImageName OpticsGroup", "x 1")
    new = star_of(tmp_path, text, "n.star")
    table = combine([new, old]).star.blocks["optics"]
    assert table["rlnImageSize"].tolist() == ["64", "12"]
    assert table["rlnImageDimensionality"].tolist() == ["3", "3"]
    (tmp_path / "old.mrc").unlink()
    found = combine([new, old])
    assert any("rlnImageSize 64" in note for note in found.notes)
