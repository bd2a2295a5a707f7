"""state.pkl: everything that a run needs to resume exactly where it stopped. Only finite numbers are written."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from opustomo.errors import UserError
from opustomo.io.pickles import dump_torch, load_torch


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


STATE_FILE = "state.pkl"
WEIGHTS_NAME = re.compile(r"weights\.(\d+)\.pkl")
_SPARE = 1.05


def require_space(folder: Path, needed_bytes: int, advice: str) -> None:
    """Refuse to start writing what will not fit, before anything is overwritten.

    ``folder`` need not exist yet; ``advice`` says what to do.

    Raises
    ------
    UserError
        The file system of ``folder`` has less free space than ``needed_bytes`` and five per cent.
    """
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < needed_bytes * _SPARE:
        raise UserError(
            f"{folder}: {free / 1e6:.0f} MB free but a checkpoint needs {needed_bytes * _SPARE / 1e6:.0f} MB; "
            f"nothing was overwritten: {advice}"
        )


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Replace the run's state.pkl, unless the state holds values that are not finite (UserError)."""
    require_finite(folder / STATE_FILE, state)
    dump_torch(folder / STATE_FILE, state)


def read_state(folder: Path) -> dict[str, Any] | None:
    """Return the run's state, or None if it has none yet.

    Raises
    ------
    UserError
        The file is damaged or holds something else.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return None
    try:
        state = load_torch(path)
    except UserError as error:
        newest = newest_weights(folder)
        if newest is None:
            raise
        raise UserError(f"{error}; --load {newest} goes on from the newest weights") from error
    if not isinstance(state, dict) or "progress" not in state:
        raise UserError(f"{path}: not the state of a training run; remove it or choose another folder with -o")
    return state


def newest_weights(folder: Path) -> Path | None:
    """Return the weights.N.pkl of the largest N in a folder, None without any."""
    found = {int(match[1]): path for path in folder.iterdir() if (match := WEIGHTS_NAME.fullmatch(path.name))}
    return found[max(found)] if found else None
