"""Text files of IMOD, ctfplotter and CTFFIND: tilt angles, doses, transforms and defoci."""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from opustomo.errors import UserError

_ASTIGMATISM, _RADIANS, _PHASE, _PHASE_RADIANS, _INVERTED = 1, 2, 4, 8, 16


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


def read_columns(path: str | os.PathLike[str], columns: tuple[int, ...], what: str) -> np.ndarray:
    """Read the numbers of a text file, separated by white space or commas; lines with # are comments.

    Parameters
    ----------
    path
        The file.
    columns
        Allowed numbers of columns.
    what
        Description of a line, for messages.

    Raises
    ------
    UserError
        The file is missing or has other content.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); it must have {what} per line.") from error
    try:
        with warnings.catch_warnings():
            # An empty file is reported below.
            warnings.simplefilter("ignore", UserWarning)
            table = np.loadtxt(text.replace(",", " ").splitlines(), ndmin=2)
    except ValueError as error:
        raise UserError(f"{path}: the file must have {what} per line ({str(error).split(';')[0]}).") from error
    if not table.size:
        raise UserError(f"{path}: the file is empty; it must have {what} per line.")
    if table.shape[1] not in columns:
        raise UserError(f"{path}: the file must have {what} per line, but it has {table.shape[1]} columns.")
    if not np.isfinite(table).all():
        row = int(np.flatnonzero(~np.isfinite(table).all(axis=1))[0])
        raise UserError(f"{path}: row {row + 1} has a number that is not finite; it must have {what}.")
    return table


def read_tlt(path: str | os.PathLike[str]) -> np.ndarray:
    """Read tilt angles in degrees from the first column of a .tlt, .rawtlt or _TLT.txt file, (T,).

    Raises
    ------
    UserError
        As in `read_columns`, or an angle is 90° or more.
    """
    tilt = read_columns(path, (1, 2, 3), _TLT_LINE)[:, 0]
    if np.abs(tilt).max() >= 90:
        raise UserError(
            f"{path}: the angle {tilt[np.abs(tilt).argmax()]:g} is not between -90 and 90 degrees. Give a file of tilt "
            "angles."
        )
    return tilt


_TLT_LINE = "one tilt angle"


def read_tlt_dose(path: str | os.PathLike[str], dose_per_tilt: float) -> np.ndarray | None:
    """Read accumulated doses from the further columns of a .tlt file, (T,) e/Å²; None if there are none.

    The second column is the index in the order of exposure, from 0 or 1, as for -AngFile of AreTomo, or else the
    accumulated dose. The third column of AreTomo 3 (_TLT.txt) is the dose of each exposure; without it, or if it is 0,
    an exposure adds `dose_per_tilt`.

    Raises
    ------
    UserError
        As in `read_tlt`, or the second column is neither.
    """
    table = read_columns(path, (1, 2, 3), _TLT_LINE)
    if table.shape[1] == 1 or not table[:, 1].any():
        # AreTomo writes 0 for unknown values.
        return None
    second = table[:, 1]
    places = np.sort(second) - second.min()
    if second.min() in (0, 1) and np.array_equal(places, np.arange(len(second))):
        exposure = np.full(len(second), dose_per_tilt)
        if table.shape[1] == 3 and table[:, 2].all():
            exposure = table[:, 2]
        order = np.argsort(second)
        dose = np.empty(len(second))
        dose[order] = np.cumsum(exposure[order])
        return dose
    if table.shape[1] == 3 or second.min() < 0 or len(np.unique(second)) < len(second):
        raise UserError(
            f"{path}: the second column is neither the order of exposure (each of 1 to {len(second)} once) nor an "
            "accumulated dose that differs from tilt to tilt. Correct it or keep only the angles in the file."
        )
    return second


def read_dose(path: str | os.PathLike[str], tilt_deg: np.ndarray, dose_per_tilt: float) -> np.ndarray:
    """Read the accumulated dose of each tilt from an .order file, (T,) e/Å².

    Two columns are tilt angle and accumulated dose, in rows of any order that are matched by angle, or the index in the
    order of exposure and the tilt angle, as AreTomo writes it for RELION 4. One column is the index of each tilt in the
    order of exposure, from 1 (or 0). Each exposure adds `dose_per_tilt`.

    Raises
    ------
    UserError
        As in `read_columns`, an angle has no match within 1°, or the indices are inconsistent with the tilts.
    """
    table = read_columns(path, (1, 2), "angle and accumulated dose, or the index in the order of exposure,")
    if table.shape[1] == 2:
        numbers = np.sort(table[:, 0])
        if np.array_equal(numbers - numbers[0], np.arange(len(table))) and numbers[0] in (0, 1):
            by_number = np.abs(table[None, :, 1] - tilt_deg[:, None])
            by_angle = np.abs(table[None, :, 0] - tilt_deg[:, None])
            if by_number.min(axis=1).max() <= 1.0 < by_angle.min(axis=1).max():
                return (table[by_number.argmin(axis=1), 0] - numbers[0] + 1) * dose_per_tilt
        distance = np.abs(table[None, :, 0] - tilt_deg[:, None])
        if distance.min(axis=1).max() > 1.0:
            lost = tilt_deg[distance.min(axis=1).argmax()]
            raise UserError(f"{path}: no angle is within 1 degree of the tilt {lost:g}. Complete the file.")
        return table[distance.argmin(axis=1), 1]
    place = table[:, 0]
    if len(place) != len(tilt_deg) or len(np.unique(place)) != len(place):
        raise UserError(
            f"{path}: there are {len(np.unique(place))} distinct indices but {len(tilt_deg)} tilts. Give one index for "
            "each tilt."
        )
    return (place - place.min() + 1) * dose_per_tilt


def read_xf(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Read IMOD transforms `aligned - center = A (raw - center) + d`; A is (T, 2, 2), d is (T, 2) in pixels.

    Raises
    ------
    UserError
        As in `read_columns`, or a matrix cannot be inverted.
    """
    table = read_columns(path, (6,), "the six numbers of a transform")
    matrices = table[:, :4].reshape(-1, 2, 2)
    if np.abs(np.linalg.det(matrices)).min() < 1e-3:
        raise UserError(f"{path}: a transform cannot be inverted. Align the tilt series again.")
    return matrices, table[:, 4:]


def read_com_options(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the lines `NAME value` of an IMOD command file such as tilt.com; names are converted to capitals.

    Raises
    ------
    UserError
        The file cannot be read.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Give the tilt.com of eTomo.") from error
    pairs = (line.split(None, 1) for line in lines if re.match(r"[A-Za-z]", line))
    return {pair[0].upper(): pair[1].strip() if len(pair) > 1 else "" for pair in pairs}


def read_defoci(path: str | os.PathLike[str], tilt_deg: np.ndarray) -> TiltDefoci:
    """Read the defocus of each tilt from a file of ctfplotter (.defocus) or CTFFIND (.txt, one line per tilt).

    Views that ctfplotter omitted are interpolated between the nearest tilts.

    Raises
    ------
    UserError
        As in `read_columns`, or the file has no line for a tilt.
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
