"""Dynamo tables (`.tbl`) and lists of tomograms (`.doc`, `.vll`): reading, writing, conversion from and to RELION."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from opustomo.convert import Converted
from opustomo.convert.conventions import (
    compose_frames,
    dynamo_from_relion,
    origins_in_coordinate_pixels,
    relion_from_dynamo,
    require_pixels,
)
from opustomo.errors import UserError
from opustomo.io.atomic import atomic_path
from opustomo.io.star import to_numbers
from opustomo.io.star_conventions import (
    COORDINATES,
    Numbers,
    Texts,
    constant_column,
    coordinate_sizes,
    format_fixed,
    make_table,
    xyz,
    xyz_columns,
)
from opustomo.io.star_tables import EULER_COLUMNS, ORIGIN_COLUMNS, ParticleStar
from opustomo.io.tomograms import tomogram_stem

# https://wiki.dynamo.biozentrum.unibas.ch/w/index.php/Table_convention; some columns are unused.
COLUMNS = (
    "tag aligned averaged dx dy dz tdrot tilt narot cc cc2 cpu ftype ymintilt ymaxtilt xmintilt xmaxtilt fs1 fs2 tomo "
    "reg class annotation x y z dshift daxis dnarot dcc otag npar unused33 ref sref apix def unused38 unused39 "
    "unused40 eig1 eig2"
).split()
# Tables need not have the columns after these.
_NEEDED = COLUMNS.index("z") + 1
# A tag, which Matlab may write as 1.0000e+00.
_FIRST = re.compile(r"[-+.\d]")


def read_table(path: str | os.PathLike[str]) -> dict[str, Texts]:
    """Read a Dynamo table as text.

    Returns
    -------
    dict
        Values (N,) of each column by name; columns beyond the convention are called `column43` and so on.

    Raises
    ------
    UserError
        The file is missing or empty, its rows differ in length, or it has too few columns for a Dynamo table.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: the table does not exist. Check the path.")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file. Give a Dynamo table (.tbl).") from error
    values, count, row = list[str](), 0, 0
    for line in lines:
        words = line.split()
        if not words or words[0][0] in "#%":
            continue
        row += 1
        if words[0].startswith(("data_", "loop_", "_")):
            raise UserError(
                f"{path}: this is a STAR file, but a Dynamo table is expected; the name should end in .star."
            )
        if row == 1 and not _FIRST.match(words[0]):
            raise UserError(
                f"{path}: the file begins with {words[0][:20]!r}, but a Dynamo table has rows of numbers. Give a .tbl "
                "file."
            )
        count = count or len(words)
        if len(words) != count:
            raise UserError(
                f"{path}: row {row} has {len(words)} values, but the first row has {count}. Write the table again."
            )
        values += words
    if not row:
        raise UserError(f"{path}: the table has no rows. Give a table with particles.")
    if count < _NEEDED:
        raise UserError(
            f"{path}: the file has {count} columns, but a Dynamo table has at least {_NEEDED}. Give a .tbl file."
        )
    names = COLUMNS[:count] + [f"column{number}" for number in range(len(COLUMNS) + 1, count + 1)]
    return {name: np.array(values[index::count], dtype=object) for index, name in enumerate(names)}


def write_table(path: str | os.PathLike[str], columns: dict[str, Texts]) -> None:
    """Write a Dynamo table with columns in the given order, atomically."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(" ".join(row) + "\n" for row in zip(*columns.values(), strict=True))


def read_tomogram_list(path: str | os.PathLike[str]) -> dict[int, str]:
    """Read the paths of tomograms by number.

    Lines of a `.doc` file have a number and a path. Lines of a `.vll` file have only a path and count from 1. Lines
    that begin with `*`, `#` or `%` (properties, comments) are ignored.

    Raises
    ------
    UserError
        The file is missing or lists no tomogram, or a number has two paths.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: the list of tomograms does not exist. Check the path.")
    names: dict[int, str] = {}
    for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        words = line.split(None, 1)
        if not words or words[0][0] in "*#%":
            continue
        numbered = len(words) == 2 and words[0].isdigit()
        number = int(words[0]) if numbered else len(names) + 1
        name = (words[1] if numbered else line).strip().strip("'\"")
        if names.setdefault(number, name) != name:
            raise UserError(f"{path}: the number {number} refers to {names[number]} and to {name}. Correct it.")
    if not names:
        raise UserError(f"{path}: the file lists no tomogram. Give a Dynamo .doc file (number and path per line).")
    return names


def write_tomogram_list(path: str | os.PathLike[str], names: dict[int, str]) -> None:
    """Write a `.doc` file, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text("".join(f"{number} {name}\n" for number, name in names.items()), encoding="utf-8")


# Columns with the same meaning, whose text is copied.
_SAME = {"cc": "rlnAutopickFigureOfMerit", "class": "rlnClassNumber", "reg": "rlnObjectNumber"}
_TRANSLATED = {"x", "y", "z", "dx", "dy", "dz", "tdrot", "tilt", "narot", *_SAME}


def relion_from_dynamo_table(
    table: Mapping[str, Texts],
    source: str,
    tomograms: Mapping[int, str] | None = None,
    apix: float | None = None,
    scale: float = 1.0,
) -> Converted:
    """Convert a Dynamo table to a RELION 3.0 table.

    Parameters
    ----------
    table
        Result of `read_table`.
    source
        Name of the file, for messages.
    tomograms
        Names of the tomograms by number; None names them `tomo_{number}`.
    apix
        Pixel size of the tomograms in Å; None uses the column of the table, if it is positive.
    scale
        Factor by which coordinates and shifts are multiplied and the pixel size is divided.

    Raises
    ------
    UserError
        A value is not a number, or a tomogram is not in the list.
    """
    numbers = {name: to_numbers(_real(table[name]), name, source) for name in ("tomo", *sorted(_TRANSLATED - {*_SAME}))}
    count = len(numbers["x"])
    eulers = relion_from_dynamo(np.stack([numbers[name] for name in ("tdrot", "tilt", "narot")], axis=1))
    places = np.stack([numbers[axis] for axis in "xyz"], axis=1) * scale
    origins = 0.0 - np.stack([numbers[f"d{axis}"] for axis in "xyz"], axis=1) * scale
    columns: dict[str, Texts] = {
        "rlnMicrographName": _named(numbers["tomo"], tomograms, source),
        **xyz_columns(COORDINATES, places),
        **xyz_columns(EULER_COLUMNS, eulers),
        **xyz_columns(ORIGIN_COLUMNS, origins),
        **{column: table[name] for name, column in _SAME.items()},
    }
    notes = []
    sizes = np.full(count, apix) if apix is not None else None
    if sizes is None and "apix" in table:
        own = to_numbers(_real(table["apix"]), "apix", source)
        sizes = own if (own > 0).all() else None
    if sizes is None:
        notes.append("the table has no pixel size, so none is written; give it with --angpix")
    else:
        columns["rlnMagnification"] = constant_column("10000.0", count)
        columns["rlnDetectorPixelSize"] = format_fixed(sizes / scale)
    columns |= {_dynamo_column(name): values for name, values in table.items() if name not in _TRANSLATED}
    return Converted(ParticleStar(None, {"": make_table(columns)}, ""), count, tuple(notes))


def dynamo_from_relion_table(
    star: ParticleStar,
    tomograms: Mapping[int, str] | None = None,
    apix: float | None = None,
    scale: float = 1.0,
) -> tuple[dict[str, Texts], dict[int, str]]:
    """Convert a particle table of any RELION version to a Dynamo table.

    Tags are row numbers from 1, unless the table came from Dynamo. Columns that a Dynamo table cannot hold are left
    out; `restore_poses` returns the poses to the full table.

    Parameters
    ----------
    star
        Particles with coordinates in pixels.
    tomograms
        Names of the tomograms by number; None numbers them by the last number in their names if these numbers are
        distinct, otherwise in the order of appearance.
    apix
        Pixel size of the coordinates in Å; None uses that of the table.
    scale
        Factor by which coordinates and shifts are multiplied and the pixel size is divided.

    Returns
    -------
    dict
        Columns of the table in Dynamo's order.
    dict
        Names of the tomograms by number.

    Raises
    ------
    UserError
        Coordinates in pixels are missing, or a tomogram is not in the list.
    """
    require_pixels(star)
    star = compose_frames(star)
    count, zeros = len(star), constant_column("0", len(star))
    columns: dict[str, Texts] = {name: zeros for name in COLUMNS}
    columns |= {"tag": np.arange(1, count + 1).astype(str).astype(object), "aligned": constant_column("1", count)}
    carried = {_dynamo_column(name): name for name in (*COLUMNS, *(f"column{number}" for number in range(43, 60)))}
    own = [column for column in star.particles.columns if column in carried]
    columns |= {carried[column]: _numeric(star, column) for column in own}
    columns |= {name: _numeric(star, column) for name, column in _SAME.items() if column in star}
    columns |= _general(("x", "y", "z"), xyz(star, COORDINATES) * scale)
    origins = origins_in_coordinate_pixels(star, apix)
    sizes = coordinate_sizes(star, apix)
    if sizes is not None:
        columns["apix"] = _general(("apix",), (sizes / scale)[:, None])["apix"]
    columns |= _general(("dx", "dy", "dz"), 0.0 - origins * scale)
    eulers = star.eulers_deg() if EULER_COLUMNS[0] in star else np.zeros((count, 3))
    columns |= _general(("tdrot", "tilt", "narot"), dynamo_from_relion(eulers))
    names = next((star.strings(name) for name in ("rlnMicrographName", "rlnTomoName") if name in star), None)
    if names is None:
        return columns, {}
    numbered = _numbered(names, tomograms, columns["tomo"] if _dynamo_column("tomo") in star else None, star)
    columns["tomo"] = np.array([str(numbered[name]) for name in names], dtype=object)
    return columns, {number: name for name, number in numbered.items()}


def restore_poses(
    table: Mapping[str, Texts], source: str, star: ParticleStar, apix: float | None = None, scale: float = 1.0
) -> Converted:
    """Return the poses of a Dynamo table to the particle table from which it was made.

    Rows are matched by tag; particles that are not in the Dynamo table are left out. Angles and origins change;
    coordinates and all other values and blocks remain.

    Raises
    ------
    UserError
        A tag is not a row of the particle table.
    """
    require_pixels(star)
    star = compose_frames(star)
    rows = to_numbers(_real(table["tag"]), "tag", source).astype(np.int64) - 1
    wrong = np.flatnonzero((rows < 0) | (rows >= len(star)))
    if wrong.size:
        raise UserError(
            f"{source}: row {wrong[0] + 1} has the tag {rows[wrong[0]] + 1}, but {star.path} has {len(star)} "
            "particles. Give the STAR file that the table was made from."
        )
    chosen = star.subset(rows)
    numbers = {name: to_numbers(_real(table[name]), name, source) for name in _TRANSLATED - {*_SAME}}
    places = np.stack([numbers[axis] + numbers[f"d{axis}"] for axis in "xyz"], axis=1) / scale
    eulers = relion_from_dynamo(np.stack([numbers[name] for name in ("tdrot", "tilt", "narot")], axis=1))
    shifts = xyz(chosen, COORDINATES) - places
    images, sizes = chosen.pixel_sizes(), coordinate_sizes(chosen)
    if apix is None and images is not None and sizes is not None:
        shifts *= (sizes / images)[:, None]
    return Converted(chosen.with_poses(eulers, shifts, apix), len(rows))


def _dynamo_column(name: str) -> str:
    return f"dynamo{name[0].upper()}{name[1:]}"


def _numeric(star: ParticleStar, column: str) -> Texts:
    """Return the text of a column that must be numeric (or NaN), because a Dynamo table consists of numbers.

    Raises
    ------
    UserError
        A value is not a number.
    """
    texts = star.particles[column].to_numpy(dtype=object)
    for row, text in enumerate(_real(texts), 1):
        try:
            float(text)
        except ValueError:
            raise UserError(
                f"{star.path}: {column} of row {row} is {text!r}, but a Dynamo table consists of numbers; "
                "correct it or remove the column."
            ) from None
    return texts


def _general(names: tuple[str, ...], numbers: Numbers) -> dict[str, Texts]:
    """Format numbers as short text without a fixed number of decimals, as in tables of Dynamo."""
    texts = [
        np.array([f"{value:.10g}" for value in numbers[:, index].tolist()], dtype=object) for index in range(len(names))
    ]
    return dict(zip(names, texts, strict=True))


def _real(values: Texts) -> list[str]:
    """Remove an imaginary part of zero, which Matlab writes into some columns."""
    return [re.sub(r"[+-]0*\.?0*i$", "", value) if value.endswith("i") else value for value in values.tolist()]


def _named(numbers: Numbers, tomograms: Mapping[int, str] | None, source: str) -> Texts:
    names = {}
    for number in dict.fromkeys(numbers.astype(np.int64).tolist()):
        if tomograms is not None and number not in tomograms:
            raise UserError(f"{source}: the tomogram {number} is not in the list of tomograms. Add it there.")
        names[number] = f"tomo_{number}" if tomograms is None else tomograms[number]
    return np.array([names[number] for number in numbers.astype(np.int64).tolist()], dtype=object)


def _numbered(
    names: list[str], tomograms: Mapping[int, str] | None, own: Texts | None, star: ParticleStar
) -> dict[str, int]:
    """Return the number of each tomogram by name."""
    distinct = list(dict.fromkeys(names))
    if tomograms is not None:
        by_name = {tomogram_stem(name): number for number, name in tomograms.items()}
        by_name |= {name: number for number, name in tomograms.items()}
        missing = next((name for name in distinct if name not in by_name and tomogram_stem(name) not in by_name), None)
        if missing is not None:
            raise UserError(f"{star.path}: the tomogram {missing} is not in the list of tomograms. Add it there.")
        return {name: by_name.get(name, by_name.get(tomogram_stem(name), 0)) for name in distinct}
    if own is not None:
        numbers = to_numbers(own.tolist(), _dynamo_column("tomo"), str(star.path)).astype(int).tolist()
        return dict(zip(names, numbers, strict=True))
    found = [re.search(r"(\d+)\D*$", tomogram_stem(name)) for name in distinct]
    last = [int(match.group(1)) for match in found if match is not None]
    if len(set(last)) < len(distinct):
        last = list(range(1, len(distinct) + 1))
    return dict(zip(distinct, last, strict=True))
