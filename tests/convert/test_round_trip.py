"""One particle set converted through M, RELION 5, RELION 4, Dynamo and RELION 3.0."""

from itertools import permutations
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from opustomo.convert.artiax import artiax_list
from opustomo.convert.combine import combine
from opustomo.convert.dynamo import dynamo_from_relion_table, read_table, restore_poses, write_table
from opustomo.convert.relion5 import read_tomograms, to_pixels, to_relion5
from opustomo.convert.relion30 import to_relion30
from opustomo.convert.warp import relion_from_species
from opustomo.io.star_tables import ParticleStar, read_particles
from opustomo.io.tomograms import TomogramChoice
from tests.convert.tables import loop

NUMBER = st.floats(0, 3000).map(lambda number: round(number, 3))
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Z"), exclude_characters="'\""), min_size=1)
NAME = st.one_of(st.sampled_from(["0001", "a b", "D:\\my data\\x.mrc", "#1", "_x", "data_", "1e5", ""]), TEXT)
ROW = st.tuples(st.tuples(*[NUMBER] * 3), st.tuples(*[NUMBER] * 3), st.sampled_from("12"), st.integers(1, 2), NAME)
SERIES = (1.5, 3.105)


def written(star: ParticleStar, path: Path) -> ParticleStar:
    """The table as another program finds it."""
    star.write(path)
    return read_particles(path)


def places_A(star: ParticleStar) -> np.ndarray:
    """Coordinate minus origin in Å: origins count in pixels of the images, coordinates in those of the tilt series,
    where a table tells of one."""
    coordinates = np.stack([star.numbers(f"rlnCoordinate{axis}") for axis in "XYZ"], axis=1)
    sizes, series = star.pixel_sizes(), star.value_per_particle("rlnTomoTiltSeriesPixelSize")
    assert sizes is not None
    return np.asarray(coordinates * (sizes if series is None else series)[:, None] - star.origins_px() * sizes[:, None])


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ROW, min_size=1, max_size=6), st.floats(0.8, 12).map(lambda size: round(size, 3)))
def test_all_programs_in_turn(tmp_path: Path, rows: list[tuple], apix: float) -> None:
    """Positions in Å, rotations, half sets, optics and an unknown text column are restored."""
    place = "_wrpCoordinateX1 _wrpCoordinateY1 _wrpCoordinateZ1 _wrpAngleRot1 _wrpAngleTilt1 _wrpAnglePsi1"
    lines = [
        " ".join(map(str, (*at, *angles, half, f"D:\\x\\TS_0{series}.tomostar"))) + f" '{own}'"
        for at, angles, half, series, own in rows
    ]
    species = loop("", f"{place} _wrpRandomSubset _wrpSourceName _myOwn", *lines)
    (tmp_path / "species.star").write_text(species, encoding="utf-8")
    size = "TomoName TomoTiltSeriesPixelSize TomoSizeX TomoSizeY TomoSizeZ Voltage SphericalAberration"
    known = loop("", size, *(f"TS_0{i + 1} {SERIES[i]} 4001 3000 999 300 2.7" for i in range(2)))
    (tmp_path / "tomograms.star").write_text(known)
    tomograms = read_tomograms(tmp_path / "tomograms.star")
    expected_A = np.array([row[0] for row in rows])
    turned = Rotation.from_euler("ZYZ", np.array([row[1] for row in rows]), degrees=True).inv()

    def check(star: ParticleStar) -> None:
        np.testing.assert_allclose(places_A(star), expected_A, atol=2e-4)
        found = Rotation.from_euler("ZYZ", star.eulers_deg(), degrees=True).inv()
        assert (found * turned.inv()).magnitude().max() < 1e-5
        assert star.strings("rlnRandomSubset") == [row[2] for row in rows]
        assert star.strings("myOwn") == [row[4] for row in rows]
        voltages = star.value_per_particle("rlnVoltage")
        assert voltages is not None and set(voltages) == {300.0}
        sizes = star.pixel_sizes()
        assert sizes is not None
        np.testing.assert_allclose(sizes, apix, rtol=1e-5)

    old = written(relion_from_species(tmp_path / "species.star", apix).star, tmp_path / "a.star")
    check(old)
    # ArtiaX shows one tomogram, in the pixels asked for
    chosen = [index for index, row in enumerate(rows) if row[3] == rows[0][3]]
    shown = written(artiax_list(old, TomogramChoice(f"TS_0{rows[0][3]}"), 0.5).star, tmp_path / "s.star")
    np.testing.assert_allclose(shown.numbers("rlnCoordinateZ") * 2 * apix, expected_A[chosen, 2], atol=1e-4)
    assert shown.strings("myOwn") == [rows[index][4] for index in chosen]
    # RELION 5, then 4
    five = written(to_relion5(old, tomograms).star, tmp_path / "b.star")
    four = written(to_pixels(five, tomograms).star, tmp_path / "c.star")
    check(four)
    # Dynamo moves the particle to the coordinate
    table, _ = dynamo_from_relion_table(four)
    write_table(tmp_path / "d.tbl", table)
    back = written(restore_poses(read_table(tmp_path / "d.tbl"), "d.tbl", four).star, tmp_path / "d.star")
    check(back)
    # one size for coordinates and images, or those of before, optics in the rows
    check(written(to_relion30(back, apix, apix).star, tmp_path / "e.star"))
    rowwise = written(to_relion30(back, apix).star, tmp_path / "f.star")
    check(rowwise)
    # in one table with any other of these
    for first, second in permutations((old, back, rowwise), 2):
        both = written(combine([first, second]).star, tmp_path / "g.star")
        check(both.subset(np.arange(len(rows))))
        check(both.subset(np.arange(len(rows), 2 * len(rows))))
