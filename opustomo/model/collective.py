"""What a step needs of the other processes that share its batch; by default there are none."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Collective(Protocol):
    """Processes that each hold a part of a batch."""

    @property
    def size(self) -> int:
        """How many there are."""

    def total(self, value: Tensor) -> Tensor:
        """Sum over the processes, without gradient."""

    def gather(self, rows: Tensor) -> Tensor:
        """Rows (B, ...) of all processes, in their order; only this process's own keep a gradient."""


class Alone:
    """One process that holds the whole batch."""

    size = 1

    def total(self, value: Tensor) -> Tensor:
        """The value itself."""
        return value.detach()

    def gather(self, rows: Tensor) -> Tensor:
        """The rows themselves."""
        return rows


ALONE = Alone()


def shared_by(ranks: Collective, value: Tensor) -> Tensor:
    """A scalar that every process computes of the whole batch, so that gradients averaged over processes are right.

    Each process sees the gradient in its own rows only, and the average divides their sum by the number of processes.
    """
    if ranks.size == 1:
        return value
    return value.detach() + ranks.size * (value - value.detach())
