"""The standard monitors of a run together."""

from __future__ import annotations

from pathlib import Path

import pytest

from opustomo.training.monitors import standard
from opustomo.training.monitors.collapse import CollapseMonitor
from opustomo.training.monitors.convergence_state import ConvergenceMonitor
from opustomo.training.monitors.metrics import MetricsFile
from opustomo.training.monitors.records import Monitor
from opustomo.training.monitors.standard import standard_monitors
from opustomo.training.monitors.training_figure import TrainingFigure
from tests.training.monitors import fabricated


@pytest.fixture(autouse=True)
def no_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standard, "tensorboard_available", lambda: False)


def tell(monitors: list[Monitor], numbers: range) -> None:
    for number in numbers:
        for monitor in monitors:
            monitor.interval(fabricated.interval(1000 * (number + 1), epoch=number))
        for monitor in monitors:
            monitor.epoch(fabricated.epoch(number))
    for monitor in monitors:
        monitor.close()


def lines(path: Path) -> list[str]:
    return [",".join(line.split(",")[1:]) for line in path.read_text().splitlines()]


def test_a_run_and_its_resumption_leave_the_same_files(tmp_path: Path) -> None:
    said: list[str] = []
    tell(standard_monitors(tmp_path / "whole", said.append, None), range(4))
    tell(standard_monitors(tmp_path / "part", said.append, None), range(3))
    tell(standard_monitors(tmp_path / "part", said.append, 2000), range(2, 4))
    for folder in ("whole", "part"):
        assert {path.name for path in (tmp_path / folder).iterdir()} == {"metrics.csv", "epochs.csv", "training.png"}
    for name in ("metrics.csv", "epochs.csv"):
        part, whole = lines(tmp_path / "part" / name), lines(tmp_path / "whole" / name)
        if name == "epochs.csv":  # the changes of the first epoch after the resumption are unknown
            assert part.pop(3).endswith(",,") and not whole.pop(3).endswith(",,")
        assert part == whole and len(whole) >= 4
    assert all(line.startswith("# epoch ") for line in said)


def test_a_file_that_cannot_be_continued_is_said_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").mkdir()
    said: list[str] = []
    monitors = standard_monitors(tmp_path, said.append, 1000)
    assert [type(monitor) for monitor in monitors] == [ConvergenceMonitor, TrainingFigure, CollapseMonitor]
    assert len(said) == 1 and "metrics.csv" in said[0]
    assert isinstance(standard_monitors(tmp_path, said.append, None)[1], MetricsFile)


def test_tensorboard_joins_when_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Path, int | None]] = []
    monkeypatch.setattr(standard, "tensorboard_available", lambda: True)
    monkeypatch.setattr(standard, "TensorBoardMonitor", lambda *arguments: asked.append(arguments) or "it")
    assert standard_monitors(tmp_path, print, 70)[-1] == "it"
    assert asked == [(tmp_path / "tensorboard", 70)]


def test_a_broken_tensorboard_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise ImportError("no module named protobuf")

    monkeypatch.setattr(standard, "tensorboard_available", lambda: True)
    monkeypatch.setattr(standard, "TensorBoardMonitor", broken)
    said: list[str] = []
    assert len(standard_monitors(tmp_path, said.append, None)) == 4
    assert "protobuf" in said[0]
