"""Exclude values that are not finite from running averages and particle state, without waiting for the device."""

from __future__ import annotations

import torch
from torch import Tensor


def finite_rows(*parts: Tensor) -> Tensor:
    """Return 1 for each row (of B) in which all numbers of all parts are finite, else 0, as float (B,)."""
    rows = torch.cat([part.flatten(1) for part in parts], 1)
    return torch.isfinite(rows).all(1).to(rows.dtype)


def replace_rows(values: Tensor, usable: Tensor, substitute: Tensor | float = 0.0) -> Tensor:
    """Return ``values`` (B, …) with the ``substitute`` in the rows where ``usable`` (B,) is 0."""
    wanted = usable.view(-1, *(1 for _ in values.shape[1:])) > 0
    return torch.where(wanted, values, substitute)


def add_if_finite(total: Tensor, values: Tensor) -> Tensor:
    """Add ``values`` to ``total`` in place if all of them are finite; return whether they are, as a tensor."""
    finite = torch.isfinite(values).all()
    total += torch.where(finite, values, 0.0)
    return finite


def average_if_finite(running: Tensor, value: Tensor, decay: float) -> None:
    """Update a running average in place, unless the new value is not finite."""
    moved = decay * running + (1.0 - decay) * value
    running.copy_(torch.where(torch.isfinite(value).all(), moved, running))
