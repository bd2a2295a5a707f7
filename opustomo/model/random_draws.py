"""Random draws of a step, which depend on seed, epoch and step but not on the number of processes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def seed_of(key: tuple[int, ...]) -> int:
    """Return the seed of a generator for the integers of a step."""
    state = np.random.SeedSequence(list(key)).generate_state(1, np.uint64)[0]
    return int(state) & 0x7FFF_FFFF_FFFF_FFFF


class StepRandom:
    """Source of the random numbers of one step.

    Parameters
    ----------
    generator
        Generator that has been seeded for the step (:func:`seed_of`).
    total
        Size of the whole batch.
    local
        Part of it in this process; None for all.
    """

    def __init__(self, generator: torch.Generator, total: int, local: slice | None = None) -> None:
        self._generator, self._total = generator, total
        self._local = slice(0, total) if local is None else local

    def normal(self, *shape: int) -> Tensor:
        """Return draws from N(0, 1), (B, *shape), for the B particles of this process."""
        drawn = torch.randn(self._total, *shape, generator=self._generator, device=self._generator.device)
        return drawn[self._local]

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Return uniform draws from [low, high), (B, *shape)."""
        drawn = torch.rand(self._total, *shape, generator=self._generator, device=self._generator.device)
        return low + (high - low) * drawn[self._local]
