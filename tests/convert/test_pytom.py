"""Conversion of particle lists of PyTom."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from opustomo.convert.conventions import relion_rotations
from opustomo.convert.pytom import PytomScale, relion_from_pytom_lists
from opustomo.errors import UserError
from opustomo.io.star_tables import read_particles
from tests.convert.pytom_lists import write_list

NUMBER = st.floats(-2000, 2000)
TRIPLE = st.tuples(NUMBER, NUMBER, NUMBER)
ROWS = st.lists(st.tuples(TRIPLE, TRIPLE, TRIPLE), min_size=1, max_size=5)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(TRIPLE, TRIPLE, TRIPLE), min_size=1, max_size=5), st.floats(1, 20), st.sampled_from([1, 2, 4])
)
def test_a_list(tmp_path: Path, rows: list[tuple], apix: float, binning: int) -> None:
    """Angles as matrices, positions and shifts times the binning, and the position in Å as in the binned tomogram."""
    angles, places, shifts = (list(values) for values in zip(*rows, strict=True))
    write_list(tmp_path / "l.xml", angles, places, shifts)
    relion_from_pytom_lists([tmp_path / "l.xml"], PytomScale(apix, binning)).star.write(tmp_path / "l.star")
    star = read_particles(tmp_path / "l.star")
    expected = Rotation.from_euler("ZXZ", np.array(angles)[:, ::-1], degrees=True).as_matrix()
    np.testing.assert_allclose(relion_rotations(star.eulers_deg()).as_matrix(), expected, atol=1e-7)
    found = np.stack([star.numbers(f"rlnCoordinate{axis}") for axis in "XYZ"], axis=1)
    np.testing.assert_allclose(found, np.array(places) * binning, atol=1e-6)
    np.testing.assert_allclose(star.origins_px(), -np.array(shifts) * binning, atol=1e-6)
    sizes = star.pixel_sizes()
    assert sizes is not None
    truth = (np.array(places) + np.array(shifts)) * apix
    np.testing.assert_allclose((found - star.origins_px()) * sizes[:, None], truth, rtol=1e-5, atol=1e-4)
    assert star.strings("rlnMicrographName") == ["../tomos/TS_01.em"] * len(rows)
    assert star.strings("rlnImageName")[0] == "sub/p0.em"
    np.testing.assert_allclose(star.numbers("rlnAutopickFigureOfMerit"), 0.5 ** np.arange(1, len(rows) + 1))


def test_lists_in_parallel_come_in_order(tmp_path: Path) -> None:
    zero = (0.0, 0.0, 0.0)
    paths = [
        write_list(
            tmp_path / f"a list {i}.xml", [zero] * (i + 1), [(float(i), 0.0, 0.0)] * (i + 1), origin=f"TS_{i}.mrc"
        )
        for i in range(3)
    ]
    seen = []
    one = relion_from_pytom_lists(paths, PytomScale())
    many = relion_from_pytom_lists(paths, PytomScale(), workers=2, advance=lambda: seen.append(1))
    assert one.star.particles.equals(many.star.particles)
    assert many.star.strings("rlnMicrographName") == ["TS_0.mrc", *["TS_1.mrc"] * 2, *["TS_2.mrc"] * 3]
    assert len(seen) == 3
    sizes = many.star.pixel_sizes()
    assert sizes is not None
    np.testing.assert_allclose(sizes, 1.96)


def test_a_particle_without_origin_is_of_the_list(tmp_path: Path) -> None:
    text = '<ParticleList><Particle><PickPosition X="1" Y="2" Z="3"/></Particle></ParticleList>'
    (tmp_path / "TS_07.xml").write_text(text)
    star = relion_from_pytom_lists([tmp_path / "TS_07.xml"], PytomScale(10, 1)).star
    assert star.strings("rlnMicrographName") == ["TS_07"]
    assert "rlnImageName" not in star
    np.testing.assert_array_equal(star.origins_px(), [[0, 0, 0]])


def test_elements_that_some_particles_lack(tmp_path: Path) -> None:
    """Values stay with their particle, for missing elements and any order; of two, the last counts."""
    place = '<PickPosition X="{}" Y="0" Z="0"/>'
    shift, score = '<Shift X="{}" Y="0" Z="0"/>', '<Score Value="{}"/>'
    parts = [(place.format(0),), (score.format(1), place.format(1), shift.format(1)), (place.format(2),)]
    parts += [(place.format(3), shift.format(9), shift.format(3)), (shift.format(4), place.format(4), score.format(4))]
    parts += [(place.format(5),)]
    text = "".join(f"<Particle>{''.join(part)}</Particle>" for part in parts)
    (tmp_path / "t.xml").write_text(f"<ParticleList>{text}</ParticleList>")
    star = relion_from_pytom_lists([tmp_path / "t.xml"], PytomScale(10, 1)).star
    assert star.numbers("rlnCoordinateX").tolist() == [0, 1, 2, 3, 4, 5]
    assert star.origins_px()[:, 0].tolist() == [0, -1, 0, -3, -4, 0]
    assert star.strings("rlnAutopickFigureOfMerit") == ["0", "1", "0", "0", "4", "0"]


BOMB = """<?xml version="1.0"?>
<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">
<!ENTITY secret SYSTEM "file:///etc/passwd">]>
<ParticleList><Particle Filename="&b;&secret;"><PickPosition X="1" Y="2" Z="3"/></Particle></ParticleList>"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not readable as XML"),
        ("data_\nloop_\n_rlnAngleRot\n1\n", "not readable as XML"),
        ("<ParticleList><Particle>", "not readable as XML"),
        ("<ParticleList/>", "contains an empty <ParticleList>"),
        ("<TiltSeries/>", "contains <TiltSeries> without <Particle>"),
        ("<ParticleList><Particle/></ParticleList>", "particle 1 has no PickPosition X"),
        (BOMB, "declares a document type"),
        ('<L><Particle><PickPosition X="1" Y="2" Z="b"/></Particle></L>', "PickPosition Z of row 1 is 'b'"),
        (
            '<L><Particle><PickPosition X="1" Y="2" Z="3"/><Rotation Paradigm="ZYZ" X="1"/></Particle></L>',
            "rotation paradigm of particle 1 is ZYZ",
        ),
    ],
)
def test_errors(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "l.xml").write_text(text)
    with pytest.raises(UserError, match=reason) as mistake:
        relion_from_pytom_lists([tmp_path / "l.xml"], PytomScale())
    assert "l.xml" in str(mistake.value)
    assert "\n" not in str(mistake.value)


def test_a_mistake_in_another_process_is_reported(tmp_path: Path) -> None:
    good = write_list(tmp_path / "a.xml", [(0.0, 0.0, 0.0)], [(0.0, 0.0, 0.0)])
    (tmp_path / "b.xml").write_text("<ParticleList/>")
    with pytest.raises(UserError, match="contains an empty <ParticleList>"):
        relion_from_pytom_lists([good, tmp_path / "b.xml"], PytomScale(), workers=2)
    with pytest.raises(UserError, match="XML file does not exist"):
        relion_from_pytom_lists([tmp_path / "c.xml"], PytomScale())


def test_warp_xml_is_refused(shared_data: Path) -> None:
    with pytest.raises(UserError, match="contains <TiltSeries> without <Particle>"):
        relion_from_pytom_lists([shared_data / "star" / "warp_TS_1.xml"], PytomScale())
