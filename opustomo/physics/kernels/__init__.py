"""GPU kernels (Triton) of what the physics does most; the modules beside hold the same in plain torch."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec

from torch import Tensor


@lru_cache(maxsize=1)
def have_triton() -> bool:
    """Whether Triton is installed."""
    return find_spec("triton") is not None


def usable(*tensors: Tensor) -> bool:
    """Whether the kernels take these tensors: single precision, on a GPU, Triton there."""
    return all(t.is_cuda and t.dtype.itemsize == 4 for t in tensors) and have_triton()
