"""Text of Dynamo's tables (`.tbl`) and lists of tomograms (`.doc`, `.vll`)."""

import os
import re
from pathlib import Path

import numpy as np

from opustomo.convert.columns import Texts
from opustomo.errors import UserError
from opustomo.io.atomic import atomic_path

# https://wiki.dynamo.biozentrum.unibas.ch/w/index.php/Table_convention; not all are in use
COLUMNS = (
    "tag aligned averaged dx dy dz tdrot tilt narot cc cc2 cpu ftype ymintilt ymaxtilt xmintilt xmaxtilt fs1 fs2 tomo "
    "reg class annotation x y z dshift daxis dnarot dcc otag npar unused33 ref sref apix def unused38 unused39 "
    "unused40 eig1 eig2"
).split()
# beyond these a table may end early
_NEEDED = COLUMNS.index("z") + 1
# a tag; Matlab may write it as 1.0000e+00
_FIRST = re.compile(r"[-+.\d]")


def read_table(path: str | os.PathLike[str]) -> dict[str, Texts]:
    """Read a table; values stay text.

    Returns
    -------
    dict
        Column name → values (N,); columns beyond the convention are called `column43` and so on.

    Raises
    ------
    UserError
        The file is missing, empty, ragged, or has too few columns for a Dynamo table.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such table; check the path.")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file; give a Dynamo table (.tbl).") from error
    values, count, row = list[str](), 0, 0
    for line in lines:
        words = line.split()
        if not words or words[0][0] in "#%":
            continue
        row += 1
        if words[0].startswith(("data_", "loop_", "_")):
            raise UserError(
                f"{path}: holds a STAR file, where a Dynamo table is expected; its name should end in .star."
            )
        if row == 1 and not _FIRST.match(words[0]):
            raise UserError(
                f"{path}: begins with {words[0][:20]!r}, where a Dynamo table has rows of numbers; give a .tbl file."
            )
        count = count or len(words)
        if len(words) != count:
            raise UserError(f"{path}: row {row} has {len(words)} values, but the first {count}; write the table again.")
        values += words
    if not row:
        raise UserError(f"{path}: the table has no rows; give one with particles.")
    if count < _NEEDED:
        raise UserError(f"{path}: has {count} columns, where a Dynamo table has {_NEEDED} or more; give a .tbl file.")
    names = COLUMNS[:count] + [f"column{number}" for number in range(len(COLUMNS) + 1, count + 1)]
    return {name: np.array(values[index::count], dtype=object) for index, name in enumerate(names)}


def write_table(path: str | os.PathLike[str], columns: dict[str, Texts]) -> None:
    """Write a table with one row per value and the columns in the order given, atomically."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(" ".join(row) + "\n" for row in zip(*columns.values(), strict=True))


def read_tomogram_list(path: str | os.PathLike[str]) -> dict[int, str]:
    """Read which number stands for which tomogram.

    Lines of a `.doc` file are a number and a path; those of a `.vll` file are paths alone and count from 1. Lines
    that begin with `*`, `#` or `%` (properties, comments) are passed over.

    Raises
    ------
    UserError
        The file is missing or names no tomogram, or a number stands for two.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such list of tomograms; check the path.")
    names: dict[int, str] = {}
    for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        words = line.split(None, 1)
        if not words or words[0][0] in "*#%":
            continue
        numbered = len(words) == 2 and words[0].isdigit()
        number = int(words[0]) if numbered else len(names) + 1
        name = (words[1] if numbered else line).strip().strip("'\"")
        if names.setdefault(number, name) != name:
            raise UserError(f"{path}: the number {number} stands for {names[number]} and for {name}; correct it.")
    if not names:
        raise UserError(f"{path}: names no tomogram; give a Dynamo .doc file (number and path in each line).")
    return names


def write_tomogram_list(path: str | os.PathLike[str], names: dict[int, str]) -> None:
    """Write a `.doc` file, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text("".join(f"{number} {name}\n" for number, name in names.items()), encoding="utf-8")
