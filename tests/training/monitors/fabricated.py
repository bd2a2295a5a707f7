"""Records of fabricated runs."""

from __future__ import annotations

from typing import Any

import numpy as np

from opustomo.model.loss import TERM_NAMES
from opustomo.training.monitors.records import EpochRecord, IntervalRecord


def terms(value: float) -> dict[str, float]:
    """Return all loss terms: ``value``, ``value`` + 0.01, …"""
    return {name: value + 0.01 * place for place, name in enumerate(TERM_NAMES)}


def interval(particles_seen: int, epoch: int = 0, **changes: Any) -> IntervalRecord:
    settings: dict[str, Any] = {
        "epoch": epoch,
        "particles_seen": particles_seen,
        "terms": terms(particles_seen / 1000),
        "lr": 4e-5,
        "beta": 0.1,
        "running_snr": 0.0125,
        "visits_per_second": 81.5,
        "memory_gb": 2.75,
    }
    return IntervalRecord(**(settings | changes))


def epoch(number: int, **changes: Any) -> EpochRecord:
    """Return the record of an epoch of 40 particles in two states; latents (40, 5), three of composition."""
    rng = np.random.default_rng(number)
    latents = rng.normal(size=(40, 5)).astype(np.float32)
    latents[20:, 0] += 5.0
    template = np.zeros((16, 16, 16), dtype=np.float32)
    template[5:11, 6:12, 3:12] = rng.uniform(0.5, 1.0, (6, 6, 9))
    settings: dict[str, Any] = {
        "epoch": number,
        "training": terms(-float(number)),
        "validation": terms(0.5 - number),
        "seconds": 61.04,
        "latents": latents,
        "zdim": 3,
        "seen": np.ones(40, dtype=bool),
        "template": template,
    }
    return EpochRecord(**(settings | changes))
