"""training.png: every kind of epoch, and the history of a resumed run."""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from opustomo.training.monitors import training_figure
from opustomo.training.monitors.convergence_state import ConvergenceMonitor
from opustomo.training.monitors.metrics import MetricsFile
from opustomo.training.monitors.training_figure import TrainingFigure
from tests.training.monitors import fabricated

SHAPE = (190, 325)


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few pixels, which are quick to draw."""
    monkeypatch.setattr(training_figure, "DPI", 25)


def panel(figure: Figure, start: str) -> Axes:
    (found,) = (axes for axes in figure.axes if axes.get_title(loc="left").startswith(start))
    return found


def curves(figure: Figure, title: str) -> dict[str, np.ndarray]:
    """Label → (epochs, 2)."""
    return {str(line.get_label()): np.asarray(line.get_xydata()) for line in panel(figure, title).get_lines()}


def test_curves_hold_training_and_held_out_means(tmp_path: Path, drawn: list[Figure]) -> None:
    figure = TrainingFigure(tmp_path / "a run" / "training.png")
    for number in range(3):
        figure.epoch(fabricated.epoch(number))
    assert imread(tmp_path / "a run" / "training.png").shape[:2] == SHAPE
    assert os.listdir(tmp_path / "a run") == ["training.png"]
    for title, place in (("generative", 1), ("total", 0), ("KL", 4)):
        found = curves(drawn[-1], title)
        np.testing.assert_allclose(found["training"], [(e, -e + 0.01 * place) for e in range(3)])
        np.testing.assert_allclose(found["held out"], [(e, 0.5 - e + 0.01 * place) for e in range(3)])
    assert any(text.get_text() == "epoch 2" for text in drawn[-1].texts)


def test_the_state_of_the_run_is_drawn(tmp_path: Path, drawn: list[Figure]) -> None:
    """The statement, the epoch since which it holds, and the changes of latents and volume."""
    said: list[str] = []
    convergence = ConvergenceMonitor(tmp_path, said.append)
    figure = TrainingFigure(tmp_path / "training.png", convergence)
    for number in range(8):
        record = fabricated.epoch(number)
        means = {name: math.exp(-2.0 * number) for name in record.training}
        record = replace(record, training=means, validation=means)
        convergence.epoch(record)
        figure.epoch(record)
    assert convergence.statement.sentence in said[-1]
    assert convergence.statement.state in ("converged", "improving")
    sentence = convergence.statement.sentence
    assert any(text.get_text().lower() == sentence.lower() for text in drawn[-1].texts)
    changes = curves(drawn[-1], "change since")
    assert {"latents / spread", "1 − volume correlation"} <= set(changes)
    assert changes["latents / spread"][:, 0].tolist() == list(range(8))


def test_the_epoch_to_use_is_drawn_for_a_run_that_overfits(tmp_path: Path, drawn: list[Figure]) -> None:
    convergence = ConvergenceMonitor(tmp_path, lambda line: None)
    figure = TrainingFigure(tmp_path / "training.png", convergence)
    (tmp_path / "weights.3.pkl").touch()
    for number, held_out in enumerate([-1.0, -1.5, -1.7, -1.8, -1.6, -1.5, -1.5, -1.4]):
        record = fabricated.epoch(number)
        training = {name: -1.0 - 0.1 * number for name in record.training}
        record = replace(record, training=training, validation={name: held_out for name in training})
        convergence.epoch(record)
        figure.epoch(record)
    (text,) = [text.get_text() for text in drawn[-1].texts if "verfitting since epoch 4" in text.get_text()]
    assert text.endswith("; use epoch 3")


def test_the_picture_shows_central_slices(tmp_path: Path, drawn: list[Figure]) -> None:
    record = fabricated.epoch(0)
    TrainingFigure(tmp_path / "training.png").epoch(record)
    images = {(a.get_xlabel()[0], a.get_ylabel()[0]): a.images[0].get_array() for a in drawn[0].axes if a.images}
    np.testing.assert_array_equal(images["x", "y"], record.template[8])
    np.testing.assert_array_equal(images["x", "z"], record.template[:, 8])
    np.testing.assert_array_equal(images["y", "z"], record.template[:, :, 8])


def test_only_composition_of_seen_particles_is_scattered(tmp_path: Path, drawn: list[Figure]) -> None:
    latents = np.zeros((40, 5), dtype=np.float32)
    latents[:, 1] = np.linspace(-1, 1, 40)
    latents[:, 3] = 100.0 * np.arange(40)  # conformation
    latents[5] = np.nan
    seen = np.arange(40) % 4 > 0
    TrainingFigure(tmp_path / "training.png").epoch(fabricated.epoch(0, latents=latents, seen=seen))
    axes = panel(drawn[0], "composition latents (running averages), 29 particles")
    points = np.asarray(axes.collections[0].get_offsets())
    wanted = latents[seen & np.isfinite(latents[:, 0]), 1]
    np.testing.assert_allclose(points[:, 0], wanted - wanted.mean(), atol=1e-6)
    np.testing.assert_allclose(points[:, 1], 0.0, atol=1e-6)


def test_a_resumed_run_shows_its_past(tmp_path: Path, drawn: list[Figure]) -> None:
    metrics = MetricsFile(tmp_path / "metrics.csv")
    for number in range(6):
        metrics.epoch(fabricated.epoch(number, validation=None if number == 1 else fabricated.terms(9.0)))
    figure = TrainingFigure(tmp_path / "training.png")
    figure.epoch(fabricated.epoch(4, training=fabricated.terms(70.0)))  # 4 is done again, 5 was never
    found = curves(drawn[-1], "total")
    np.testing.assert_allclose(found["training"], [(0, 0), (1, -1), (2, -2), (3, -3), (4, 70)])
    np.testing.assert_allclose(found["held out"], [(0, 9), (1, np.nan), (2, 9), (3, 9), (4, -3.5)])


def test_a_new_run_does_not_show_the_past_of_another(tmp_path: Path, drawn: list[Figure]) -> None:
    metrics = MetricsFile(tmp_path / "metrics.csv")
    for number in range(3):
        metrics.epoch(fabricated.epoch(number))
    TrainingFigure(tmp_path / "training.png").epoch(fabricated.epoch(0))
    assert len(curves(drawn[0], "total")["training"]) == 1


def test_a_first_epoch_far_off_does_not_flatten_the_rest(tmp_path: Path, drawn: list[Figure]) -> None:
    figure = TrainingFigure(tmp_path / "training.png")
    for number in range(6):
        total = 1000.0 if number == 0 else -0.1 * number
        figure.epoch(fabricated.epoch(number, training=fabricated.terms(total), validation=None))
    axes = panel(drawn[-1], "total")
    low, high = axes.get_ylim()
    assert low < -0.5 and -0.1 < high < 1.0
    assert "off scale" in axes.get_xlabel()
    assert "off scale" not in panel(drawn[2], "total").get_xlabel()  # too early to tell


LATENTS = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)


@pytest.mark.parametrize(
    "changes",
    [
        {"validation": None},
        {"training": fabricated.terms(float("nan")), "validation": fabricated.terms(float("inf"))},
        {"training": {}, "validation": None},
        {"latents": np.zeros((40, 5), dtype=np.float32)},
        {"latents": np.full((40, 5), np.nan, dtype=np.float32)},
        {"latents": LATENTS * np.float32(1e30)},
        {"latents": LATENTS * np.float32(1e-30)},
        {"zdim": 1},
        {"zdim": 0},
        {"seen": np.zeros(40, dtype=bool)},
        {"seen": np.arange(40) == 3},
        {"seen": np.arange(40) < 2},
        {"template": np.zeros((16, 16, 16), dtype=np.float32)},
        {"template": np.full((16, 16, 16), np.nan, dtype=np.float32)},
        {"template": np.ones((2, 2, 2), dtype=np.float16)},
        {"seconds": 360_000.0},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_awkward_epochs_are_drawn_without_warnings(tmp_path: Path, changes: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TrainingFigure(tmp_path / "training.png").epoch(fabricated.epoch(0, **changes))
    assert imread(tmp_path / "training.png").shape[:2] == SHAPE


def test_many_particles_become_hexagons(tmp_path: Path, drawn: list[Figure], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_figure, "HEXAGONS_ABOVE", 39)
    TrainingFigure(tmp_path / "training.png").epoch(fabricated.epoch(0, written=0))
    axes = panel(drawn[0], "density of composition latents (z.0.pkl), 40 particles")
    counts = np.asarray(axes.collections[0].get_array())
    assert counts.sum() == 40


def test_a_failed_write_is_an_oserror_and_keeps_the_picture_before(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    figure = TrainingFigure(tmp_path / "file" / "training.png")
    with pytest.raises(OSError):
        figure.epoch(fabricated.epoch(0))
    path = tmp_path / "training.png"
    path.mkdir()
    with pytest.raises(OSError):
        TrainingFigure(path).epoch(fabricated.epoch(0))
    assert sorted(os.listdir(tmp_path)) == ["file", "training.png"]
