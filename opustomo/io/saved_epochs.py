"""Epochs whose files are in the folder of a run."""

from __future__ import annotations

import re
from pathlib import Path


def saved_epochs(folder: Path, kind: str = "z") -> list[int]:
    """Return the epochs of the files ``{kind}.N.pkl`` in a folder, in ascending order.

    Parameters
    ----------
    folder
        Folder of a run.
    kind
        ``z``, ``pose`` or ``weights``.
    """
    names = (re.fullmatch(rf"{kind}\.(\d+)\.pkl", path.name) for path in folder.glob(f"{kind}.*.pkl"))
    return sorted(int(name[1]) for name in names if name is not None)
