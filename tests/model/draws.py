"""Random numbers of a step by its key."""

from __future__ import annotations

import torch

from opustomo.model.random_draws import StepRandom, seed_of


def draws_of(key: tuple[int, ...], total: int, local: slice | None = None, device: str = "cpu") -> StepRandom:
    """Return the source of the random numbers of the step with this key."""
    return StepRandom(torch.Generator(device=device).manual_seed(seed_of(key)), total, local)
