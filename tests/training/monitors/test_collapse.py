"""Latent collapse is detected whatever the scale of the latents, never without cause, and reported once."""

from __future__ import annotations

import numpy as np
import pytest

from opustomo.training.monitors.collapse import LEAST_BITS, CollapseMonitor, diagnose, information
from opustomo.training.monitors.records import Encoded, EpochRecord
from tests.training.monitors import fabricated

WIDTH = 0.135


def record(means: np.ndarray, number: int, width: float | np.ndarray = WIDTH, **changes: object) -> EpochRecord:
    """An epoch with posteriors of one width; the memory of latents, which may look alive, is noise."""
    means = np.asarray(means, dtype=np.float32)
    deviations = np.broadcast_to(np.asarray(width, dtype=np.float32), means.shape)
    settings: dict[str, object] = {
        "latents": np.random.default_rng(number).normal(size=means.shape).astype(np.float32),
        "zdim": means.shape[1],
        "seen": np.ones(len(means), dtype=bool),
        "encoded": Encoded(means, deviations),
    }
    return fabricated.epoch(number, **(settings | changes))


def kinds(of: EpochRecord) -> list[str]:
    return [finding.kind for finding in diagnose(of)]


def test_information_is_that_of_a_gaussian_channel() -> None:
    means = np.random.default_rng(0).normal(size=(200_000, 3)) * (2.0, 0.5, 1e-3)
    found = information(means, np.full(means.shape, 0.5))
    np.testing.assert_allclose(found[:2], 0.5 * np.log2(1 + np.array([16.0, 1.0])), rtol=0.01)
    assert found[2] < 1e-5


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_rescaling_changes_nothing(scale: float) -> None:
    rng = np.random.default_rng(1)
    means, width = rng.normal(size=(300, 4)), np.full((300, 4), 0.3)
    means[:, 2] *= 1e-3
    np.testing.assert_allclose(information(scale * means, scale * width), information(means, width), rtol=1e-6)
    (finding,) = diagnose(record(scale * means, 9, scale * 0.3))
    assert (finding.kind, finding.columns) == ("dead", (2,))


@pytest.mark.parametrize("count", [12, 60, 1000, 60_000])
@pytest.mark.parametrize("point", [0.0, -40.0])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_particles_at_one_point_are_found(count: int, point: float, scale: float) -> None:
    # what an encoder leaves in a collapsed dimension, blown up or not
    left = np.random.default_rng(0).normal(size=(count, 4)) * 0.02
    found = [number for number in range(10) if kinds(record(scale * (point + left), number, scale)) == ["point"]]
    assert found == list(range(2, 10))


@pytest.mark.parametrize("count", [12, 60, 1000, 10_000])
@pytest.mark.parametrize("spread", [0.15, 1.0, 8.0])
def test_latents_that_vary_are_left_alone(count: int, spread: float) -> None:
    for number in range(20):
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


def test_the_width_of_the_posterior_decides() -> None:
    means = np.random.default_rng(1).normal(size=(2000, 3)) * (1.0, 0.05, 1.0)
    assert not kinds(record(means, 19, 0.1))  # weak, but told precisely
    (finding,) = diagnose(record(means, 19, np.array([0.1, 1.0, 0.1])))
    assert (finding.kind, finding.columns) == ("dead", (1,))
    assert information(means, np.full(means.shape, 0.1)).min() > LEAST_BITS


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


def test_particles_that_were_not_encoded_do_not_count() -> None:
    means = np.zeros((300, 4))
    means[7] = 1000.0  # as the memory has it
    width = np.full((300, 4), 0.2)
    width[7] = np.nan
    assert kinds(record(means, 19, width)) == ["point"]


def test_what_was_not_encoded_is_not_judged() -> None:
    means = np.zeros((300, 4))
    assert not kinds(record(means, 19, training=fabricated.terms(1.0) | {"kl": 0.0}))  # there is no encoder
    assert not kinds(record(means, 19, encoded=None))  # an epoch without checkpoint


@pytest.mark.parametrize("number", [0, 1])
def test_early_epochs_are_not_judged(number: int) -> None:
    assert not kinds(record(np.zeros((40, 5)), number))


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


@pytest.mark.parametrize("count", [0, 1])
def test_hardly_any_particles(count: int) -> None:
    assert not kinds(record(np.ones((count, 4)), 5))
    assert not kinds(record(np.ones((40, 4)), 5, seen=np.zeros(40, dtype=bool)))
    assert not kinds(record(np.ones((40, 0)), 5))


def test_each_condition_is_said_once() -> None:
    said: list[str] = []
    monitor = CollapseMonitor(said.append)
    alive = np.random.default_rng(3).normal(size=(1000, 4))
    half = alive * (1.0, 0.0, 1.0, 1.0)
    states = [alive] * 5 + [half] * 4 + [0 * alive] * 4 + [half] * 3
    for number, means in enumerate(states):
        monitor.interval(fabricated.interval(1000 * number))
        monitor.epoch(record(means, number))
    monitor.close()
    assert [finding.kind for finding in monitor.findings] == ["dead", "point"]
    assert len(said) == 2 and "1 of 4 latent dimensions" in said[0] and "latents have collapsed" in said[1]
    assert all("try" in line and "\n" not in line for line in said)
