"""Sums and random draws over the batch of all processes.

They do not depend on the number of processes among which the batch is divided."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Collective(Protocol):
    """Processes that each have a part of a batch."""

    @property
    def size(self) -> int:
        """Number of processes."""

    def total(self, value: Tensor) -> Tensor:
        """Return the sum over the processes, without gradient."""

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows (B, ...) of all processes in their order; only those of this process keep a gradient."""


class Alone:
    """One process that has the whole batch."""

    size = 1

    def total(self, value: Tensor) -> Tensor:
        """Return the value, detached."""
        return value.detach()

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows."""
        return rows


ALONE = Alone()


def shared_by(ranks: Collective, value: Tensor) -> Tensor:
    """Scale the gradient of a scalar that every process computes from the whole batch.

    Each process has the gradient of its own rows only, and averaging gradients over processes divides their sum by the
    number of processes.
    """
    if ranks.size == 1:
        return value
    return value.detach() + ranks.size * (value - value.detach())


def seed_of(key: tuple[int, ...]) -> int:
    """Return the seed of a generator for the integers of a step."""
    state = np.random.SeedSequence(list(key)).generate_state(1, np.uint64)[0]
    return int(state) & 0x7FFF_FFFF_FFFF_FFFF


class StepRandom:
    """Source of the random numbers of one step.

    Parameters
    ----------
    key
        Integers of the step: seed, epoch, step.
    device
        Device on which numbers are drawn.
    total
        Size of the whole batch.
    local
        Part of it in this process.
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
        """Return a source that uses a generator that has been seeded already (:func:`seed_of`)."""
        random = cls.__new__(cls)
        random._generator, random._total = generator, total
        random._local = slice(0, total) if local is None else local
        return random

    def normal(self, *shape: int) -> Tensor:
        """Return draws from N(0, 1), (B, *shape), for the B particles of this process."""
        drawn = torch.randn(self._total, *shape, generator=self._generator, device=self._generator.device)
        return drawn[self._local]

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Return uniform draws from [low, high), (B, *shape)."""
        drawn = torch.rand(self._total, *shape, generator=self._generator, device=self._generator.device)
        return low + (high - low) * drawn[self._local]

    @property
    def generator(self) -> torch.Generator:
        """Generator, for draws that all particles of the step share."""
        return self._generator
