"""Schedules compared with the numbers of docs/method.md, sections 4 and 6."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opustomo.training.schedules import (
    WARM_UP,
    beta_at,
    bfactor_at,
    composition_scale_at,
    learning_rate_at,
    longer_run,
)


@pytest.mark.parametrize(
    ("seen", "beta"),
    [(0, 0.1), (10_000, 0.55), (20_000, 1.0), (26_999, 1.0), (27_000, 0.1), (37_000, 0.55), (54_000 + 5_000, 0.325)],
)
def test_cos_is_a_ramp_that_restarts(seen: int, beta: float) -> None:
    assert beta_at("cos", seen) == pytest.approx(beta)


@pytest.mark.parametrize(
    ("name", "seen", "beta"),
    [
        ("a", 0, 0.001), ("a", 250_000, 0.5005), ("a", 500_000, 1.0), ("a", 10**7, 1.0),
        ("b", 0, 5.0), ("b", 200_000, 5.0), ("b", 500_000, 10.0), ("b", 800_000, 15.0), ("b", 10**7, 15.0),
        ("c", 199_999, 5.0), ("c", 500_000, 11.5), ("c", 800_000, 18.0),
        ("d", 1_000_000, 5.0), ("d", 3_000_000, 11.5), ("d", 5_000_000, 18.0), ("d", 6_000_000, 18.0),
    ],
)  # fmt: skip
def test_linear_schedules(name: str, seen: int, beta: float) -> None:
    assert beta_at(name, seen) == pytest.approx(beta)


@given(st.floats(0, 1e6), st.integers(0, 10**8))
def test_numbers_are_constants(value: float, seen: int) -> None:
    assert beta_at(repr(value), seen) == value


@pytest.mark.parametrize("schedule", ["", "cosine", "e", "-1", "nan", "inf", "-inf", "0.5x", "A"])
def test_other_schedules_are_refused(schedule: str) -> None:
    with pytest.raises(ValueError, match="beta must be cos, a, b, c, d or a number of at least 0"):
        beta_at(schedule, 0)


def test_bfactor_grows_by_a_quarter() -> None:
    assert bfactor_at(4.0, 0) == pytest.approx(4.25)  # 1 + 0.25 / (1 + 3)
    assert bfactor_at(4.0, 10) == pytest.approx(4.0 * (1 + 0.25 / (1 + 3 / math.e)))
    assert bfactor_at(4.0, 11) > bfactor_at(4.0, 10)
    assert bfactor_at(4.0, 1000) == pytest.approx(5.0)


def test_the_first_updates_are_warmed_up() -> None:
    rates = [learning_rate_at(2.0, 0, update) for update in range(WARM_UP + 5)]
    assert rates[0] == pytest.approx(2.0 / WARM_UP)
    assert rates[WARM_UP - 1 :] == [2.0] * 6
    steps = [second - first for first, second in pairwise(rates[:WARM_UP])]
    assert steps == pytest.approx([2.0 / WARM_UP] * (WARM_UP - 1))


def test_learning_rate_decays_after_each_epoch() -> None:
    assert learning_rate_at(4e-5, 0, 1000) == 4e-5
    assert learning_rate_at(4e-5, 1, 1000) == pytest.approx(3.92e-5)
    assert learning_rate_at(1.0, 20, 10**6) == pytest.approx(0.98**20)


def test_the_composition_comes_in_after_the_motion() -> None:
    values = [composition_scale_at(update) for update in (0, 1000, 1500, 2000, 10**6)]
    assert values == pytest.approx([0, 0, 0.5, 1, 1])


def test_a_longer_run_has_a_lower_learning_rate_but_not_below_that_of_long_runs() -> None:
    assert longer_run(11, 4e-4) == ["-n", "22", "--lr", "2.0e-04"]
    assert longer_run(5, 6e-5) == ["-n", "10", "--lr", "4.5e-05"]
    assert longer_run(5, 4e-5) == ["-n", "10"]
