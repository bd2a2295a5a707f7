"""Sums over the batch of all processes, which do not depend on how the batch is divided."""

from __future__ import annotations

from typing import Protocol

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
