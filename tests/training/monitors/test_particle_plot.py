"""Figure of one particle with --plot."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from opustomo.training.monitors.records import Projections
from opustomo.training.monitors.training_figure import draw_particle

DISC = (np.hypot(*np.mgrid[-12:12, -12:12]) < 6).astype(np.float32)


def test_two_rows_show_input_model_and_target(tmp_path: Path, drawn: list[Figure]) -> None:
    noise = np.random.default_rng(0).normal(size=DISC.shape).astype(np.float32)
    path = tmp_path / "my tmp.png"
    draw_particle(path, Projections(DISC + noise, DISC, 0.5 * DISC + 2.0))
    assert imread(path).ndim == 3
    shown = [np.asarray(axes.images[0].get_array()) for axes in drawn[0].axes]
    assert len(shown) == 6
    np.testing.assert_allclose(shown[0], DISC + noise, rtol=1e-6)
    np.testing.assert_allclose(shown[2], DISC, rtol=1e-6)
    np.testing.assert_allclose(shown[4], 0.5 * DISC + 2.0, rtol=1e-6)
    assert shown[1].std() < 0.7 * shown[0].std() and shown[1].mean() == pytest.approx(shown[0].mean(), abs=0.02)
    assert "correlation of model and target 1.00" in drawn[0].texts[0].get_text()
    before = path.read_bytes()
    draw_particle(path, Projections(DISC, DISC, noise))
    assert path.read_bytes() != before
    assert os.listdir(tmp_path) == ["my tmp.png"]


@pytest.mark.parametrize("image", [np.zeros((8, 8)), np.full((8, 8), np.nan), np.full((8, 8), np.inf), np.ones((1, 1))])
def test_pictures_without_contrast(tmp_path: Path, image: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_particle(tmp_path / "tmp.png", Projections(image, image, image))
    assert (tmp_path / "tmp.png").stat().st_size > 1000


def test_a_failed_write_is_an_oserror(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        draw_particle(tmp_path / "file" / "tmp.png", Projections(DISC, DISC, DISC))
