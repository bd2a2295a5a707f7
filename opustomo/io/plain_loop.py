"""A quick reader and writer of the plainest STAR files: one block, one loop, no quotes.

A run may have as many CTF tables as subtomograms. The general reader and writer take milliseconds for each, minutes
for all; these take a fraction of that. Everything out of the ordinary is left to the general ones.
"""

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from opustomo.io.atomic import atomic_path

_UNUSUAL = re.compile("""['"#]""")


def read_plain_loop(path: str | os.PathLike[str]) -> dict[str, list[str]] | None:
    """Read the only loop of a STAR file.

    Returns
    -------
    dict, or None
        Column name → values; None when the file is missing or not of the plainest kind.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    lines = [words for line in text.split("\n") if (words := line.split()) and words[0][0] != "#"]
    if len(lines) < 3 or not lines[0][0].startswith("data_") or lines[1] != ["loop_"]:
        return None
    count = next((i for i, words in enumerate(lines[2:]) if not words[0].startswith("_")), len(lines) - 2)
    columns, rows = [words[0][1:] for words in lines[2 : 2 + count]], lines[2 + count :]
    if not rows or len(set(columns)) < count or any(len(words) != count for words in rows):
        return None
    if any(words[0].startswith("data_") for words in rows) or _UNUSUAL.search(" ".join(map(" ".join, rows))):
        return None
    return dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))


def read_plain_numbers(path: str | os.PathLike[str]) -> dict[str, npt.NDArray[np.float64]] | None:
    """Read the only loop of a STAR file that holds nothing but finite numbers.

    Returns
    -------
    dict, or None
        Column name → values (N,); None when the file is missing or of any other kind.
    """
    try:
        with open(path, encoding="utf-8") as handle:
            lines = [words for line in handle if (words := line.split()) and words[0][0] != "#"]
    except (OSError, UnicodeDecodeError):
        return None
    if len(lines) < 4 or not lines[0][0].startswith("data_") or lines[1] != ["loop_"]:
        return None
    count = next((i for i, words in enumerate(lines[2:]) if words[0][0] != "_"), 0)
    columns, rows = [words[0][1:] for words in lines[2 : 2 + count]], lines[2 + count :]
    if not count or len(set(columns)) < count or any(len(words) != count for words in rows):
        return None
    try:
        numbers = [float(word) for words in rows for word in words]
    except ValueError:
        return None
    if not math.isfinite(sum(numbers)):  # inf and nan spread
        return None
    return dict(zip(columns, np.array(numbers).reshape(len(rows), count).T.copy(), strict=True))


def write_plain_loop(path: str | os.PathLike[str], block: str, columns: Mapping[str, np.ndarray]) -> None:
    """Write one loop of numbers, six digits after the point, atomically.

    Parameters
    ----------
    path
        The file.
    block
        Its name without "data_".
    columns
        Column name → (T,) numbers.
    """
    header = "".join(f"_{name} #{place}\n" for place, name in enumerate(columns, 1))
    line = " ".join(["%14.6f"] * len(columns))
    rows = "\n".join(line % values for values in zip(*(column.tolist() for column in columns.values()), strict=True))
    with atomic_path(path) as temporary:
        temporary.write_text(f"data_{block}\n\nloop_\n{header}{rows}\n", encoding="utf-8")
