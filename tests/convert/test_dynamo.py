"""Conversion of Dynamo tables."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from opustomo.convert.conventions import relion_rotations, wrap_degrees
from opustomo.convert.dynamo import (
    COLUMNS,
    dynamo_from_relion_table,
    read_table,
    read_tomogram_list,
    relion_from_dynamo_table,
    restore_poses,
    write_table,
)
from opustomo.errors import UserError
from opustomo.io.star_tables import ParticleStar, read_particles
from tests.convert.tables import FILES, loop, star_of

NUMBER = st.floats(-3000, 3000).map(lambda number: round(number, 4))
ROW = st.tuples(*[NUMBER] * 9)
HERE = settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])


def table_text(rows: list[tuple], columns: int = 42) -> str:
    """Rows of (dx, dy, dz, tdrot, tilt, narot, x, y, z)."""
    lines = []
    for tag, row in enumerate(rows, 1):
        values = ["0"] * columns
        values[:3] = [str(tag * 7), "1", "1"]
        values[3:9] = map(str, row[:6])
        values[9], values[12], values[19], values[21] = "0.25", "1", str(1 + tag % 2), "3"
        values[23:26] = map(str, row[6:])
        lines.append(" ".join(values[:columns]))
    return "\n".join(lines) + "\n"


def places(star: ParticleStar) -> np.ndarray:
    found = np.stack([star.numbers(f"rlnCoordinate{axis}") for axis in "XYZ"], axis=1)
    return np.asarray(found - star.origins_px())


@HERE
@given(st.lists(ROW, min_size=1, max_size=5), st.sampled_from([0.5, 1.0, 4.0]), st.sampled_from([26, 35, 42, 44]))
def test_to_relion_and_back(tmp_path: Path, rows: list[tuple], scale: float, columns: int) -> None:
    """Places and matrices as dynamo2m has them; the way back gives every column again."""
    (tmp_path / "t.tbl").write_text(table_text(rows, columns))
    table = read_table(tmp_path / "t.tbl")
    relion_from_dynamo_table(table, "t.tbl", {1: "a/TS_1.mrc", 2: "b c/TS_2.mrc"}, 4.0, scale).star.write(
        tmp_path / "t.star"
    )
    star = read_particles(tmp_path / "t.star")
    numbers = np.array(rows)
    np.testing.assert_allclose(places(star), (numbers[:, 6:] + numbers[:, :3]) * scale, atol=5e-6)
    expected = Rotation.from_euler("zxz", numbers[:, 3:6], degrees=True).inv().as_matrix()
    np.testing.assert_allclose(relion_rotations(star.eulers_deg()).as_matrix(), expected, atol=1e-7)
    assert star.strings("rlnMicrographName") == [("a/TS_1.mrc", "b c/TS_2.mrc")[i % 2 == 0] for i in range(len(rows))]
    assert star.strings("rlnClassNumber") == ["3"] * len(rows)
    sizes = star.pixel_sizes()
    assert sizes is not None
    np.testing.assert_allclose(sizes, 4.0 / scale)
    back, names = dynamo_from_relion_table(star, scale=1 / scale)
    assert names == {1 + tag % 2: name for tag, name in enumerate(star.strings("rlnMicrographName"), 1)}
    write_table(tmp_path / "back.tbl", back)
    again = read_table(tmp_path / "back.tbl")
    for name, values in table.items():
        if name in ("tdrot", "tilt", "narot"):
            turned = again[name].astype(float) - values.astype(float)
            np.testing.assert_allclose(wrap_degrees(turned), 0, atol=2e-6)
        elif name == "apix":
            np.testing.assert_allclose(again[name].astype(float), 4.0)
        else:
            np.testing.assert_allclose(again[name].astype(float), values.astype(float), atol=5e-6, err_msg=name)


@HERE
@given(st.lists(ROW, min_size=1, max_size=5), st.sampled_from([1.0, 0.25]), st.booleans())
def test_poses_come_back_into_the_full_table(tmp_path: Path, rows: list[tuple], scale: float, modern: bool) -> None:
    """STAR → Dynamo → STAR: every pose, half-set, optics group and unknown value, in pixels or Å."""
    columns = "AngleRot AngleTilt AnglePsi CoordinateX CoordinateY CoordinateZ OriginX OriginY OriginZ"
    text = ""
    if modern:
        columns = columns.replace("OriginX OriginY OriginZ", "OriginXAngst OriginYAngst OriginZAngst")
        text = loop("optics", "OpticsGroup ImagePixelSize TomoTiltSeriesPixelSize", "1 8 2", "2 4 2")
    lines = [
        " ".join(map(str, (*row[3:6], *row[6:], *row[:3]))) + f" {1 + i % 2} {1 + i % 2} C:\\\\x\\\\{i}.mrc T_{i}"
        for i, row in enumerate(rows)
    ]
    star = star_of(
        tmp_path, text + loop("particles", f"{columns} OpticsGroup RandomSubset ImageName MicrographName", *lines)
    )
    table, names = dynamo_from_relion_table(star, scale=scale)
    assert len(names) == len(rows)
    # Dynamo leaves one out, turns the order and moves the shift into the coordinate
    order = list(range(len(rows)))[::-1][: max(1, len(rows) - 1)]
    moved = {name: values[order] for name, values in table.items()}
    for axis in "xyz":
        moved[axis] = np.array(
            [repr(float(a) + float(b)) for a, b in zip(moved[axis], moved[f"d{axis}"], strict=True)], object
        )
        moved[f"d{axis}"] = np.array(["0"] * len(order), dtype=object)
    result = restore_poses(moved, "t.tbl", star, scale=scale).star
    expected = star.subset(order)
    np.testing.assert_allclose(
        relion_rotations(result.eulers_deg()).as_matrix(),
        relion_rotations(expected.eulers_deg()).as_matrix(),
        atol=1e-6,
    )
    np.testing.assert_allclose(result.origins_px(), expected.origins_px(), atol=1e-4)
    kept = [name for name in star.particles if not name.startswith(("rlnAngle", "rlnOrigin"))]
    assert result.particles[kept].to_numpy().tolist() == expected.particles[kept].to_numpy().tolist()
    assert list(result.blocks) == list(star.blocks)


def test_a_dynamo2m_table(tmp_path: Path) -> None:
    """A row of a real alignment: complex daxis, exponents, no pixel size, 35 columns."""
    row = (
        "3 1 1 -2.5 1e-1 0.75 -112.3 45 17.5 0.31 0 12 1 -60 60 -60 60 0 0 4 0 1 0 312 88 101.5 "
        "2.6 90+0i 3.1 0.01 3 0 0 1 0"
    )
    (tmp_path / "r.tbl").write_text(f"\n {row} \r\n% a comment\n")
    result = relion_from_dynamo_table(read_table(tmp_path / "r.tbl"), "r.tbl")
    star = result.star
    np.testing.assert_allclose(places(star), [[309.5, 88.1, 102.25]])
    np.testing.assert_allclose(star.eulers_deg(), [[-72.5, 45, -22.3]])
    assert star.strings("rlnMicrographName") == ["tomo_4"]
    assert star.strings("dynamoDaxis") == ["90+0i"]
    assert star.strings("dynamoYmintilt") == ["-60"]
    assert star.strings("rlnAutopickFigureOfMerit") == ["0.31"]
    assert result.notes == ("the table has no pixel size, so none is written; give it with --angpix",)


def test_lists_of_tomograms(tmp_path: Path) -> None:
    (tmp_path / "a.doc").write_text("1 /a b/TS_01.mrc\n12 'F:\\t\\TS_12.rec'\n")
    assert read_tomogram_list(tmp_path / "a.doc") == {1: "/a b/TS_01.mrc", 12: "F:\\t\\TS_12.rec"}
    (tmp_path / "a.vll").write_text("# made by dcm\n/x/TS_01.mrc\n* label = bin4\n/x/TS_02.mrc\n")
    names = read_tomogram_list(tmp_path / "a.vll")
    assert names == {1: "/x/TS_01.mrc", 2: "/x/TS_02.mrc"}
    star = star_of(
        tmp_path, loop("", "CoordinateX CoordinateY CoordinateZ MicrographName", "1 2 3 TS_02.tomostar", "1 2 3 TS_01")
    )
    table, _ = dynamo_from_relion_table(star, names)
    assert table["tomo"].tolist() == ["2", "1"]
    with pytest.raises(UserError, match="tomogram TS_01 is not in the list"):
        dynamo_from_relion_table(star, {2: "TS_02"})
    # last numbers that differ are used, else the order
    assert dynamo_from_relion_table(star)[0]["tomo"].tolist() == ["2", "1"]
    same = star_of(tmp_path, loop("", "CoordinateX CoordinateY CoordinateZ MicrographName", "1 2 3 a_1", "1 2 3 b_1"))
    assert dynamo_from_relion_table(same)[0]["tomo"].tolist() == ["1", "2"]
    for text, reason in (("* x\n", "lists no tomogram"), ("1 a\n1 b\n", "the number 1 refers to a and to b")):
        (tmp_path / "b.doc").write_text(text)
        with pytest.raises(UserError, match=reason):
            read_tomogram_list(tmp_path / "b.doc")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has no rows"),
        ("1 2 3\n", "has 3 columns, but a Dynamo table has at least 26"),
        ("1 2 3\n1 2\n", "row 2 has 2 values, but the first row has 3"),
        ("data_\nloop_\n", "this is a STAR file"),
        ('<?xml version="1.0"?>\n<TiltSeries>\n', "begins with '<.xml', but a Dynamo table has rows of numbers"),
        (table_text([(0,) * 9]).replace("3 0 0", "3 0 x", 1), "x of row 1 is 'x'"),
    ],
)
def test_errors(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "m.tbl").write_text(text)
    with pytest.raises(UserError, match=reason) as mistake:
        relion_from_dynamo_table(read_table(tmp_path / "m.tbl"), str(tmp_path / "m.tbl"))
    assert "m.tbl" in str(mistake.value)


def test_tags_and_tomograms_that_do_not_fit(tmp_path: Path) -> None:
    (tmp_path / "t.tbl").write_text(table_text([(0,) * 9]))
    table = read_table(tmp_path / "t.tbl")
    with pytest.raises(UserError, match="the tomogram 2 is not in the list"):
        relion_from_dynamo_table(table, "t.tbl", {1: "a"})
    star = star_of(tmp_path, loop("", "CoordinateX CoordinateY CoordinateZ", "1 2 3"))
    with pytest.raises(UserError, match=r"row 1 has the tag 7, but .* has 1 particles"):
        restore_poses(table, "t.tbl", star)


def test_words_do_not_get_into_a_table(tmp_path: Path) -> None:
    """An empty value would shift its row; NaN is Matlab's own."""
    columns = "CoordinateX CoordinateY CoordinateZ AutopickFigureOfMerit ClassNumber _dynamoCc2"
    star = star_of(tmp_path, loop("", columns, "1 2 3 NaN 2 nan", "1 2 3 0.5 1 1e-3"))
    table, _ = dynamo_from_relion_table(star)
    assert (table["cc"].tolist(), table["cc2"].tolist()) == (["NaN", "0.5"], ["nan", "1e-3"])
    for row, column in (
        ("1 2 3 '' 1 1", "rlnAutopickFigureOfMerit of row 2 is ''"),
        ("1 2 3 0 'my class' 1", "rlnClassNumber of row 2 is 'my class'"),
        ("1 2 3 0 1 None", "dynamoCc2 of row 2 is 'None'"),
    ):
        with pytest.raises(UserError, match=f"p.star: {column}, but a Dynamo table consists of numbers"):
            dynamo_from_relion_table(star_of(tmp_path, loop("", columns, "1 2 3 0 0 0", row)))


@pytest.mark.parametrize("name", FILES)
def test_real_files(shared_data: Path, tmp_path: Path, name: str) -> None:
    star = read_particles(shared_data / "star" / f"{name}.star")
    if name in ("relion5_3d_5", "relion31_6optics"):
        with pytest.raises(UserError, match=r"convert_relion5|rlnCoordinateZ"):
            dynamo_from_relion_table(star)
        return
    table, names = dynamo_from_relion_table(star)
    assert list(table) == list(COLUMNS)
    assert len(names) >= 1
    if name == "relion4_300":
        # the rule of relion2dynamo: coordinate minus origin over the unbinned pixel size, tomogram by its number
        for axis in "XYZ":
            expected = star.numbers(f"rlnCoordinate{axis}") - star.numbers(f"rlnOrigin{axis}Angst") / 1.329
            found = table[axis.lower()].astype(float) + table[f"d{axis.lower()}"].astype(float)
            np.testing.assert_allclose(found, expected, atol=1e-5)
        assert set(table["apix"]) == {"1.329"}
        assert table["tomo"].tolist() == [text.split("_")[1] for text in star.strings("rlnTomoName")]
    back = restore_poses(table, "t", star).star
    np.testing.assert_allclose(back.origins_px(), star.origins_px(), atol=1e-5)
    np.testing.assert_allclose(
        relion_rotations(back.eulers_deg()).as_matrix(), relion_rotations(star.eulers_deg()).as_matrix(), atol=1e-7
    )
