"""Training state (state.pkl), from which a run resumes exactly where it stopped."""

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
    """Check that all values are finite before ``path`` is replaced.

    Raises
    ------
    UserError
        If a tensor, array or number in nested containers is not finite.
    """
    bad = list(_not_finite(content, ""))
    if bad:
        more = f" and {len(bad) - 1} others" if len(bad) > 1 else ""
        raise UserError(
            f"{path} was not written, because {bad[0]}{more} contains values that are not finite. The files of earlier "
            "epochs are unchanged. Continue from one of them with --load weights.N.pkl and a lower --lr."
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
_MARGIN = 1.05


def require_space(folder: Path, needed_bytes: int, advice: str) -> None:
    """Check the free disk space before files are overwritten.

    Parameters
    ----------
    folder
        Output folder, which need not exist.
    needed_bytes
        Size of the files.
    advice
        Last sentence of the error message.

    Raises
    ------
    UserError
        If the free space is less than 1.05 times ``needed_bytes``.
    """
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < needed_bytes * _MARGIN:
        raise UserError(
            f"{folder} has {free / 1e6:.0f} MB of free disk space, but a checkpoint requires "
            f"{needed_bytes * _MARGIN / 1e6:.0f} MB. No file was overwritten. {advice}"
        )


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Replace the state.pkl of a run; raise ``UserError`` if the state contains values that are not finite."""
    require_finite(folder / STATE_FILE, state)
    dump_torch(folder / STATE_FILE, state)


def read_state(folder: Path) -> dict[str, Any] | None:
    """Read the state of a run, or return None if there is none.

    Raises
    ------
    UserError
        If the file is damaged or not a training state.
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
        raise UserError(
            f"{str(error).rstrip('.')}. Use --load {newest} to continue from the newest weights."
        ) from error
    if not isinstance(state, dict) or "progress" not in state:
        raise UserError(f"{path} is not the state of a training run. Remove it, or choose another folder with -o.")
    return state


def newest_weights(folder: Path) -> Path | None:
    """Return the weights.N.pkl with the largest N in a folder, or None."""
    found = {int(match[1]): path for path in folder.iterdir() if (match := WEIGHTS_NAME.fullmatch(path.name))}
    return found[max(found)] if found else None
