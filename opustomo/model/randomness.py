"""Random draws that belong to (seed, epoch, step) and to a particle's place in the global batch.

Each process draws for the whole global batch and keeps its slice. So a run that is resumed, or split over another
number of processes, draws the same numbers, and no generator state needs to be saved.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def seed_of(key: tuple[int, ...]) -> int:
    """Seed of a generator for the integers that name a step."""
    state = np.random.SeedSequence(list(key)).generate_state(1, np.uint64)[0]
    return int(state) & 0x7FFF_FFFF_FFFF_FFFF


class StepRandom:
    """Source of the random numbers of one step.

    Parameters
    ----------
    key
        Integers that name the step: seed, epoch, step.
    device
        Where numbers are drawn.
    total
        Size of the global batch.
    local
        This process's part of it.
    """

    def __init__(
        self, key: tuple[int, ...], device: torch.device | str, total: int, local: slice | None = None
    ) -> None:
        self._generator = torch.Generator(device=device)
        self._generator.manual_seed(seed_of(key))
        self._total = total
        self._local = slice(0, total) if local is None else local

    @classmethod
    def of(cls, generator: torch.Generator, total: int, local: slice | None = None) -> StepRandom:
        """Source that draws from a generator which has been seeded (:func:`seed_of`) already."""
        random = cls.__new__(cls)
        random._generator, random._total = generator, total
        random._local = slice(0, total) if local is None else local
        return random

    def normal(self, *shape: int) -> Tensor:
        """N(0, 1) draws, (B, *shape) for this process's B particles."""
        drawn = torch.randn(self._total, *shape, generator=self._generator, device=self._generator.device)
        return drawn[self._local]

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform draws from [low, high), (B, *shape)."""
        drawn = torch.rand(self._total, *shape, generator=self._generator, device=self._generator.device)
        return low + (high - low) * drawn[self._local]

    @property
    def generator(self) -> torch.Generator:
        """The generator, for draws shared by all particles of the step."""
        return self._generator
