"""GPU kernels (Triton) of the most expensive operations, which the parent modules also implement in PyTorch."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec

from torch import Tensor


@lru_cache(maxsize=1)
def have_triton() -> bool:
    """Return whether Triton is installed."""
    return find_spec("triton") is not None


def usable(*tensors: Tensor) -> bool:
    """Return whether the kernels support these tensors, which requires Triton, a GPU and elements of four bytes."""
    return all(t.is_cuda and t.dtype.itemsize == 4 for t in tensors) and have_triton()
