"""TensorBoard: scalars and steps, and the event files if TensorBoard is installed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from opustomo.training.monitors.metrics import TensorBoardMonitor, tensorboard_available
from tests.training.monitors import fabricated


class Recorder:
    """Replacement of SummaryWriter."""

    def __init__(self, log_dir: str, purge_step: int | None = None) -> None:
        self.log_dir, self.purge_step = log_dir, purge_step
        self.scalars: dict[tuple[str, int], float] = {}
        self.flushed, self.closed = 0, False

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.scalars[tag, step] = value

    def flush(self) -> None:
        self.flushed += 1

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    made: list[Recorder] = []

    def make(*arguments: Any, **settings: Any) -> Recorder:
        made.append(Recorder(*arguments, **settings))
        return made[-1]

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = make  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return made


def test_scalars_and_steps(recorders: list[Recorder], tmp_path: Path) -> None:
    monitor = TensorBoardMonitor(tmp_path / "tb")
    monitor.interval(fabricated.interval(3000, epoch=1))
    monitor.epoch(fabricated.epoch(1))
    monitor.epoch(fabricated.epoch(2, validation=None))
    monitor.close()
    (writer,) = recorders
    assert writer.log_dir == str(tmp_path / "tb") and writer.purge_step is None
    assert writer.scalars["training/total", 3000] == 3.0
    assert writer.scalars["run/lr", 3000] == 4e-5 and writer.scalars["run/running_snr", 3000] == 0.0125
    assert writer.scalars["training_epoch/total", 1] == -1.0 and writer.scalars["validation/total", 1] == -0.5
    assert ("training_epoch/total", 2) in writer.scalars and ("validation/total", 2) not in writer.scalars
    assert writer.flushed == 2 and writer.closed


def test_a_resumed_run_hides_what_comes_again(recorders: list[Recorder], tmp_path: Path) -> None:
    TensorBoardMonitor(tmp_path, resumed_at=5000)
    assert recorders[0].purge_step == 5001


@pytest.mark.skipif(not tensorboard_available(), reason="TensorBoard is not installed")
def test_event_files_can_be_read(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = TensorBoardMonitor(tmp_path / "tb")
    for seen in (1000, 2000, 3000):
        first.interval(fabricated.interval(seen))
    first.epoch(fabricated.epoch(0))
    first.close()
    again = TensorBoardMonitor(tmp_path / "tb", resumed_at=2000)
    again.interval(fabricated.interval(3500))
    again.close()
    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    assert [scalar.step for scalar in events.Scalars("training/gen")] == [1000, 2000, 3500]
    assert events.Scalars("validation/total")[0].value == pytest.approx(0.5)
