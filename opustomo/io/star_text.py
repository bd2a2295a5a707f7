"""STAR text in and out, every value kept as the characters it was written with.

The `starfile` library guesses types, takes apostrophes and `#` inside a value for quotes and comments, drops
the backslashes of Windows paths, loses a block that follows an empty one, and needs over a minute for 400,000
particles. These two functions keep all values as strings and take seconds; the tests compare them with `starfile`.
"""

import os
import re
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

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


def read_blocks(path: str | os.PathLike[str]) -> "dict[str, pd.DataFrame | dict[str, str]]":
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


def write_blocks(path: str | os.PathLike[str], blocks: "dict[str, pd.DataFrame | dict[str, str]]") -> None:
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


def _parse_block(path: Path, name: str, lines: list[str], number: int) -> "pd.DataFrame | dict[str, str]":
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


def _parse_loop(path: Path, name: str, lines: list[str], number: int) -> "pd.DataFrame":
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


def _quoted_column(column: "pd.Series") -> list[str]:
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
