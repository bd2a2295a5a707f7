"""Collapse of latents: found when there, never when not, said once."""

from __future__ import annotations

import numpy as np
import pytest

from opustomo.training import memory
from opustomo.training.records import EpochRecord
from opustomo.watch import collapse
from opustomo.watch.collapse import CollapseWatcher, diagnose
from tests.watch import fabricated


def remembered(means: np.ndarray, visits: int, seed: int = 0) -> np.ndarray:
    """The latent memory after ``visits`` visits that all gave ``means`` (N, L)."""
    values = np.random.default_rng(seed).normal(size=means.shape)
    for _ in range(visits):
        values = (1.0 - memory.NEW_SHARE) * values + memory.NEW_SHARE * means
    return values.astype(np.float32)


def record(means: np.ndarray, number: int, zdim: int | None = None, **changes: object) -> EpochRecord:
    latents = remembered(means, number + 1)
    settings: dict[str, object] = {
        "latents": latents,
        "zdim": means.shape[1] if zdim is None else zdim,
        "seen": np.ones(len(means), dtype=bool),
    }
    return fabricated.epoch(number, **(settings | changes))


def kinds(of: EpochRecord) -> list[str]:
    return [finding.kind for finding in diagnose(of)]


def test_the_share_is_that_of_the_memory() -> None:
    assert pytest.approx(1.0 - memory.NEW_SHARE) == collapse.OLD_SHARE


@pytest.mark.parametrize("count", [60, 1000, 60_000])
@pytest.mark.parametrize("point", [0.0, -40.0])
def test_particles_at_one_point_are_found(count: int, point: float) -> None:
    means = np.full((count, 4), point)
    found = [number for number in range(25) if kinds(record(means, number)) == ["point"]]
    # from the first epoch on at which the noise that the memory started from is small enough, without a gap
    assert found == list(range(found[0], 25))
    assert found[0] == {60: 7, 1000: 5, 60_000: 2}[count]


@pytest.mark.parametrize("count", [12, 60, 1000, 10_000])
@pytest.mark.parametrize("spread", [0.15, 1.0, 8.0])
def test_latents_that_vary_are_left_alone(count: int, spread: float) -> None:
    for number in range(30):
        means = np.random.default_rng(number).normal(size=(count, 6)) * spread
        assert not kinds(record(means, number)), number


def test_two_states_are_no_collapse() -> None:
    means = np.zeros((500, 3))
    means[::10] = (1.0, -1.0, 0.5)  # one in ten differs, all others are equal
    assert not kinds(record(means, 19))


def test_dead_dimensions_are_named() -> None:
    means = np.random.default_rng(1).normal(size=(2000, 8))
    means[:, [2, 5]] *= (1e-4, 0.0)
    (finding,) = diagnose(record(means, 19))
    assert (finding.kind, finding.columns) == ("dead", (2, 5))
    assert "columns 2, 5 of mu" in finding.sentence and "--zdim 6" in finding.sentence


def test_a_weak_dimension_is_not_dead() -> None:
    means = np.random.default_rng(1).normal(size=(2000, 3)) * (1.0, 0.05, 1.0)
    assert not kinds(record(means, 19))
    means = np.random.default_rng(1).normal(size=(2000, 3)) * (0.05, 0.008, 0.05)  # small, but not far below the others
    assert not kinds(record(means, 29))


def test_only_composition_and_particles_seen_are_judged() -> None:
    rng = np.random.default_rng(2)
    means = rng.normal(size=(400, 6))
    means[:, 4:] = 0.0
    assert not kinds(record(means, 19, zdim=4))  # a conformation that nothing moves is none
    assert kinds(record(means, 19, zdim=6)) == ["dead"]
    means[:300] = 0.0
    seen = np.arange(400) < 300
    assert kinds(record(means, 19, zdim=4, seen=seen)) == ["point"]
    assert not kinds(record(means, 19, zdim=4))


def test_latents_without_an_encoder_are_not_judged() -> None:
    means = np.zeros((300, 4))
    assert not kinds(record(means, 19, training=fabricated.terms(1.0) | {"kl": 0.0}))


@pytest.mark.parametrize("number", [0, 1])
def test_early_epochs_are_not_judged(number: int) -> None:
    assert not kinds(fabricated.epoch(number, latents=np.zeros((40, 5), dtype=np.float32)))


def test_values_that_are_not_finite_are_found_at_once() -> None:
    latents = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    latents[[7, 9], [0, 2]] = np.nan, np.inf
    latents[3, 4] = np.nan  # conformation
    (finding,) = diagnose(fabricated.epoch(0, latents=latents))
    assert finding.kind == "latents"
    assert "2 of 40 particles" in finding.sentence and "particle 7 " in finding.sentence
    seen = np.ones(40, dtype=bool)
    seen[:8] = False
    (finding,) = diagnose(fabricated.epoch(0, latents=latents, seen=seen))
    assert "1 of 32 particles" in finding.sentence and "particle 9 " in finding.sentence
    terms = fabricated.terms(1.0) | {"gen": float("nan"), "tv": float("inf")}
    (finding,) = diagnose(fabricated.epoch(0, training=terms))
    assert finding.kind == "loss" and "(gen, tv)" in finding.sentence


@pytest.mark.parametrize("count", [0, 1, 2])
def test_hardly_any_particles(count: int) -> None:
    assert not kinds(record(np.ones((count, 4)), 5))
    assert not kinds(record(np.ones((40, 4)), 5, seen=np.zeros(40, dtype=bool)))
    assert not kinds(record(np.ones((40, 0)), 5))


def test_each_condition_is_said_once() -> None:
    said: list[str] = []
    watcher = CollapseWatcher(said.append)
    alive = np.random.default_rng(3).normal(size=(1000, 4))
    half = alive * (1.0, 0.0, 1.0, 1.0)
    states = [alive] * 5 + [half] * 4 + [0 * alive] * 4 + [half] * 3
    for number, means in enumerate(states):
        watcher.interval(fabricated.interval(1000 * number))
        watcher.epoch(record(means, number))
    watcher.close()
    assert [finding.kind for finding in watcher.findings] == ["dead", "point"]
    assert len(said) == 2 and "after epoch 6 1 of 4 latent dimensions" in said[0] and "after epoch 10 " in said[1]
    assert all("try" in line and "\n" not in line for line in said)
