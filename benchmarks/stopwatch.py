"""Timing of code, on a GPU from an idle device to an idle device."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def best_of(repeats: int, work: Callable[[], T], cuda: bool) -> tuple[T, float]:
    """Result of the last of several runs, and milliseconds of the fastest."""
    import torch

    best = float("inf")
    for _ in range(repeats):
        if cuda:
            torch.cuda.synchronize()
        started = time.perf_counter()
        result = work()
        if cuda:
            torch.cuda.synchronize()
        best = min(best, 1e3 * (time.perf_counter() - started))
    return result, best
