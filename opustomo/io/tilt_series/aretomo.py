"""Alignments of AreTomo 1 to 3 (.aln files).

AreTomo exports the same alignment to IMOD (`-OutImod`) as a rotation by -ROT with the shift (-TX, -TY) rotated in the
same way (CSaveXF.cpp of AreTomo 2 and 3). A point p of the aligned image therefore appears at `Rz(ROT) p + (TX, TY)` of
the raw image. TILT is the angle of the .tlt file plus AlphaOffset (CAlignParam.cpp). SEC counts sections of the raw
stack from 0 in versions 1 and 2, and from 1 in version 3, which writes AlphaOffset.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from opustomo.errors import UserError
from opustomo.io.tilt_series.series import TextTilts, check_angles

_COLUMNS = 10
_SEC, _ROT, _GMAG, _TX, _TY, _TILT = 0, 1, 2, 3, 4, 9


@dataclass(frozen=True, eq=False)
class Alignment:
    """Content of an .aln file.

    Attributes
    ----------
    table
        (T, 10) columns SEC ROT GMAG TX TY SMEAN SFIT SCALE BASE TILT.
    raw_size
        x, y and number of sections of the raw stack; None if the file does not state it.
    dark
        (D, 3) excluded frames: index among the sorted tilts, section, angle.
    header
        Other values by name, such as AlphaOffset.
    """

    table: np.ndarray
    raw_size: tuple[int, int, int] | None
    dark: np.ndarray
    header: dict[str, float]


def read_aln(path: str | os.PathLike[str]) -> Alignment:
    """Read an .aln file without its local alignments.

    Raises
    ------
    UserError
        The file is missing, damaged, or not an alignment of AreTomo.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Give an .aln file of AreTomo.") from error
    if not any(re.match(r"#\s*SEC\s+ROT", line) for line in lines):
        raise UserError(f"{path}: there is no line '# SEC ROT …' above the tilts. Give an .aln file of AreTomo.")
    rows: list[list[float]] = []
    dark: list[list[float]] = []
    header: dict[str, float] = {}
    raw_size = None
    for number, line in enumerate(lines, 1):
        if re.match(r"#\s*Local Alignment", line):
            break
        entry = re.match(r"#\s*(\w+)\s*=\s*(.*)", line)
        if entry is not None:
            values = _numbers(path, number, entry[2], None)
            if entry[1] == "DarkFrame":
                dark.append(_numbers(path, number, entry[2], 3))
            elif entry[1] == "RawSize":
                x, y, z = _numbers(path, number, entry[2], 3)
                raw_size = (int(x), int(y), int(z))
            elif len(values) == 1 and np.isfinite(values[0]):
                header[entry[1]] = values[0]
            elif entry[1] in ("AlphaOffset", "BetaOffset"):
                raise UserError(f"{path}: line {number} must hold one finite number after {entry[1]}. Export it again.")
        elif line.strip() and not line.lstrip().startswith("#"):
            rows.append(_numbers(path, number, line, _COLUMNS))
    if not rows:
        raise UserError(f"{path}: the file lists no tilts. Align the tilt series with AreTomo again.")
    return Alignment(np.array(rows), raw_size, np.array(dark).reshape(-1, 3), header)


def read_aln_tilts(path: str | os.PathLike[str]) -> TextTilts:
    """Read the tilts that AreTomo aligned, in the order of the file.

    Raises
    ------
    UserError
        As in `read_aln`, or a section occurs twice or is not in the raw stack, or an angle is invalid.
    """
    path = Path(path)
    found = read_aln(path)
    table = found.table
    check_angles(path, table[:, _TILT])
    sections = _sections(path, found)
    alpha = found.header.get("AlphaOffset", 0.0)
    return TextTilts(
        source=path,
        tilt_deg=table[:, _TILT],
        axis_deg=table[:, _ROT],
        shifts=table[:, [_TX, _TY]],
        sections=sections,
        stack_size=found.raw_size,
        nominal_deg=table[:, _TILT] - alpha,
        notes=_notes(path, found),
    )


def _sections(path: Path, found: Alignment) -> np.ndarray:
    """Return sections counted from 0, for all versions of AreTomo."""
    written = found.table[:, _SEC].astype(np.int64)
    if len(np.unique(written)) < len(written) or (written != found.table[:, _SEC]).any():
        raise UserError(f"{path}: the sections (SEC) are not distinct integers. Align the tilt series again.")
    count = None if found.raw_size is None else found.raw_size[2]
    from_one = written.min() > 0 and ("AlphaOffset" in found.header or written.max() == count)
    sections = written - 1 if from_one else written
    if sections.min() < 0 or (count is not None and sections.max() >= count):
        raise UserError(
            f"{path}: the file lists section {written.max()}, but the raw stack has {count} sections (RawSize). Align "
            "the tilt series again."
        )
    return np.asarray(sections)


def _notes(path: Path, found: Alignment) -> tuple[str, ...]:
    notes = []
    if found.header.get("NumPatches", 0) > 0:
        notes.append(f"{path}: the local alignments ({found.header['NumPatches']:g} patches) are ignored")
    if found.header.get("BetaOffset", 0.0):
        notes.append(f"{path}: BetaOffset {found.header['BetaOffset']:g} is ignored")
    if len(found.dark):
        notes.append(f"{path}: {len(found.dark)} dark frames are left out, as in AreTomo's alignment")
    if np.abs(found.table[:, _GMAG] - 1).max() > 1e-3:
        notes.append(f"{path}: the magnifications of GMAG are ignored")
    if found.raw_size is not None and len(found.table) != found.raw_size[2] - len(found.dark):
        notes.append(
            f"{path}: the file lists {len(found.table)} tilts, but RawSize and DarkFrame imply "
            f"{found.raw_size[2] - len(found.dark)}; the others are left out"
        )
    return tuple(notes)


def _numbers(path: Path, line: int, text: str, count: int | None) -> list[float]:
    """Return the numbers of a line, which must be `count`; None accepts any number, also none."""
    words = text.split()
    try:
        numbers = [float(word) for word in words]
    except ValueError as error:
        if count is None:
            return []
        raise UserError(f"{path}: line {line} is not numeric ({error}). Export the file again.") from error
    if count is not None and (len(numbers) != count or not np.isfinite(numbers).all()):
        raise UserError(
            f"{path}: line {line} must have {count} finite numbers, but it is {text.strip()[:60]!r}. Export the file "
            "again."
        )
    return numbers
