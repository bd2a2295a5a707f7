"""Rotation axes fitted to volumes of bodies that rotate by known angles about known axes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from opustomo.dynamics.body_geometry import GeometryRequest, compare_axes, fit_axis, make_geometry
from opustomo.dynamics.body_masks import BodyMasks, center_of_mass, read_bodies
from opustomo.errors import UserError
from opustomo.io.mrc import write_volume
from opustomo.main import main
from tests.dynamics.analytic import sphere, write_definition

AXIS = np.array([0.3, -0.5, 0.81]) / np.linalg.norm([0.3, -0.5, 0.81])
PIVOT, ARM = np.array([-5.0, 1.0, 0.0]), np.array([11.0, 2.0, 1.0])
# crosses of arms that lean towards the axis lean too: the formula is exact for arms across it
ARM = ARM - (ARM @ AXIS) * AXIS
ANGLES = np.linspace(-12.0, 12.0, 5)
SIZE, APIX = 40, 5.0


def swung(angle_deg: float) -> np.ndarray:
    return PIVOT + Rotation.from_rotvec(np.radians(angle_deg) * AXIS).apply(ARM)


def test_axis_of_an_exact_path() -> None:
    path = np.stack([swung(angle) for angle in ANGLES])
    fit = fit_axis(path, PIVOT, 2.0)
    np.testing.assert_allclose(fit.axis, AXIS, atol=1e-12)
    assert fit.swept_deg == pytest.approx(24.0)
    assert fit.dispersion_deg == pytest.approx(0.0, abs=1e-5)
    assert fit.well_defined
    frame = fit.frame()
    np.testing.assert_allclose(frame @ frame.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(frame) == pytest.approx(1.0)
    np.testing.assert_allclose(frame[2], AXIS)
    start = PIVOT - swung(ANGLES[0])
    np.testing.assert_allclose(frame[0], start / np.linalg.norm(start))


def test_noise_has_no_axis() -> None:
    rng = np.random.default_rng(0)
    fit = fit_axis(ARM + 0.5 * rng.normal(size=(10, 3)), PIVOT, 2.0)
    assert not fit.well_defined
    still = fit_axis(np.tile(ARM, (5, 1)), PIVOT, 2.0)
    assert not still.well_defined and still.swept_deg == 0.0


def test_relations_of_axes() -> None:
    def about(axis: list[float]) -> object:
        turns = Rotation.from_rotvec(np.radians(ANGLES)[:, None] * np.array(axis))
        arm = np.array([0.0, 7.0, 0.0]) if axis[1] == 0 else np.array([7.0, 0.0, 0.0])
        return fit_axis(turns.apply(arm), np.zeros(3), 1.0)

    z = about([0, 0, 1.0])
    assert compare_axes(z, about([0, 0, -1.0])) == (pytest.approx(180.0), "hinge")  # type: ignore[arg-type]
    assert compare_axes(z, about([0.3, 0, 0.954]))[1] == "common drift"  # type: ignore[arg-type]
    assert compare_axes(z, about([1.0, 0, 0]))[1] == "uncorrelated"  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """STAR of two bodies (masks of 4 Å, wide about the second) and a traversal (volumes of 5 Å) in which it swings."""
    folder = tmp_path_factory.mktemp("motion") / "a motion"
    fixed = sphere(50, PIVOT * 1.25, 6.0)
    wide = sphere(50, (PIVOT + ARM) * 1.25, 7.5)
    star = write_definition(folder, [fixed, wide], 4.0, [2, 1])
    series = folder / "pc1"
    series.mkdir()
    for i, angle in enumerate(ANGLES):
        volume = sphere(SIZE, PIVOT, 4.0) + sphere(SIZE, swung(angle), 3.2)
        write_volume(series / f"reference{i}.mrc", volume - 0.05, APIX)
    return star, series


def test_geometry_from_a_traversal(moving: tuple[Path, Path]) -> None:
    star, series = moving
    bodies = read_bodies(star)
    said: list[str] = []
    # subtomograms of 64 voxels of 3.5 Å
    geometry = make_geometry(bodies, GeometryRequest(64, 3.5, 0, series, len(ANGLES)), said.append)
    scale = APIX / 3.5
    np.testing.assert_allclose(geometry.com_bodies[0], PIVOT * scale, atol=0.05)
    np.testing.assert_allclose(geometry.com_bodies[1], swung(0.0) * scale, atol=0.1)
    np.testing.assert_allclose(geometry.radii_bodies[1], 3.2 * scale / np.sqrt(5), rtol=0.05)
    assert np.degrees(np.arccos(np.array(geometry.orient_bodies[1])[2] @ AXIS)) < 3.0
    assert geometry.rotate_directions[0] == (0.0, 0.0, 0.0)
    np.testing.assert_allclose(geometry.rotate_directions[1], ARM * scale, atol=0.15)
    assert any("swept 2" in line and line.startswith("body 2") for line in said)
    # the first body does not move: its center about that of the second has no axis
    assert any("motion of body 1 does not define an axis" in line for line in said)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", r"reference4\.mrc does not exist"),
        ("odd", "39×39×39 voxels, but it must be an even cube"),
        ("other size", r"38 voxels of 5 Å, but reference0\.mrc has 40 voxels of 5 Å"),
        ("larger", r"larger than that of the subtomograms \(64 voxels of 2 Å\)"),
        ("smaller", "contain only"),
    ],
)
def test_volumes_that_do_not_fit(change: str, message: str, moving: tuple[Path, Path], tmp_path: Path) -> None:
    star, _ = moving
    for i in range(len(ANGLES) - (change == "missing")):
        volume = sphere(SIZE, PIVOT, 4.0) + sphere(SIZE, swung(ANGLES[i]), 3.0)
        if change == "odd":
            volume = volume[1:, 1:, 1:]
        if change == "other size" and i == 2:
            volume = volume[1:-1, 1:-1, 1:-1]
        if change == "smaller":
            volume = volume[10:-10, 10:-10, 10:-10]
        write_volume(tmp_path / f"reference{i}.mrc", volume, APIX)
    apix = 2.0 if change == "larger" else 3.5
    with pytest.raises(UserError, match=message):
        make_geometry(read_bodies(star), GeometryRequest(64, apix, 0, tmp_path, len(ANGLES)))


def test_origin_must_be_a_body(moving: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match="--origin-rel is 4"):
        make_geometry(read_bodies(moving[0]), GeometryRequest(64, 3.5, 3))


def test_masks_are_placed_by_pixel_size(moving: tuple[Path, Path]) -> None:
    """By the box ratio (50 to 40 voxels) the masks would miss the densities."""
    from opustomo.dynamics.body_geometry import read_series

    bodies: BodyMasks = read_bodies(moving[0])
    series = read_series(moving[1], len(ANGLES), bodies, 64, 3.5)
    np.testing.assert_allclose(center_of_mass(series.masks[1]), PIVOT + ARM, atol=0.1)


def test_analyze_dynamics_ranks(moving: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    star, series = moving
    still = tmp_path / "pc2"
    still.mkdir()
    for i in range(len(ANGLES)):
        write_volume(still / f"reference{i}.mrc", sphere(SIZE, PIVOT, 4.0) + sphere(SIZE, swung(0), 3.0), APIX)
    out = tmp_path / "ranks.json"
    words = ["analyze_dynamics", str(still), str(series), "--masks", str(star), "--num-volumes", "5", "-o", str(out)]
    assert main(words) == 0
    assert capsys.readouterr().out.startswith(f"1. {series}: 1 of 2 bodies")
    table = json.loads(out.read_text())
    assert [row["defined"] for row in table] == [1, 0]
    assert 20.0 < table[0]["bodies"][1]["swept_deg"] < 28.0
    # as a pattern of the shell gives it, with files among the folders, and as text
    (tmp_path / "pc.pkl").write_text("")
    text = tmp_path / "table.txt"
    words = [str(tmp_path / "pc.pkl"), str(still), str(series), "--masks", str(star), "--num-volumes", "5"]
    assert main(["analyze_dynamics", *words, "-o", str(text), "--verbose"]) == 0
    said = capsys.readouterr().out
    assert "skipped" in said and str(tmp_path / "pc.pkl") in said and said.count("reference4.mrc: body centers") == 2
    head, *rows = (line.split("\t") for line in text.read_text().splitlines())
    assert [row[head.index("rank")] for row in rows] == ["1", "1", "2", "2"]
    assert float(rows[1][head.index("swept_deg")]) == pytest.approx(table[0]["bodies"][1]["swept_deg"], abs=1e-3)
    assert main(["analyze_dynamics", str(tmp_path / "pc.pkl"), "--masks", str(star)]) == 1
    assert "None of the 1 given paths" in capsys.readouterr().err
