"""What separates composition and conformation, as weights.N.pkl holds it: tensors under ``separation``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opustomo.errors import UserError
from opustomo.model.separation import Separation

KEY = "separation"
_PARTS = ("mean", "std", "centre", "slope")


def separation_entries(separation: Separation) -> dict[str, Tensor]:
    """Content of the entry: (C,), (C,), (P,) and (P, zdim), float64, so that nothing is lost in taking it back."""
    return {name: torch.from_numpy(np.array(getattr(separation, name), dtype=np.float64)) for name in _PARTS}


def separation_in(content: Mapping[str, Any], path: Path, zdim: int, zaffinedim: int) -> Separation | None:
    """Separation in the ``content`` of the weights ``path``, None when they have none.

    Raises
    ------
    UserError
        It is damaged, or of latents of other sizes.
    """
    stored = content.get(KEY)
    if stored is None:
        return None
    try:
        if not isinstance(stored, Mapping):
            raise TypeError(f"a {type(stored).__name__}")
        found = Separation(*(np.asarray(torch.as_tensor(stored[name]).double()) for name in _PARTS))
        if found.sizes != (zdim, zaffinedim):
            raise ValueError(f"it is of {found.sizes} numbers, the latents have {(zdim, zaffinedim)}")
    except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: what separates composition and conformation is damaged ({reason}); take another epoch"
        ) from error
    return found
