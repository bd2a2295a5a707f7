"""WARP's XML compared with positions, angles and defoci that WARP computed, and damaged files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation

from opustomo.errors import UserError
from opustomo.geometry.tilt_geometry import SplineGrid
from opustomo.io.star_tables import read_table
from opustomo.io.tilt_series.series import TiltSeries
from opustomo.io.tilt_series.warp import read_warp_series

DATA = Path(__file__).parent / "warp_tilt_series"
IMAGE_PX = (5760, 4092)
APIX = 0.834


@pytest.fixture(scope="module")
def series() -> TiltSeries:
    return read_warp_series(DATA / "TS_1.xml", image_px=IMAGE_PX)


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    return read_table(DATA / "TS_1_points.star", ["centeredCoordinateZAngst"]).to_numpy(float)


@pytest.fixture(scope="module")
def told(points: np.ndarray) -> np.ndarray:
    """(points, tilts, x, y, rot, tilt, psi, U, V, angle) as WARP wrote them."""
    table = read_table(DATA / "TS_1_points.star", ["pointID", "tiltID", "defocusU"]).to_numpy(float)
    return table[:, 2:].reshape(len(points), 41, 8)


def test_positions_within_a_tenth_of_a_pixel(series: TiltSeries, points: np.ndarray, told: np.ndarray) -> None:
    image_A, _ = series.geometry.project(points)
    assert series.apix == APIX
    assert np.abs(image_A - told[..., :2]).max() / APIX < 0.01


def test_defocus_within_a_nanometer(series: TiltSeries, points: np.ndarray, told: np.ndarray) -> None:
    _, depth_A = series.geometry.project(points)
    assert np.abs(series.optics.defocus_u_A + depth_A - told[..., 5]).max() < 0.1
    assert np.abs(series.optics.defocus_v_A + depth_A - told[..., 6]).max() < 0.1
    assert np.abs(series.optics.astigmatism_deg - told[..., 7]).max() < 0.01


def test_orientations(series: TiltSeries, points: np.ndarray, told: np.ndarray) -> None:
    """M's refined angles: RELION's Euler angles of the matrices, to a thousandth of a degree."""
    ours = series.geometry.orientations(points)
    expected = Rotation.from_euler("ZYZ", told[..., 2:5].reshape(-1, 3), degrees=True).as_matrix().swapaxes(1, 2)
    apart = Rotation.from_matrix(ours.reshape(-1, 3, 3) @ expected.swapaxes(1, 2)).magnitude()
    assert np.rad2deg(apart).max() < 1e-3


def test_optics_and_weights(series: TiltSeries) -> None:
    optics = series.optics
    assert (optics.voltage_kv, optics.amplitude_contrast) == (300.0, 0.1)
    assert optics.cs_mm == pytest.approx(3.27283, abs=1e-5)
    # refined by M: GridDoseWeights and GridDoseBfacs, damping positive here
    assert optics.scale[:2] == pytest.approx([0.22148241, 0.22979587])
    assert optics.bfactor_A2[0] == pytest.approx(360.0)  # 3·dose where the grid's damping is weaker
    assert len(series.images) == len(series) == 41 and series.images[0].name.endswith("11.05.12.tif")
    assert series.used.all() and series.name == "TS_1"


def test_inverted_angles_turn_the_depth_round(points: np.ndarray, tmp_path: Path) -> None:
    """WARP computes the depth with tilts and z reversed then, which is the other hand of the same geometry."""
    text = (DATA / "TS_1.xml").read_text().replace('AreAnglesInverted="False"', 'AreAnglesInverted="True"')
    (tmp_path / "TS_1.xml").write_text(text)
    inverted = read_warp_series(tmp_path / "TS_1.xml", image_px=IMAGE_PX)
    right = read_warp_series(DATA / "TS_1.xml", image_px=IMAGE_PX)
    (image, depth), (other_image, other_depth) = right.geometry.project(points), inverted.geometry.project(points)
    assert np.array_equal(image, other_image) and np.allclose(depth, -other_depth)


def test_excluded_tilts(tmp_path: Path) -> None:
    text = (DATA / "TS_1.xml").read_text().replace("<UseTilt>True", "<UseTilt>False", 1)
    (tmp_path / "a.xml").write_text(text)
    series = read_warp_series(tmp_path / "a.xml", image_px=IMAGE_PX)
    assert not series.used[0] and series.used[1:].all() and series.optics.scale[0] < 1e-3


def test_volume_warp_and_sizes_in_the_file(tmp_path: Path) -> None:
    """A warp that is linear in x and dose moves the specimen; the file may contain sizes."""
    text = (DATA / "TS_1.xml").read_text()
    start, end = text.index("<GridVolumeWarpX"), text.index("</GridVolumeWarpX>")
    nodes = "".join(f'<Node X="{x}" Y="0" Z="0" W="{w}" Value="{30 * x + 7 * w}"/>' for x in (0, 1) for w in (0, 1))
    grid = f'<GridVolumeWarpX Width="2" Height="1" Depth="1" Duration="2">{nodes}'
    text = text[:start] + grid + text[end:]
    sizes = 'ImageDimensionsAngstrom="4803.84, 3412.728" VolumeDimensionsAngstrom="4000, 5000, 1000" LevelAngleX'
    (tmp_path / "warped.xml").write_text(text.replace("LevelAngleX", sizes, 1))
    warped, rigid = read_warp_series(tmp_path / "warped.xml"), read_warp_series(DATA / "TS_1.xml", image_px=IMAGE_PX)
    assert warped.volume_px == (round(4000 / APIX), round(5000 / APIX), round(1000 / APIX))
    dose = warped.geometry.deformation.time if warped.geometry.deformation else np.zeros(1)
    at = np.array([[1000.0, 200.0, 50.0]])
    moved = at + np.array([[30 * (1000 / 4000 + 0.5), 0, 0]])
    for tilt in (0, 20, 40):
        expected, _ = rigid.geometry.project(moved + np.array([[7 * dose[tilt], 0, 0]]))
        assert np.allclose(warped.geometry.project(at)[0][:, tilt], expected[:, tilt], atol=1e-6)


def test_spline_grid_is_natural_and_exact_at_nodes() -> None:
    rng = np.random.default_rng(0)
    grid = SplineGrid(rng.normal(size=(4, 1, 6)), (0.0, 0.0, 0.1))
    x, z = np.meshgrid(np.linspace(0, 1, 4), np.linspace(0, 1, 6), indexing="ij")
    assert np.allclose(grid(x, 0.3, (z - 0.1) / 0.8), grid.nodes[:, 0])
    along = CubicSpline(np.linspace(0, 1, 4), grid.nodes[:, 0, 2], bc_type="natural")
    assert np.allclose(grid(np.linspace(-0.2, 1.2, 9), 0.0, (0.4 - 0.1) / 0.8), along(np.linspace(-0.2, 1.2, 9)))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("<TiltSeries", "<Movie", "not a readable XML"),
        ("</TiltSeries>", "", "not a readable XML"),
        ("<Angles>40.01", "<Angles>forty", "<Angles> is not numeric"),
        ("<Dose>120\n", "<Dose>", "<Dose> has 40 values, but there are 41 tilts"),
        ("<UseTilt>True\n", "<UseTilt>", "<UseTilt> has 40 values"),
        ('LevelAngleX="1.457031"', 'LevelAngleX="nan"', "LevelAngleX is 'nan'"),
        ('<Node X="0" Y="0" Z="0" Value="2.8969412"', '<Node X="0" Y="0" Z="99" Value="2"', "<GridCTF> has a node"),
        ('Width="6" Height="4"', 'Width="0" Height="4"', "impossible size"),
        ('Width="6" Height="4"', 'Width="7" Height="4"', "nodes of .* are missing"),
        ("<TiltSeries", '<!DOCTYPE a [<!ENTITY b "c">]><TiltSeries', "XML entities"),
    ],
)
def test_damage(old: str, new: str, expected: str, tmp_path: Path) -> None:
    text = (DATA / "TS_1.xml").read_text()
    assert old in text
    (tmp_path / "bad.xml").write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=expected) as caught:
        read_warp_series(tmp_path / "bad.xml", image_px=IMAGE_PX)
    assert "bad.xml" in str(caught.value)


def test_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--image-size"):
        read_warp_series(DATA / "TS_1.xml")
    with pytest.raises(UserError, match="cannot be read"):
        read_warp_series(tmp_path / "none.xml")
    (tmp_path / "movie.xml").write_text("<Movie/>")
    with pytest.raises(UserError, match="is a <Movie>"):
        read_warp_series(tmp_path / "movie.xml")
