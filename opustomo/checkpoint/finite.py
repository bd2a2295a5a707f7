"""Checkpoints hold finite numbers only."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from opustomo.errors import UserError


def require_finite(path: Path, content: Any) -> None:
    """Refuse, before ``path`` is replaced, to write numbers that are not finite.

    Raises
    ------
    UserError
        A tensor, array or number in nested containers is not finite.
    """
    bad = list(_not_finite(content, ""))
    if bad:
        more = f" and {len(bad) - 1} others" if len(bad) > 1 else ""
        raise UserError(
            f"{path} was not written, because {bad[0]}{more} would hold values that are not finite; the files of "
            "earlier epochs are as they were, go on from one of them with --load weights.N.pkl and a lower --lr"
        )


def _not_finite(content: Any, name: str) -> Iterator[str]:
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _not_finite(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, (list, tuple)):
        for index, value in enumerate(content):
            yield from _not_finite(value, f"{name}[{index}]")
    elif isinstance(content, torch.Tensor):
        if not bool(torch.isfinite(content).all()):
            yield name
    elif isinstance(content, np.ndarray) and content.dtype.kind in "fc":
        if not np.isfinite(content).all():
            yield name
    elif isinstance(content, float) and not math.isfinite(content):
        yield name
