"""Sizes of the nested boxes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opustomo.physics.boxes import Boxes


@given(st.integers(20, 150).map(lambda n: 2 * n), st.floats(0.4, 1.0), st.floats(0.3, 0.98))
def test_sizes_are_even_and_nested(box: int, downfrac: float, window: float) -> None:
    boxes = Boxes.from_window(box, 4.0, downfrac, window)
    assert boxes.box % 2 == boxes.render % 2 == boxes.crop % 2 == 0
    assert boxes.crop <= boxes.render <= boxes.box
    assert boxes.render > box * downfrac - 2 - 1e-6
    assert boxes.crop > boxes.render * window - 2 - 1e-6
    assert boxes.render_apix * boxes.render == pytest.approx(4.0 * box)


@pytest.mark.parametrize(
    ("box", "downfrac", "window", "render", "crop"),
    [(48, 1.0, 0.85, 48, 40), (48, 1.0, 0.5, 48, 24), (160, 0.7, 0.85, 112, 94), (100, 0.58, 0.9, 58, 52)],
)
def test_sizes(box: int, downfrac: float, window: float, render: int, crop: int) -> None:
    """Fractions that floating point makes a trace too small do not lose two voxels (100·0.58/2 is 28.999…)."""
    boxes = Boxes.from_window(box, 4.0, downfrac, window)
    assert (boxes.render, boxes.crop) == (render, crop)


def test_window_of_whole_voxels_is_not_rounded_down() -> None:
    for size in range(8, 200, 2):
        for crop in range(4, size + 1, 2):
            assert Boxes.from_window(size, 1.0, 1.0, crop / size).crop == crop


def test_grid_units() -> None:
    """One input pixel is Dr/D crop voxels, each 2/(Dc - 1) wide; voxel Dc/2 stands half a voxel off zero."""
    boxes = Boxes(96, 4.0, 48, 40)
    assert boxes.grid_per_pixel == pytest.approx(0.5 * 2 / 39)
    assert boxes.center == pytest.approx(20 * 2 / 39 - 1)


@pytest.mark.parametrize(
    "arguments",
    [(15, 4.0, 14, 12), (16, 4.0, 18, 12), (16, 4.0, 12, 14), (16, 4.0, 12, 11), (16, 0.0, 16, 12), (16, 4.0, 4, 2)],
)
def test_impossible_sizes_are_refused(arguments: tuple[int, float, int, int]) -> None:
    with pytest.raises(ValueError):
        Boxes(*arguments)


@pytest.mark.parametrize("downfrac", [0.0, -0.5, 1.2])
def test_impossible_fraction_is_refused(downfrac: float) -> None:
    with pytest.raises(ValueError, match="downfrac"):
        Boxes.from_window(32, 4.0, downfrac)
