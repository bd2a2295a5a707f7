"""Defocus files of ctfplotter (.defocus) and CTFFIND (.txt): the defocus of each tilt."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from opustomo.errors import UserError

_ASTIGMATISM, _RADIANS, _PHASE, _PHASE_RADIANS = 1, 2, 4, 8
"""Flags of ctfplotter for the columns of a line."""


@dataclass(frozen=True, eq=False)
class TiltDefoci:
    """Defocus of each tilt, (T,), in Å (positive for underfocus) and degrees."""

    u_A: np.ndarray
    v_A: np.ndarray
    angle_deg: np.ndarray
    phase_shift_deg: np.ndarray

    def take(self, tilts: np.ndarray) -> TiltDefoci:
        """Return the defoci of the selected tilts."""
        return TiltDefoci(self.u_A[tilts], self.v_A[tilts], self.angle_deg[tilts], self.phase_shift_deg[tilts])


def read_defoci(path: str | os.PathLike[str], tilt_deg: np.ndarray) -> TiltDefoci:
    """Read the defocus of each tilt from a file of ctfplotter (.defocus) or CTFFIND (.txt, one line per tilt).

    Views that ctfplotter omitted are interpolated between the nearest tilts.

    Raises
    ------
    UserError
        The file is missing or not numeric, or it has no line for a tilt.
    """
    lines, rows = _defocus_rows(Path(path))
    path = Path(path)
    if not rows:
        raise UserError(f"{path}: the file has no defocus. Estimate it with ctfplotter or CTFFIND first.")
    if not np.isfinite(np.concatenate(rows)).all():
        raise UserError(f"{path}: a defocus is not a finite number. Estimate it again.")
    return _ctffind(path, rows, len(tilt_deg)) if _is_ctffind(lines, rows) else _ctfplotter(path, rows, tilt_deg)


def count_ctffind_rows(path: str | os.PathLike[str]) -> int | None:
    """Return the number of images in a file of CTFFIND; None for a file of ctfplotter.

    Raises
    ------
    UserError
        The file cannot be read or is not numeric.
    """
    lines, rows = _defocus_rows(Path(path))
    return len(rows) if rows and _is_ctffind(lines, rows) else None


def _defocus_rows(path: Path) -> tuple[list[str], list[list[float]]]:
    """Return the lines of a defocus file, and the numbers in the lines that are not comments."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Give ctfplotter's or CTFFIND's file.") from error
    rows = []
    for line in lines:
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                rows.append([float(word) for word in line.split()])
            except ValueError as error:
                raise UserError(f"{path}: {line.strip()[:40]!r} is not a valid defocus row. Correct it.") from error
    return lines, rows


def _is_ctffind(lines: list[str], rows: list[list[float]]) -> bool:
    """Return whether a file is of CTFFIND: it has comments, at least 7 columns, and defoci in Å in the second."""
    return all(len(row) >= 7 for row in rows) and (
        any(line.lstrip().startswith("#") for line in lines) or all(abs(row[1]) > 500 for row in rows)
    )


def _ctffind(path: Path, rows: list[list[float]], count: int) -> TiltDefoci:
    if len(rows) != count:
        raise UserError(f"{path}: there are {len(rows)} lines but {count} tilts. Estimate the defocus of all tilts.")
    table = np.array([row[:5] for row in rows])
    return TiltDefoci(table[:, 1], table[:, 2], table[:, 3], np.rad2deg(table[:, 4]))


def _ctfplotter(path: Path, rows: list[list[float]], tilt_deg: np.ndarray) -> TiltDefoci:
    """Convert rows of versions 1 to 3: first and last view (from 1), angles, defocus (nm), values by flags."""
    flags = 0
    first = rows[0]
    if len(first) >= 6 and first[-1] >= 3 and not any(first[1:5]):
        flags, rows = int(first[0]), rows[1:]
    needed = 5 + (2 if flags & _ASTIGMATISM else 0) + (1 if flags & _PHASE else 0)
    if not rows or any(len(row) < needed for row in rows):
        raise UserError(f"{path}: each line must have {needed} numbers: views, angles and defocus. Correct it.")
    count = len(tilt_deg)
    # The first versions of ctfplotter count views from 0.
    start = 0 if min(row[0] for row in rows) == 0 else 1
    sums, hits = np.zeros((count, 5)), np.zeros(count)
    for row in rows:
        low, high = int(row[0]) - start, int(row[1]) - start
        if not 0 <= low <= high < count:
            raise UserError(
                f"{path}: the file lists views {row[0]:g} to {row[1]:g}, but there are {count} tilts. Give the "
                "files of one tilt series."
            )
        sums[low : high + 1] += _fields(row, flags)
        hits[low : high + 1] += 1
    known = np.flatnonzero(hits)
    mean = sums[known] / hits[known, None]
    order = known[np.argsort(tilt_deg[known])]
    filled = np.empty((count, 5))
    for i in range(5):
        value = np.empty(count)
        value[known] = mean[:, i]
        filled[:, i] = np.interp(tilt_deg, tilt_deg[order], value[order])
        filled[known, i] = mean[:, i]
    angle = 0.5 * np.rad2deg(np.arctan2(filled[:, 3], filled[:, 2]))
    return TiltDefoci(filled[:, 0], filled[:, 1], angle, filled[:, 4])


def _fields(row: list[float], flags: int) -> np.ndarray:
    """Return U and V in Å, cosine and sine of twice the angle, and phase shift in degrees of a row."""
    u = v = 10.0 * row[4]
    angle, place = 0.0, 5
    if flags & _ASTIGMATISM:
        v = 10.0 * row[5]
        angle = row[6] if flags & _RADIANS else np.deg2rad(row[6])
        place = 7
    phase = row[place] if flags & _PHASE else 0.0
    if flags & _PHASE_RADIANS:
        phase = float(np.rad2deg(phase))
    return np.array([u, v, np.cos(2 * angle), np.sin(2 * angle), phase])
