"""Display of the progress within an epoch."""

from __future__ import annotations

import pytest

from opustomo.training.loop_state import TRAINING, VALIDATION, LoopState
from opustomo.training.run_log import RunProgress, duration, visits_left


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_lines_begin_with_the_first_step_and_are_rare() -> None:
    clock, lines = Clock(), []
    shown = RunProgress(lines.append, lambda: 0.25, False, clock).begin("epoch 0 training", 1000, 0, 3000)
    for _ in range(100):
        clock.now += 1.0
        shown.advance(10)
    shown.close()
    assert lines[0].startswith("# epoch 0 training: 10 of 1,000 particles, 10 per second, 0:06:39 left for the run")
    assert lines[0].endswith("generative loss so far 0.25")
    assert len(lines) == 5  # after 1, 21, 41, 61 and 81 seconds
    assert "810 of 1,000" in lines[-1]


def test_lines_become_rarer_in_long_runs() -> None:
    clock, lines = Clock(), []
    shown = RunProgress(lines.append, lambda: 0.0, False, clock)
    clock.now += 36_000.0
    shown.begin("epoch 9 training", 10**6, 0, 0)
    for _ in range(720):
        clock.now += 1.0
        shown.advance(10)
    assert len(lines) == 1  # 2 % of ten hours are 12 minutes


def test_a_resumed_pass_counts_its_own_rate() -> None:
    clock, lines = Clock(), []
    shown = RunProgress(lines.append, lambda: 0.0, False, clock).begin("epoch 0 training", 100, 80, 0)
    clock.now += 2.0
    shown.advance(4)
    assert "84 of 100 particles, 2 per second, 0:00:08 left" in lines[0]


def test_later_passes_use_the_rate_of_the_whole_run() -> None:
    """Passes over held-out particles are faster than training, and writing an epoch takes time too."""
    clock, lines = Clock(), []
    shown = RunProgress(lines.append, lambda: 0.0, False, clock).begin("epoch 0 training", 100, 0, 1000)
    clock.now += 90.0
    shown.advance(100)
    shown.close()
    clock.now += 19.0
    shown.begin("epoch 0 validation", 100, 0, 900)
    clock.now += 1.0
    shown.advance(10)
    assert "10 of 100 particles, 10 per second, 0:16:30 left for the run" in lines[-1]  # 990 at 110 in 110 seconds


def test_a_bar_on_a_terminal_writes_no_lines(capsys: pytest.CaptureFixture[str]) -> None:
    clock, lines = Clock(), []
    shown = RunProgress(lines.append, lambda: 0.5, True, clock).begin("epoch 0 training", 100, 0, 100)
    for _ in range(5):
        clock.now += 5.0
        shown.advance(20)
    shown.close()
    assert not lines and "epoch 0 training" in capsys.readouterr().err


def test_other_processes_report_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    shown = RunProgress(None, lambda: 1 / 0, True).begin("epoch 0 training", 100, 0, 100)
    shown.advance(20)
    shown.close()
    assert capsys.readouterr().err == ""


def test_visits_left() -> None:
    assert visits_left(LoopState(epoch=0, kind=TRAINING), 80, 20, 3) == 220
    assert visits_left(LoopState(epoch=2, kind=VALIDATION), 80, 20, 3) == 0
    assert duration(3723.4) == "1:02:03"
