"""Devices of kernel tests: a GPU, or the CPU with Triton's interpreter (``TRITON_INTERPRET=1``)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
_plain = False


@contextmanager
def plain_torch() -> Iterator[None]:
    """Compute without kernels inside the context; on a GPU, tests use tensors on the CPU for this."""
    global _plain
    _plain = True
    try:
        yield
    finally:
        _plain = False


@pytest.fixture
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let interpreted kernels accept tensors on the CPU."""
    if not INTERPRETED:
        return
    import torch

    from opustomo.model import convolution
    from opustomo.physics import kernels

    monkeypatch.setattr(kernels, "usable", lambda *tensors: not _plain and all(t.dtype.itemsize == 4 for t in tensors))
    monkeypatch.setattr(convolution, "_has_kernels", lambda x: not _plain)
    monkeypatch.setattr(convolution, "_memory_format", lambda x: torch.channels_last_3d)
    monkeypatch.setattr(convolution.Downsample, "forward", convolution.Downsample.blockwise)


def both(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield tensors for plain torch, then for the kernels, each ready for gradients."""
    with plain_torch():
        yield tuple(t.detach().clone().requires_grad_() for t in tensors)
    yield tuple(t.detach().clone().to(DEVICE).requires_grad_() for t in tensors)
