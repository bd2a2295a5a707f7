"""Launches of Triton kernels, and their compilation in parallel.

A kernel is compiled when it is launched first, one after the other. Where a step is rehearsed instead
(:func:`compile_only`), its kernels are not launched but compiled at the same time by several threads; Triton releases
Python's lock in most of the work.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import triton

_rehearsing = False


class Kernel:
    """Kernel that can be launched, ``kernel[grid](...)``; the decorator of such functions."""

    def __init__(self, function: Callable[..., None]) -> None:
        self.compiled = triton.jit(function)
        self.__doc__ = function.__doc__

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., Any]:
        """Return the function that launches the kernel on a grid of programs."""

        def launch(*arguments: Any, **options: Any) -> Any:
            if _rehearsing:
                return self.compiled.warmup(*arguments, grid=grid, **options)
            return self.compiled[grid](*arguments, **options)

        return launch


@contextmanager
def compile_only() -> Iterator[None]:
    """Compile the kernels that are launched inside the context, in parallel, and run none of them.

    Results of kernels are then undefined.

    Raises
    ------
    ImportError
        If the installed version of Triton only compiles one kernel at a time.
    """
    from triton.runtime._async_compile import AsyncCompileMode

    global _rehearsing
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as threads, AsyncCompileMode(threads):
        _rehearsing = True
        try:
            yield
        finally:
            _rehearsing = False
