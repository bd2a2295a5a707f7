"""STAR files as text: reading, writing, conversion to numbers, and descriptions of their content.

Values remain the strings of the file. Tables of particles are in :mod:`opustomo.io.star_tables`.
"""

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
# A line without these characters is split at white space.
_UNUSUAL = "'\"#"
_BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
# A value that could be mistaken for white space, a quote, a comment or a keyword is quoted.
_TO_QUOTE = re.compile(r"""\s|^$|^['"#;]|^(?:data_|loop_|_)""", re.IGNORECASE)
_FIRST_TO_QUOTE = frozenset("'\"#;_dDlL")


def read_blocks(path: str | os.PathLike[str]) -> dict[str, pd.DataFrame | dict[str, str]]:
    """Read all blocks of a STAR file.

    If several blocks have the same name, the second gets the suffix "_2", and so on.

    Returns
    -------
    dict
        Blocks by name without "data_", in the order of the file. A loop is a table of strings; single values and an
        empty block are a dictionary of strings.

    Raises
    ------
    UserError
        The file is missing or has no block, or a row has too few or too many values.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: this is a folder. Give a STAR file.")
    if not path.is_file():
        raise UserError(f"{path}: the STAR file does not exist. Check the path.")
    # splitlines would also split at characters that may occur in values.
    lines = _text(path).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    starts = [number for number, line in enumerate(lines) if _opens_block(line)]
    if not starts:
        found = next((line.strip() for line in lines if line.strip()), "")
        if found.startswith("<"):
            raise UserError(
                f"{path}: this is an XML file. Give a STAR file. dsdsh convert_pytom_to_star reads the lists of PyTom, "
                "and --warp takes the folder of WARP's tilt series."
            )
        raise UserError(f"{path}: the file {'has no data_ block' if found else 'is empty'}. Give a STAR file.")
    blocks: dict[str, pd.DataFrame | dict[str, str]] = {}
    for start, end in pairwise([*starts, len(lines)]):
        name = lines[start].split()[0][5:]
        count = sum(other == name or re.fullmatch(re.escape(name) + r"_\d+", other) is not None for other in blocks)
        unique = f"{name}_{count + 1}" if name in blocks else name
        blocks[unique] = _parse_block(path, name, lines[start + 1 : end], start + 2)
    if not any(len(block) or not isinstance(block, dict) for block in blocks.values()):
        raise UserError(f"{path}: not a readable STAR file (its blocks are empty). Write it again.")
    return blocks


def write_blocks(path: str | os.PathLike[str], blocks: dict[str, pd.DataFrame | dict[str, str]]) -> None:
    """Write blocks as a STAR file, atomically; strings are unchanged and quoted only if necessary."""
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
    """Return the text of a file; old files of Windows programs are not always UTF-8."""
    raw = path.read_bytes()
    if raw.startswith(b"\x1f\x8b"):
        raise UserError(f"{path}: the file is compressed. Unpack it first (gunzip).")
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    if "\x00" in text:
        raise UserError(f"{path}: this is not a text file. Give a STAR file.")
    return text


def _opens_block(line: str) -> bool:
    """Return whether a line is the name of a block, and not a row whose first value begins like one."""
    if "data_" not in line[:32].lower():
        return False
    words = line.split()
    return words[0][:5].lower() == "data_" and (len(words) == 1 or words[1][0] == "#")


def _parse_block(path: Path, name: str, lines: list[str], number: int) -> pd.DataFrame | dict[str, str]:
    """Read one block; `number` is the number of its first line in the file."""
    # Comments and empty lines may precede the content of the block.
    for start, line in enumerate(lines):
        words = line.split()
        if not words or words[0][0] == "#":
            continue
        if words[0].lower() == "loop_":
            return _parse_loop(path, name, lines[start + 1 :])
        if words[0][0] == "_":
            return _parse_values(path, name, lines[start:], number + start)
        raise UserError(
            f"{path}: not a readable STAR file (line {number + start} is neither loop_ nor a column, "
            f"but begins with {words[0][:40]!r}). Write it again."
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
                f"{path}: not a readable STAR file (line {number + offset} of data_{name} is outside a loop). Write it "
                "again."
            )
        key = words[0][1:]
        if key in values:
            raise UserError(f"{path}: data_{name} has the column {key} twice. Remove one of them.")
        values[key] = " ".join(words[1:])
    return values


def _parse_loop(path: Path, name: str, lines: list[str]) -> pd.DataFrame:
    import numpy as np
    import pandas as pd

    columns: list[str] = []
    start = len(lines)
    for offset, line in enumerate(lines):
        words = line.split()
        if not words or words[0][0] == "#":
            continue
        # A value may begin with an underscore too, but the number of a column does not follow it.
        if words[0][0] != "_" or (len(words) > 1 and words[1][0] != "#"):
            start = offset
            break
        columns.append(words[0][1:].split("#")[0])
    if not columns:
        raise UserError(f"{path}: not a readable STAR file (the loop of data_{name} has no columns). Write it again.")
    twice = next((column for index, column in enumerate(columns) if column in columns[:index]), None)
    if twice is not None:
        raise UserError(f"{path}: data_{name} has the column {twice} twice. Remove one of them.")
    values, count, row = list[str](), len(columns), 0
    body = "\n".join(lines[start:])
    plain = not any(character in body for character in _UNUSUAL)
    for line in lines[start:]:
        words = line.split() if plain else _words(line)
        if not words:
            continue
        row += 1
        if len(words) != count:
            raise UserError(
                f"{path}: row {row} of data_{name} has {len(words)} values, but there are {count} columns. Correct it."
            )
        values += words
    table = {column: np.array(values[index::count], dtype=object) for index, column in enumerate(columns)}
    return pd.DataFrame(table, dtype=object)


def _words(line: str) -> list[str]:
    """Return the values of a line, without quotes and comments."""
    words = []
    for token in _TOKEN.findall(line):
        if token[0] == "#":
            break
        quoted = len(token) > 1 and token[0] in "'\"" and token[-1] == token[0]
        words.append(token[1:-1] if quoted else token)
    return words


def _quoted_column(column: pd.Series) -> list[str]:
    values = [value if type(value) is str else str(value) for value in column.to_numpy(dtype=object)]
    # Usually no value needs quotes, which is recognized without testing each value.
    if " ".join(values).split() == values and _FIRST_TO_QUOTE.isdisjoint(value[0:1] for value in values):
        return values
    return [_quoted(value) for value in values]


def _quoted(value: object) -> str:
    text = str(value)
    if not _TO_QUOTE.search(text):
        return text
    return f"'{text}'" if '"' in text else f'"{text}"'


_NAMED = 8


def format_pixel_sizes(sizes: npt.ArrayLike) -> str:
    """Return all different pixel sizes as text with unit, such as "1.24 Å" or "1.24, 1.25 and 5 Å"."""
    different = list(dict.fromkeys(f"{size:.5g}" for size in np.unique(np.asarray(sizes, np.float64)).tolist()))
    more = f" and {len(different) - _NAMED} more" if len(different) > _NAMED else ""
    shown = different[:_NAMED]
    if more or len(shown) < 2:
        return f"{', '.join(shown)}{more} Å"
    return f"{', '.join(shown[:-1])} and {shown[-1]} Å"


def to_numbers(values: Iterable[object], column: str, source: str) -> npt.NDArray[np.float64]:
    """Convert the strings of a column to float64 (N,).

    Raises
    ------
    UserError
        A value is not a finite number; the message names `source`, row and column.
    """
    texts = list(values)
    try:
        numbers = np.asarray(texts, dtype=object).astype(np.float64)
    except ValueError:
        numbers = np.array([_number(text) for text in texts])
    bad = np.flatnonzero(~np.isfinite(numbers))
    if bad.size:
        row = int(bad[0])
        raise UserError(f"{source}: {column} of row {row + 1} is {texts[row]!r}, but it must be a finite number.")
    return numbers


def group_key(text: object) -> str:
    """Return the number of an optics group in a form that can be compared; some programs write 1 as 1.0 or 01."""
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

# Kinds of STAR files: the first one whose columns are all in one block applies, so specific kinds come first.
_KINDS = (
    (("wrpCoordinateX1",), "an M species table (wrpCoordinateX1 …)"),
    (("wrpMovieName",), "a WARP tilt series (wrpMovieName …)"),
    (("rlnCenteredCoordinateXAngst",), "a RELION 5 particle set (rlnCenteredCoordinateXAngst …)"),
    (("rlnTomoTomogramsFile",), "a RELION optimization set (rlnTomoTomogramsFile …)"),
    (("rlnTomoParticlesFile",), "a RELION optimization set (rlnTomoParticlesFile …)"),
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
    (("rlnCoordinateX",), "positions in a two-dimensional image, such as hot pixels (no rlnCoordinateZ)"),
    (("rlnAngleRot",), "a RELION particle table (rlnAngleRot …)"),
)
_OTHER_CASE = "column names that differ in case from those of RELION or WARP"


_OF_TOMOGRAMS = ("rlnCoordinateZ", "rlnTomoName", "rlnMicrographName")


def has_particles(block: pd.DataFrame | dict[str, str]) -> bool:
    """Return whether a block describes particles: images, positions in three dimensions, or Euler angles.

    A CTF table has Euler angles too, but neither images nor positions. A table with two coordinates and without the
    name of a tomogram is a list of hot pixels or of picks in a micrograph.
    """
    if "rlnImageName" in block or "rlnCenteredCoordinateXAngst" in block:
        return True
    if "rlnCoordinateX" in block and any(name in block for name in _OF_TOMOGRAMS):
        return True
    return "rlnAngleRot" in block and "rlnDefocusU" not in block


def describe_blocks(blocks: Blocks) -> str:
    """Describe the content of a STAR file."""
    for columns, words in _KINDS:
        if any(all(column in block for column in columns) for block in blocks.values()):
            return words
    known = {column.lower(): column for columns, _ in _KINDS for column in columns}
    for column in (column for block in blocks.values() for column in block):
        if column not in known.values() and column.lower() in known:
            return f"{_OTHER_CASE} ({column} for {known[column.lower()]})"
    names = next((list(block)[:3] for block in blocks.values() if len(list(block))), [])
    return f"a table of {', '.join(names)} …" if names else "no columns"


def conversion_advice(blocks: Blocks) -> str:
    """Return advice on how to obtain a RELION particle table from a STAR file."""
    words = describe_blocks(blocks)
    if "M species" in words:
        return "convert it with dsdsh convert_warp"
    if "optimization set" in words:
        return "give its particles, or convert it with dsdsh convert_relion5"
    if _OTHER_CASE in words:
        return "use the spelling of these programs"
    return "give a particle STAR"


def as_table(block: pd.DataFrame | dict[str, str]) -> pd.DataFrame:
    """Return a block of a STAR file as a table, which has one row if the block is a list of pairs."""
    import pandas as pd

    return pd.DataFrame([block], dtype=object) if isinstance(block, dict) else block


def find_table(
    blocks: Blocks, columns: Collection[str], path: Path, needed: str, advice: str
) -> tuple[str, pd.DataFrame]:
    """Return the name of the block that has all `columns`, and its table.

    Raises
    ------
    UserError
        There is none, or it has no rows; the message states the content of the file, what is `needed`, and the
        `advice`.
    """
    name = next((name for name, block in blocks.items() if all(column in block for column in columns)), None)
    if name is None:
        raise UserError(f"{path}: the file contains {describe_blocks(blocks)}, but {needed} is expected; {advice}.")
    table = as_table(blocks[name])
    if not len(table):
        raise UserError(f"{path}: the table data_{name} has no rows, but {needed} is expected; {advice}.")
    return name, table
