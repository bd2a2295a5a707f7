"""STAR files as text: reading, writing, numbers, and descriptions of their content.

Values keep the characters with which they were written. Tables of particles are in :mod:`opustomo.io.star_tables`."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from opustomo import __version__
from opustomo.errors import UserError
from opustomo.io.atomic import atomic_path

if TYPE_CHECKING:
    import pandas as pd

_TOKEN = re.compile(r"""'[^']*'(?!\S)|"[^"]*"(?!\S)|\S+""")
# without these a line is split at its blanks
_UNUSUAL = "'\"#"
_BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
# a value that could be taken for a blank, a quote, a comment, or a keyword
_TO_QUOTE = re.compile(r"""\s|^$|^['"#;]|^(?:data_|loop_|_)""", re.IGNORECASE)
_FIRST_TO_QUOTE = frozenset("'\"#;_dDlL")


def read_blocks(path: str | os.PathLike[str]) -> dict[str, pd.DataFrame | dict[str, str]]:
    """Read all blocks of a STAR file.

    Of blocks with the same name, the second gets the suffix "_2", and so on.

    Returns
    -------
    dict
        Block name without "data_" → table of strings (loop) or dictionary of strings (single values; also an
        empty block), in the order of the file.

    Raises
    ------
    UserError
        The file is missing, has no block, or a row has too few or too many values.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give a STAR file.")
    if not path.is_file():
        raise UserError(f"{path}: no such STAR file; check the path.")
    # not splitlines: it also splits at characters that may stand in values
    lines = _text(path).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    starts = [number for number, line in enumerate(lines) if _opens_block(line)]
    if not starts:
        found = next((line.strip() for line in lines if line.strip()), "")
        if found.startswith("<"):
            raise UserError(
                f"{path}: holds XML; give a STAR file, or lists of PyTom to dsdsh convert_pytom_to_star, "
                "and the folder of WARP's tilt series as --warp."
            )
        raise UserError(f"{path}: {'holds no data_ block' if found else 'is empty'}; give a STAR file.")
    blocks: dict[str, pd.DataFrame | dict[str, str]] = {}
    for start, end in pairwise([*starts, len(lines)]):
        name = lines[start].split()[0][5:]
        count = sum(other == name or re.fullmatch(re.escape(name) + r"_\d+", other) is not None for other in blocks)
        unique = f"{name}_{count + 1}" if name in blocks else name
        blocks[unique] = _parse_block(path, name, lines[start + 1 : end], start + 2)
    if not any(len(block) or not isinstance(block, dict) for block in blocks.values()):
        raise UserError(f"{path}: not a readable STAR file (its blocks are empty); write it again.")
    return blocks


def write_blocks(path: str | os.PathLike[str], blocks: dict[str, pd.DataFrame | dict[str, str]]) -> None:
    """Write blocks as a STAR file, atomically; strings appear as they are, quoted where they must be."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(f"# Created by opustomo {__version__}\n")
        for name, block in blocks.items():
            file.write(f"\ndata_{name}\n\n")
            if isinstance(block, dict):
                file.writelines(f"_{key}\t\t\t{_quoted(value)}\n" for key, value in block.items())
            else:
                header = [f"_{column} #{number}\n" for number, column in enumerate(block.columns, 1)]
                file.writelines(["loop_\n", *header])
                columns = [_quoted_column(block.iloc[:, index]) for index in range(len(header))]
                file.writelines("\t".join(row) + "\n" for row in zip(*columns, strict=True))
            file.write("\n")


def _text(path: Path) -> str:
    """Text of a file; old files of Windows programs are not always UTF-8."""
    raw = path.read_bytes()
    if raw.startswith(b"\x1f\x8b"):
        raise UserError(f"{path}: is compressed; unpack it first (gunzip).")
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    if "\x00" in text:
        raise UserError(f"{path}: not a text file; give a STAR file.")
    return text


def _opens_block(line: str) -> bool:
    """Tell a block's name from a row whose first value begins like one."""
    if "data_" not in line[:32].lower():
        return False
    words = line.split()
    return words[0][:5].lower() == "data_" and (len(words) == 1 or words[1][0] == "#")


def _parse_block(path: Path, name: str, lines: list[str], number: int) -> pd.DataFrame | dict[str, str]:
    """Read one block; `number` is that of its first line in the file."""
    # comments and empty lines before the first word of the block
    for start, line in enumerate(lines):
        words = line.split()
        if not words or words[0][0] == "#":
            continue
        if words[0].lower() == "loop_":
            return _parse_loop(path, name, lines[start + 1 :], number + start + 1)
        if words[0][0] == "_":
            return _parse_values(path, name, lines[start:], number + start)
        raise UserError(
            f"{path}: not a readable STAR file (line {number + start} is neither loop_ nor a column, "
            f"but begins with {words[0][:40]!r}); write it again."
        )
    return {}


def _parse_values(path: Path, name: str, lines: list[str], number: int) -> dict[str, str]:
    values: dict[str, str] = {}
    for offset, line in enumerate(lines):
        words = _words(line)
        if not words:
            continue
        if words[0][0:1] != "_":
            raise UserError(
                f"{path}: not a readable STAR file (line {number + offset} of data_{name} stands outside of a loop); "
                "write it again."
            )
        key = words[0][1:]
        if key in values:
            raise UserError(f"{path}: data_{name} names a column twice, {key}; remove one of them.")
        values[key] = " ".join(words[1:])
    return values


def _parse_loop(path: Path, name: str, lines: list[str], number: int) -> pd.DataFrame:
    import numpy as np
    import pandas as pd

    columns: list[str] = []
    start = len(lines)
    for offset, line in enumerate(lines):
        words = line.split()
        if not words or words[0][0] == "#":
            continue
        # a value may begin with an underscore too, but is not followed by a column's number
        if words[0][0] != "_" or (len(words) > 1 and words[1][0] != "#"):
            start = offset
            break
        columns.append(words[0][1:].split("#")[0])
    if not columns:
        raise UserError(f"{path}: not a readable STAR file (the loop of data_{name} has no columns); write it again.")
    twice = next((column for index, column in enumerate(columns) if column in columns[:index]), None)
    if twice is not None:
        raise UserError(f"{path}: data_{name} names a column twice, {twice}; remove one of them.")
    values, count, row = list[str](), len(columns), 0
    body = "\n".join(lines[start:])
    plain = not any(character in body for character in _UNUSUAL)
    for line in lines[start:]:
        words = line.split() if plain else _words(line)
        if not words:
            continue
        row += 1
        if len(words) != count:
            amount = "fewer" if len(words) < count else "more"
            raise UserError(
                f"{path}: row {row} of data_{name} has {amount} values ({len(words)}) than the {count} columns; "
                "correct it."
            )
        values += words
    table = {column: np.array(values[index::count], dtype=object) for index, column in enumerate(columns)}
    return pd.DataFrame(table, dtype=object)


def _words(line: str) -> list[str]:
    """Values of a line, without their quotes and without a comment."""
    words = []
    for token in _TOKEN.findall(line):
        if token[0] == "#":
            break
        quoted = len(token) > 1 and token[0] in "'\"" and token[-1] == token[0]
        words.append(token[1:-1] if quoted else token)
    return words


def _quoted_column(column: pd.Series) -> list[str]:
    values = [value if type(value) is str else str(value) for value in column.to_numpy(dtype=object)]
    # the common case is told without a look at every value: no blanks, no empty ones, all begin plainly
    if " ".join(values).split() == values and _FIRST_TO_QUOTE.isdisjoint(value[0:1] for value in values):
        return values
    return [_quoted(value) for value in values]


def _quoted(value: object) -> str:
    text = str(value)
    if not _TO_QUOTE.search(text):
        return text
    return f"'{text}'" if '"' in text else f'"{text}"'


_NAMED = 8


def listed_sizes(sizes: npt.ArrayLike) -> str:
    """Return all different pixel sizes as text with their unit: "1.24 Å", "1.24, 1.25 and 5 Å"."""
    different = list(dict.fromkeys(f"{size:.5g}" for size in np.unique(np.asarray(sizes, np.float64)).tolist()))
    more = f" and {len(different) - _NAMED} more" if len(different) > _NAMED else ""
    shown = different[:_NAMED]
    if more or len(shown) < 2:
        return f"{', '.join(shown)}{more} Å"
    return f"{', '.join(shown[:-1])} and {shown[-1]} Å"


def to_numbers(values: Iterable[object], column: str, source: str) -> npt.NDArray[np.float64]:
    """Turn the strings of a column into float64 (N,).

    Raises
    ------
    UserError
        A value is no finite number; `source`, row and column are named.
    """
    texts = list(values)
    try:
        numbers = np.asarray(texts, dtype=object).astype(np.float64)
    except ValueError:
        numbers = np.array([_number(text) for text in texts])
    bad = np.flatnonzero(~np.isfinite(numbers))
    if bad.size:
        row = int(bad[0])
        raise UserError(f"{source}: {column} of row {row + 1} is {texts[row]!r}; a finite number is needed.")
    return numbers


def group_key(text: object) -> str:
    """Text by which the number of an optics group is compared: some programs write 1 as 1.0 or 01."""
    number = _number(text)
    return str(int(number)) if np.isfinite(number) and number == int(number) else str(text)


def _number(text: object) -> float:
    try:
        return float(str(text))
    except ValueError:
        return float("nan")


if TYPE_CHECKING:
    import pandas as pd

    Blocks = dict[str, pd.DataFrame | dict[str, str]]

# the first whose columns are all in one block is what the file is; the most telling come first
_KINDS = (
    (("wrpCoordinateX1",), "an M species table (wrpCoordinateX1 …)"),
    (("wrpMovieName",), "a WARP tilt series (wrpMovieName …)"),
    (("rlnCenteredCoordinateXAngst",), "a RELION 5 particle set (rlnCenteredCoordinateXAngst …)"),
    (("rlnTomoTomogramsFile",), "a RELION optimisation set (rlnTomoTomogramsFile …)"),
    (("rlnTomoParticlesFile",), "a RELION optimisation set (rlnTomoParticlesFile …)"),
    (("rlnTomoTiltSeriesName",), "a RELION tomogram set (rlnTomoTiltSeriesName …)"),
    (("rlnTomoTiltSeriesStarFile",), "a RELION tomogram set (rlnTomoTiltSeriesStarFile …)"),
    (("rlnTomoSizeX", "rlnTomoName"), "a RELION tomogram set (rlnTomoSizeX …)"),
    (("rlnTomoParticleName", "rlnAngleRot"), "a RELION 4 particle set (rlnTomoParticleName …)"),
    (("rlnOriginXAngst", "rlnOpticsGroup"), "a RELION 3.1 particle table (rlnOriginXAngst …)"),
    (("rlnBodyMaskName",), "a multi-body mask list (rlnBodyMaskName …)"),
    (("rlnDefocusU", "rlnCtfScalefactor"), "a CTF table (rlnDefocusU, rlnCtfScalefactor …)"),
    (("rlnImageName",), "a RELION particle table (rlnImageName …)"),
    (("rlnCoordinateX", "rlnCoordinateZ"), "a RELION particle table (rlnCoordinateX …)"),
    (("rlnMicrographShiftX",), "motion correction of a movie (rlnMicrographShiftX …)"),
    (("rlnCoordinateX",), "positions in a two-dimensional image, as lists of hot pixels (no rlnCoordinateZ)"),
    (("rlnAngleRot",), "a RELION particle table (rlnAngleRot …)"),
)
_OTHER_CASE = "names of columns in another case than RELION's or WARP's"


_OF_TOMOGRAMS = ("rlnCoordinateZ", "rlnTomoName", "rlnMicrographName")


def has_particles(block: pd.DataFrame | dict[str, str]) -> bool:
    """Return whether a block describes particles: images, positions in three dimensions, or Euler angles.

    A CTF table has Euler angles too, but neither images nor positions. Two coordinates alone, without the
    name of a tomogram, are a list of hot pixels or of picks in a micrograph.
    """
    if "rlnImageName" in block or "rlnCenteredCoordinateXAngst" in block:
        return True
    if "rlnCoordinateX" in block and any(name in block for name in _OF_TOMOGRAMS):
        return True
    return "rlnAngleRot" in block and "rlnDefocusU" not in block


def describe(blocks: Blocks) -> str:
    """Say what a STAR file holds."""
    for columns, words in _KINDS:
        if any(all(column in block for column in columns) for block in blocks.values()):
            return words
    known = {column.lower(): column for columns, _ in _KINDS for column in columns}
    for column in (column for block in blocks.values() for column in block):
        if column not in known.values() and column.lower() in known:
            return f"{_OTHER_CASE} ({column} for {known[column.lower()]})"
    names = next((list(block)[:3] for block in blocks.values() if len(list(block))), [])
    return f"a table of {', '.join(names)} …" if names else "no columns"


def remedy(blocks: Blocks) -> str:
    """Say what to do to get a RELION particle table."""
    words = describe(blocks)
    if "M species" in words:
        return "convert it with dsdsh convert_warp"
    if "optimisation set" in words:
        return "give its particles, or convert it with dsdsh convert_relion5"
    if _OTHER_CASE in words:
        return "write them as these programs do"
    return "give a particle STAR"


def find_block(blocks: Blocks, columns: Collection[str], path: Path, needed: str, advice: str) -> str:
    """Find the block that has all `columns`.

    Raises
    ------
    UserError
        There is none; the sentence says what was found, what was `needed`, and the `advice`.
    """
    name = next((name for name, block in blocks.items() if all(column in block for column in columns)), None)
    if name is None:
        raise UserError(f"{path}: holds {describe(blocks)}, where {needed} is expected; {advice}.")
    return name
