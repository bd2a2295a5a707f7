"""Schedules over visits, updates and epochs (docs/method.md, sections 4 and 6)."""

from __future__ import annotations

import math

from opustomo.quality.checks.proposed_commands import BASE_LR

LR_DECAY = 0.98
WARM_UP = 100
MOTION_FIRST = (1000, 2000)
"""First and last update of the ramp with which the composition comes in if bodies move."""
CYCLE = 27_000
RAMP = 20_000

_LINEAR = {  # name: (first value, last value, particles at which the ramp starts and ends)
    "a": (0.001, 1.0, 0, 500_000),
    "b": (5.0, 15.0, 200_000, 800_000),
    "c": (5.0, 18.0, 200_000, 800_000),
    "d": (5.0, 18.0, 1_000_000, 5_000_000),
}


def beta_at(schedule: str, particles_seen: int) -> float:
    """Return β(t) of a named schedule, or the constant that ``schedule`` gives as a number.

    ``cos`` is a linear ramp from 0.1 to 1 over 20,000 particles, held to 27,000, then restarted.

    Raises
    ------
    ValueError
        If the schedule is neither known nor a number ≥ 0.
    """
    if schedule == "cos":
        return 0.1 + 0.9 * min(1.0, (particles_seen % CYCLE) / RAMP)
    if schedule in _LINEAR:
        first, last, start, end = _LINEAR[schedule]
        return first + (last - first) * _ramp(particles_seen, (start, end))
    try:
        value = float(schedule)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"beta must be cos, {', '.join(_LINEAR)} or a number of at least 0, got {schedule!r}")
    return value


def bfactor_at(bfactor_A2: float, epoch: int) -> float:
    """Return the B factor of an epoch e, ``b (1 + 0.25 / (1 + 3 exp(-0.1 e)))``."""
    return bfactor_A2 * (1.0 + 0.25 / (1.0 + 3.0 * math.exp(-0.1 * epoch)))


def learning_rate_at(lr: float, epoch: int, update: int) -> float:
    """Return the learning rate of an epoch and an update, both counted from 0.

    It is multiplied by 0.98 after each epoch and rises linearly over the first 100 updates. Without this warm-up, which
    OPUS-TOMO does not have, the first updates of Adam at rates above 2e-4 undo what the consensus volume explains.
    """
    return lr * LR_DECAY**epoch * min(1.0, (update + 1) / WARM_UP)


def composition_scale_at(update: int) -> float:
    """Return the factor of the composition after a number of updates of a run with bodies.

    A decoder can draw moved bodies as well as move them, and bodies do not learn a motion that it draws already.
    Therefore bodies move first: the factor is 0 at the start and then rises linearly to 1. OPUS-TOMO has no such
    schedule.
    """
    return _ramp(update, MOTION_FIRST)


def _ramp(value: float, between: tuple[float, float]) -> float:
    """Return 0 up to the first of two values, 1 from the second, and a linear ramp between them."""
    start, end = between
    return min(1.0, max(0.0, (value - start) / (end - start)))


def longer_run(epochs: int, lr: float) -> list[str]:
    """Return the options that continue a run of ``epochs`` for twice as many.

    The learning rate of a short run is too high for a longer one: it is inversely proportional to the number of
    updates, but not below that of long runs.
    """
    rate = ["--lr", f"{max(BASE_LR, lr / 2):.1e}"] if lr > BASE_LR else []
    return ["-n", str(2 * epochs), *rate]
