"""A quick reader of the plainest STAR files: one block, one loop, no quotes.

A run may have as many CTF tables as subtomograms. The general reader takes milliseconds for each, minutes for
all; this one takes a fraction of that, and leaves everything out of the ordinary to the general one.
"""

import os
import re
from pathlib import Path

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
