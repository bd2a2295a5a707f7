"""Particles of one tomogram for WARP and ArtiaX."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opustomo.convert.artiax import artiax_list
from opustomo.convert.warp import warp_matching
from opustomo.errors import UserError
from opustomo.io.star_tables import read_particles
from opustomo.io.tomograms import TomogramChoice
from opustomo.prepare.particle_tables import particles_of_block
from tests.convert.tables import loop, star_of

PLACE = "CoordinateX CoordinateY CoordinateZ"
COLUMNS = "MicrographName CoordinateX CoordinateY CoordinateZ OriginX OriginXAngst OpticsGroup AngleRot"
ROWS = ("TS_1.mrc 1 2 3 0.5 4 1 10", "TS_10.mrc 4 5 6 0 0 1 1", "TS_1.mrc 7 8 9 1 2 1 20.00", "TS_1.mrc 1 2 3 9 9 1 5")
TEXT = loop("particles", COLUMNS, *ROWS) + loop("optics", "OpticsGroup ImagePixelSize", "1 2")


def test_warp(tmp_path: Path) -> None:
    result = warp_matching(star_of(tmp_path, TEXT), TomogramChoice("TS_1"))
    assert (result.count_in, len(result.star)) == (4, 3)
    assert result.star.strings("rlnMicrographName") == ["TS_1.tomostar"] * 3
    assert result.star.strings("rlnAngleRot") == ["10", "20.00", "5"]
    assert result.star.strings("rlnAutopickFigureOfMerit") == ["1.000000"] * 3
    assert list(result.star.blocks) == ["particles", "optics"]


def test_the_score_of_pytom_match_pick(tmp_path: Path) -> None:
    columns = "CoordinateX CoordinateY CoordinateZ MicrographName LCCmax"
    result = warp_matching(star_of(tmp_path, loop("", columns, "1 2 3 a 0.31", "1 2 3 ab 0.2")), TomogramChoice("a"))
    assert result.star.strings("rlnAutopickFigureOfMerit") == ["0.31"]
    centered = star_of(tmp_path, loop("", "CenteredCoordinateXAngst MicrographName", "1 a"))
    with pytest.raises(UserError, match="Convert it with dsdsh convert_relion5 first"):
        warp_matching(centered, TomogramChoice("a"))


def test_artiax(tmp_path: Path) -> None:
    star = star_of(tmp_path, TEXT)
    result = artiax_list(star, TomogramChoice("TS_1"), 0.5, deduplicate=True)
    assert (result.count_in, len(result.star)) == (4, 2)
    np.testing.assert_allclose(result.star.numbers("rlnCoordinateX"), [0.5, 3.5])
    np.testing.assert_allclose(result.star.numbers("rlnOriginX"), [0.25, 0.5])
    assert result.star.strings("rlnOriginXAngst") == ["4", "2"]
    assert result.star.strings("rlnAngleRot") == ["10", "20.00"]
    assert len(artiax_list(star, TomogramChoice("TS_1"), 1.0).star) == 3


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(*[st.floats(-3000, 3000)] * 6), min_size=1, max_size=5), st.floats(0.2, 9))
def test_there_and_back(tmp_path: Path, rows: list[tuple], factor: float) -> None:
    columns = "TomoName CoordinateX CoordinateY CoordinateZ OriginX OriginY OriginZ"
    star = star_of(tmp_path, loop("", columns, *(" ".join(map(repr, ("t", *row))).replace("'", "") for row in rows)))
    scaled = artiax_list(star, TomogramChoice("t"), factor).star
    back = artiax_list(scaled, TomogramChoice("t"), 1 / factor).star
    for column in columns.split()[1:]:
        np.testing.assert_allclose(scaled.numbers(f"rln{column}"), star.numbers(f"rln{column}") * factor, atol=1e-6)
        np.testing.assert_allclose(back.numbers(f"rln{column}"), star.numbers(f"rln{column}"), atol=5e-6)


def test_other_blocks_and_columns(tmp_path: Path) -> None:
    picks = loop("picks", "TomoName CoordinateX CoordinateY CoordinateZ", "TS_2 1 1 1")
    star = star_of(tmp_path, TEXT + picks)
    chosen = particles_of_block(tmp_path / "p.star", "data_picks")
    assert len(artiax_list(chosen, TomogramChoice("TS_2"), 1.0).star) == 1
    assert len(artiax_list(star, TomogramChoice("1", "_rlnOpticsGroup"), 1.0).star) == 4
    for action, reason in (
        (lambda: particles_of_block(tmp_path / "p.star", "x"), "there is no block data_x, only data_"),
        (lambda: warp_matching(star, TomogramChoice("TS")), "no particle belongs to the tomogram 'TS'"),
        (lambda: warp_matching(star, TomogramChoice("TS_1", "rlnFoo")), "no column rlnFoo"),
        (lambda: warp_matching(star_of(tmp_path, loop("", PLACE, "1 2 3")), TomogramChoice("a")), "neither"),
    ):
        with pytest.raises(UserError, match=reason):
            action()


@pytest.mark.parametrize(
    ("name", "tomogram", "count"),
    [
        ("one_loop_16", "tomo_ts01", 16),
        ("relion31_57", "TS_01", 57),
        ("relion4_300", "TS_115", None),
        ("warp_relion30_1399", "tomo_ts01.mrc", None),
        ("relion30_origins_6", "tomo_2", 3),
    ],
)
def test_real_files(shared_data: Path, name: str, tomogram: str, count: int | None) -> None:
    star = read_particles(shared_data / "star" / f"{name}.star")
    column = TomogramChoice(tomogram).column_of(star)
    expected = count or sum(text.startswith(tomogram) for text in star.strings(column))
    assert 0 < expected <= len(star)
    assert len(warp_matching(star, TomogramChoice(tomogram)).star) == expected
    assert len(artiax_list(star, TomogramChoice(tomogram), 1.0).star) == expected
