"""Tables of M species."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opustomo.convert.warp import relion_from_species
from opustomo.errors import UserError
from opustomo.io.star_tables import read_particles

COLUMNS = "_wrpCoordinateX1 _wrpCoordinateY1 _wrpCoordinateZ1 _wrpAngleRot1 _wrpAngleTilt1 _wrpAnglePsi1 "
SPECIES = (
    "data_particles\n\nloop_\n"
    + "\n".join((COLUMNS + "_wrpRandomSubset _wrpSourceName _wrpSourceHash _wrpCoordinateX2").split())
    + "\n100.5 20 -3 10 20 30 1 TS_01.tomostar ab12 7\n"
    + "0 0 0 -170 90 0 2 'F:\\my tilts\\TS_02.tomostar' ff00 8\n\ndata_info\n_wrpVersion 1\n"
)


def test_species(tmp_path: Path) -> None:
    (tmp_path / "s.star").write_text(SPECIES)
    result = relion_from_species(tmp_path / "s.star", 2.5, kv=200, cs=2.0)
    result.star.write(tmp_path / "r.star")
    star = read_particles(tmp_path / "r.star")
    assert (result.count_in, len(star)) == (2, 2)
    assert star.strings("rlnMicrographName") == ["TS_01.tomostar", "F:\\my tilts\\TS_02.tomostar"]
    np.testing.assert_allclose(star.numbers("rlnCoordinateX"), [40.2, 0])
    np.testing.assert_allclose(star.numbers("rlnCoordinateZ"), [-1.2, 0])
    np.testing.assert_allclose(star.eulers_deg(), [[10, 20, 30], [-170, 90, 0]])
    np.testing.assert_array_equal(star.origins_px(), np.zeros((2, 3)))
    assert star.strings("rlnRandomSubset") == ["1", "2"]
    sizes = star.pixel_sizes()
    assert sizes is not None
    np.testing.assert_allclose(sizes, 2.5)
    assert star.strings("rlnVoltage") == ["200"] * 2
    assert star.strings("rlnSphericalAberration") == ["2"] * 2
    assert star.strings("wrpSourceHash") == ["ab12", "ff00"]
    assert star.strings("wrpCoordinateX2") == ["7", "8"]
    assert star.blocks["info"] == {"wrpVersion": "1"}
    assert any("first of 2 poses" in note for note in result.notes)


def test_half_sets_that_count_from_0(tmp_path: Path) -> None:
    (tmp_path / "s.star").write_text(SPECIES.replace(" 30 1 TS", " 30 0 TS").replace(" 0 2 'F", " 0 1 'F"))
    result = relion_from_species(tmp_path / "s.star", 1.0)
    assert result.star.strings("rlnRandomSubset") == ["1", "2"]
    assert any("half sets" in note for note in result.notes)


def test_columns_of_relion_beside_those_of_m_give_way(tmp_path: Path) -> None:
    """Columns of M replace older columns of RELION."""
    old = {
        **{f"rlnCoordinate{axis}": "77" for axis in "XYZ"},
        "rlnMicrographName": "old.mrc",
        "rlnAngleRot": "5",
        "rlnOriginXAngst": "9",
        "rlnOriginX": "9",
        "rlnCenteredCoordinateXAngst": "9",
        "rlnPixelSize": "9",
        "rlnRandomSubset": "2",
        "rlnTomoSubtomogramTilt": "9",
        "rlnLogLikeliContribution": "8",
    }
    text = SPECIES.replace("_wrpCoordinateX2", "\n".join(f"_{name}" for name in old))
    text = text.replace("ab12 7", f"ab12 {' '.join(old.values())}").replace("ff00 8", f"ff00 {' '.join(old.values())}")
    (tmp_path / "s.star").write_text(text)
    result = relion_from_species(tmp_path / "s.star", 2.5)
    result.star.write(tmp_path / "r.star")
    star, sizes = read_particles(tmp_path / "r.star"), result.star.pixel_sizes()
    assert star.strings("rlnMicrographName")[0] == "TS_01.tomostar"
    np.testing.assert_allclose(star.numbers("rlnCoordinateX"), [40.2, 0])
    np.testing.assert_allclose(star.eulers_deg(), [[10, 20, 30], [-170, 90, 0]])
    np.testing.assert_array_equal(star.origins_px(), np.zeros((2, 3)))
    assert sizes is not None and sizes.tolist() == [2.5, 2.5]
    assert star.strings("rlnRandomSubset") == ["1", "2"]
    assert star.strings("rlnLogLikeliContribution") == ["8", "8"]
    assert not {"rlnOriginXAngst", "rlnCenteredCoordinateXAngst", "rlnPixelSize", "rlnTomoSubtomogramTilt"} & {
        *star.particles.columns
    }
    assert any("rlnCoordinateX, " in note and "were replaced" in note for note in result.notes)


NUMBER = st.floats(-1e4, 1e4).map(lambda number: round(number, 4))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(*[NUMBER] * 6, st.sampled_from("12")), min_size=1, max_size=5), st.floats(0.5, 20))
def test_places_times_pixel_size(tmp_path: Path, rows: list[tuple], apix: float) -> None:
    head = "data_\nloop_\n" + "\n".join((COLUMNS + "_wrpRandomSubset _wrpSourceName").split()) + "\n"
    (tmp_path / "s.star").write_text(head + "".join(" ".join(map(str, row)) + " t\n" for row in rows))
    star = relion_from_species(tmp_path / "s.star", apix).star
    for axis, column in enumerate(("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ")):
        np.testing.assert_allclose(star.numbers(column) * apix, [row[axis] for row in rows], atol=1e-6 * apix)
    np.testing.assert_array_equal(star.eulers_deg(), [row[3:6] for row in rows])
    assert star.strings("rlnRandomSubset") == [row[6] for row in rows]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("data_\nloop_\n_rlnImageName\n1\n", r"contains a RELION particle table.*but an M species table"),
        ("data_\nloop_\n_foo\n1\n", "contains a table of foo …, but"),
        ("\n".join(SPECIES.split("\n")[:13]) + "\n", "has no rows"),
        (SPECIES.replace("100.5", "x"), "wrpCoordinateX1 of row 1 is 'x'"),
        (SPECIES.replace("-170", "nan"), "wrpAngleRot1 of row 2 is 'nan'"),
    ],
)
def test_errors(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "s.star").write_text(text)
    with pytest.raises(UserError, match=reason) as mistake:
        relion_from_species(tmp_path / "s.star", 1.0)
    assert "s.star" in str(mistake.value)
