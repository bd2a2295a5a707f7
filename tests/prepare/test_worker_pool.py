"""Work in several processes."""

from __future__ import annotations

import math
import os

import pytest

from opustomo.prepare.worker_pool import run_jobs


def test_results_of_all_jobs_in_any_order() -> None:
    assert sorted(run_jobs(math.factorial, list(range(6)), 2)) == [(i, math.factorial(i)) for i in range(6)]
    assert list(run_jobs(math.factorial, [3, 4], 1)) == [(0, 6), (1, 24)]
    assert list(run_jobs(math.factorial, [], 3)) == []


def test_one_process_is_this_one() -> None:
    assert {pid for _, pid in run_jobs(lambda _: os.getpid(), [1, 2], 1)} == {os.getpid()}


def test_errors_come_through() -> None:
    with pytest.raises(ZeroDivisionError):
        list(run_jobs(_invert, [1.0, 0.0, 2.0], 2))


def _invert(value: float) -> float:
    return 1.0 / value
