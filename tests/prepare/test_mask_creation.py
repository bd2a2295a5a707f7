"""Masks of balls compared with closed formulas and with independent morphology."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from analysis_scripts.main import main
from opustomo.io.mrc import read_volume, write_volume
from opustomo.prepare.mask_creation import MaskRecipe, make_mask, otsu_threshold, soften

N = 32


def radius(center: tuple[float, float, float] = (16, 16, 16), size: int = N) -> np.ndarray:
    """Distance of every voxel from a center x, y, z."""
    z, y, x = np.mgrid[:size, :size, :size]
    return np.sqrt((x - center[0]) ** 2 + (y - center[1]) ** 2 + (z - center[2]) ** 2)


def ball(r: float, center: tuple[float, float, float] = (16, 16, 16)) -> np.ndarray:
    return (radius(center) <= r).astype(np.float32)


def test_threshold_and_percentile() -> None:
    density = np.random.default_rng(0).normal(size=(N, N, N)).astype(np.float32)
    assert np.array_equal(make_mask(density, MaskRecipe(threshold=1.0)).core, density >= 1.0)
    assert make_mask(density, MaskRecipe(percentile=90.0)).core.mean() == pytest.approx(0.1, abs=1e-3)
    assert np.array_equal(make_mask(density, MaskRecipe(threshold=1.0, use_abs=True)).core, np.abs(density) >= 1.0)


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("level", [0.0, -7.0])
def test_threshold_found_by_itself(noise: float, level: float) -> None:
    """A blurred ball on any background, with noise, is found to one voxel."""
    rng = np.random.default_rng(1)
    density = level + ndimage.gaussian_filter(ball(9.0), 1.0) + noise * rng.normal(size=(N, N, N))
    mask = make_mask(density, MaskRecipe(largest_component=True, fill_holes=True))
    assert not mask.core[radius() > 11.5].any()
    assert mask.core[radius() <= 9.0].all()


@settings(max_examples=15)
@given(st.integers(0, 1000), st.floats(0.05, 0.95))
def test_otsu_is_the_best_split(seed: int, share: float) -> None:
    """No other edge of the histogram separates the classes with less variance within them."""
    rng = np.random.default_rng(seed)
    values = np.where(rng.random(500) < share, rng.normal(0, 1, 500), rng.normal(4, 1.5, 500))
    counts, edges = np.histogram(values, bins=256)
    centers = np.repeat(0.5 * (edges[:-1] + edges[1:]), counts)

    def within(threshold: float) -> float:
        return sum(part.size * part.var() for part in (centers[centers < threshold], centers[centers >= threshold]))

    best = min(within(edge) for edge in edges[1:-1] if (centers < edge).any() and (centers >= edge).any())
    assert within(otsu_threshold(values)) == pytest.approx(best)


@pytest.mark.parametrize(("change", "grown"), [("dilate", 3.0), ("erode", -3.0)])
def test_dilate_and_erode_are_balls(change: str, grown: float) -> None:
    core = make_mask(ball(9.0), MaskRecipe(threshold=0.5, **{change: 3.0})).core
    assert core[radius() <= 9.0 + grown - 1.0].all() and not core[radius() > 9.0 + grown + 1.0].any()


def test_open_and_close_against_scipy() -> None:
    """Same as scipy's morphology with a ball as structuring element."""
    rng = np.random.default_rng(2)
    density = ndimage.gaussian_filter(rng.normal(size=(N, N, N)), 2.0)
    density[:5] = density[-5:] = density[:, :5] = density[:, -5:] = density[:, :, :5] = density[:, :, -5:] = -1
    structure = radius((2, 2, 2), 5) <= 2.0
    hard = density >= 0.02
    opened = ndimage.binary_opening(hard, structure)
    closed = ndimage.binary_closing(hard, structure)
    assert np.array_equal(make_mask(density, MaskRecipe(threshold=0.02, open=2.0)).core, opened)
    assert np.array_equal(make_mask(density, MaskRecipe(threshold=0.02, close=2.0)).core, closed)


def test_order_of_steps() -> None:
    """A speck is opened away before dilation can join it; a shell is filled after it was closed."""
    density = ball(8.0, (12, 16, 16)) + ball(1.0, (25, 16, 16))
    core = make_mask(density, MaskRecipe(threshold=0.5, open=2.0, dilate=3.0)).core
    assert core[16, 16, 15] and not core[16, 16, 25]
    shell = ball(9.0) - ball(6.0)
    shell[16, 16, 22:27] = 0
    assert make_mask(shell, MaskRecipe(threshold=0.5, close=2.0, fill_holes=True)).core[16, 16, 16]
    assert not make_mask(shell, MaskRecipe(threshold=0.5, fill_holes=True)).core[16, 16, 16]
    two = ball(6.0, (10, 16, 16)) + ball(4.0, (25, 16, 16))
    core = make_mask(two, MaskRecipe(threshold=0.5, largest_component=True)).core
    assert core[16, 16, 10] and not core[16, 16, 25]


def test_soft_edge_is_a_raised_cosine() -> None:
    core = np.zeros((9, 9, 21), bool)
    core[:, :, 5] = True
    edge = soften(core, 6.0)[4, 4, 5:]
    distance = np.arange(16)
    expected = np.where(distance < 6, 0.5 * (1 + np.cos(np.pi * distance / 6)), 0.0)
    assert np.allclose(edge, expected, atol=1e-6)


def test_sphere() -> None:
    center = (13.0, 15.0, 18.0)
    alone = make_mask(np.zeros((N, N, N)), MaskRecipe(sphere_radius=7.0, sphere_center=center))
    assert np.array_equal(alone.core, radius(center) <= 7.0) and alone.threshold is None
    inside = make_mask(ball(9.0), MaskRecipe(threshold=0.5, sphere_radius=7.0, sphere_center=center))
    assert np.array_equal(inside.core, (radius(center) <= 7.0) & (ball(9.0) > 0))


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From another pixel size and box, soft edge in Å, a valid file with its voxel size, a report."""
    source, out = tmp_path / "my map.mrc", tmp_path / "new folder" / "mask.mrc"
    write_volume(source, ndimage.gaussian_filter(ball(9.0), 1.0), 4.0)
    words = ["create_mask", str(source), "-o", str(out), "--apix", "8", "--box", "24", "--soft-edge-angst", "24"]
    assert main([*words, "--threshold", "0.5"]) == 0
    mask, apix = read_volume(out)
    assert mask.shape == (24, 24, 24) and apix == 8.0
    r = radius((12, 12, 12), 24)
    assert (mask[r <= 4.0] == 1).all() and (mask[r > 4.5 + 3.6] == 0).all()
    between = mask[(r > 5.5) & (r < 6.5)]
    assert (between > 0).all() and (between < 1).all()
    assert mrcfile.validate(out, print_file=io.StringIO())
    assert "24×24×24 voxels of 8 Å from densities above 0.5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--threshold", "9"), "the threshold 9 leaves no voxel"),
        (("--threshold", "0.5", "--erode", "20"), "eroding leaves no voxel"),
        (("--soft-edge", "-1"), "--soft-edge must be at least 0, got -1"),
        (("--box", "31"), "--box must be even"),
        (("--percentile", "101"), "--percentile must lie in [0, 100], got 101"),
        (("--sphere-center", "1", "2", "3"), "--sphere-center requires --sphere-radius"),
        (("--apix", "0"), "--apix must be positive, got 0"),
    ],
)
def test_errors(words: tuple[str, ...], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_volume(tmp_path / "map.mrc", ball(9.0), 4.0)
    assert main(["create_mask", str(tmp_path / "map.mrc"), "-o", str(tmp_path / "out.mrc"), *words]) == 1
    said = capsys.readouterr().err
    assert expected in said and said.count("\n") == 1
    assert not (tmp_path / "out.mrc").exists()


@pytest.mark.parametrize("words", [("--box", "32", "--apix", "13.1"), ("--apix", "13.1")])
def test_headers_that_say_one_angstrom(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple) -> None:
    """A map of 13.1 Å with 1 Å in its header gives an empty mask; --map-apix corrects it."""
    write_volume(tmp_path / "map.mrc", ndimage.gaussian_filter(ball(9.0), 1.0), 1.0)
    command = ["create_mask", str(tmp_path / "map.mrc"), "-o", str(tmp_path / "out.mrc"), *words, "--threshold", "0.5"]
    command += ["--open", "1"]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "leaves no voxel" in said and "--map-apix" in said and "the header of the map says 1 Å per pixel" in said
    assert said.count("\n") == 1 and not (tmp_path / "out.mrc").exists()
    assert main([*command, "--map-apix", "13.1"]) == 0
    assert "--map-apix" not in capsys.readouterr().out


def test_a_mask_from_a_doubtful_header_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_volume(tmp_path / "map.mrc", ndimage.gaussian_filter(ball(9.0), 1.0), 1.0)
    command = ["create_mask", str(tmp_path / "map.mrc"), "-o", str(tmp_path / "out.mrc"), "--threshold", "0.5"]
    assert main([*command, "--apix", "2", "--box", "32"]) == 0
    said = capsys.readouterr().out
    assert "Note: the header of the map says 1 Å per pixel, so that the map spans 32 Å and" in said
    assert main(command) == 0  # no size is needed then
    assert "--map-apix" not in capsys.readouterr().out


def test_maps_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def make(density: np.ndarray, *words: str) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # mrcfile tells of NaN
            write_volume(tmp_path / "map.mrc", density, 4.0)
        assert main(["create_mask", str(tmp_path / "map.mrc"), "-o", str(tmp_path / "out.mrc"), *words]) == 1
        return capsys.readouterr().err

    assert "equal voxels" in make(np.ones((N, N, N), np.float32))
    assert "not finite" in make(np.full((N, N, N), np.nan, np.float32))
    assert "require a cubic map" in make(np.ones((8, 8, 10), np.float32), "--apix", "5")
