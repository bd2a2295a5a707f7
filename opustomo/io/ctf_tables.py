"""CTF tables: parameters of the tilts of a subtomogram from RELION (.star) or WARP (.csv), or a missing wedge alone.

A data set has one table per particle, so plain tables (one block, one loop, no quotes) have a fast reader and writer.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from opustomo.errors import UserError
from opustomo.io.atomic import atomic_path
from opustomo.io.star import to_numbers
from opustomo.io.star_conventions import damping_bfactors
from opustomo.io.star_tables import read_table

_UNUSUAL = re.compile("""['"#]""")


def read_plain_loop(path: str | os.PathLike[str]) -> dict[str, list[str]] | None:
    """Read the only loop of a STAR file.

    Returns
    -------
    dict, or None
        Values of each column by name; None if the file is missing or not a plain table.
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
    """Read the only loop of a STAR file that consists of finite numbers.

    Returns
    -------
    dict, or None
        Values (N,) of each column by name; None if the file is missing or has any other content.
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
    """Write one loop of numbers with six decimals, atomically.

    Parameters
    ----------
    path
        Output file.
    block
        Name of the block without "data_".
    columns
        Values (T,) of each column by name.
    """
    header = "".join(f"_{name} #{place}\n" for place, name in enumerate(columns, 1))
    line = " ".join(["%14.6f"] * len(columns))
    rows = "\n".join(line % values for values in zip(*(column.tolist() for column in columns.values()), strict=True))
    with atomic_path(path) as temporary:
        temporary.write_text(f"data_{block}\n\nloop_\n{header}{rows}\n", encoding="utf-8")


_RELION_REQUIRED = (
    "rlnDefocusU",
    "rlnVoltage",
    "rlnSphericalAberration",
    "rlnAmplitudeContrast",
    "rlnAngleTilt",
    "rlnCtfBfactor",
    "rlnCtfScalefactor",
)
_WARP_REQUIRED = (
    "TiltAngle",
    "Voltage",
    "Cs",
    "Amplitude",
    "Defocus",
    "DefocusDelta",
    "AstigmatismAngle",
    "Bfactor",
    "Scale",
)


@dataclass(frozen=True, eq=False)
class TiltTable:
    """CTF parameters of each tilt in the order of the file; arrays are float64 (T,).

    Attributes
    ----------
    tilt_deg
        Tilt angle; the slice's x axis lies along (cos t, 0, -sin t) of the subtomogram.
    defocus_u_A, defocus_v_A
        Defocus along and across the astigmatism axis in Å, positive for underfocus.
    astigmatism_deg
        Azimuth of the astigmatism axis in degrees.
    voltage_kv
        Acceleration voltage in kV.
    cs_mm
        Spherical aberration in mm.
    amplitude_contrast
        Fraction of amplitude contrast, 0 to 1.
    phase_shift_deg
        Phase shift of a phase plate in degrees.
    bfactor_A2
        B factor in Å², not negative: envelope exp(-B s²/4).
    scale
        Weight of the tilt, usually cos(tilt).
    bfactor_sign
        Sign of the B factors in the file: 1 or -1; 0 if all are 0.
    bfactor_scale
        Factor between the absolute values in the file and `bfactor_A2`.
    """

    tilt_deg: npt.NDArray[np.float64]
    defocus_u_A: npt.NDArray[np.float64]
    defocus_v_A: npt.NDArray[np.float64]
    astigmatism_deg: npt.NDArray[np.float64]
    voltage_kv: npt.NDArray[np.float64]
    cs_mm: npt.NDArray[np.float64]
    amplitude_contrast: npt.NDArray[np.float64]
    phase_shift_deg: npt.NDArray[np.float64]
    bfactor_A2: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]
    bfactor_sign: int = 0
    bfactor_scale: float = 1.0

    def __post_init__(self) -> None:
        tilts = np.shape(self.tilt_deg)
        for name in TILT_COLUMNS:
            values = np.array(getattr(self, name), dtype=np.float64)
            if values.ndim != 1 or values.shape != tilts:
                raise ValueError(f"{name} has the shape {values.shape}, but tilt_deg has {tilts}")
            object.__setattr__(self, name, values)

    def __len__(self) -> int:
        return len(self.tilt_deg)


TILT_COLUMNS = tuple(field.name for field in fields(TiltTable) if field.name not in ("bfactor_sign", "bfactor_scale"))
"""Names of the arrays of a `TiltTable`."""


def read_relion_table(path: str | os.PathLike[str]) -> TiltTable:
    """Read a CTF table of RELION: `data_images` or any other block with the columns.

    Required columns are rlnDefocusU, rlnVoltage, rlnSphericalAberration, rlnAmplitudeContrast, rlnAngleTilt,
    rlnCtfBfactor and rlnCtfScalefactor. rlnDefocusV defaults to U, rlnDefocusAngle and rlnPhaseShift to 0.
    B factors of either sign damp, see :mod:`opustomo.io.star_conventions`.

    Raises
    ------
    UserError
        The file or a column is missing, a value is not finite or physically impossible, or B factors have both signs.
    """
    numbers = read_plain_numbers(path)
    if numbers is None or not numbers.keys() >= set(_RELION_REQUIRED):
        plain = read_plain_loop(path)
        complete = plain is not None and all(name in plain for name in _RELION_REQUIRED)
        table = plain if plain is not None and complete else read_table(path, _RELION_REQUIRED)
        wanted = (*_RELION_REQUIRED, "rlnDefocusV", "rlnDefocusAngle", "rlnPhaseShift")
        numbers = {name: to_numbers(table[name], name, str(path)) for name in wanted if name in table}

    def column(name: str, default: npt.NDArray[np.float64] | None = None) -> npt.NDArray[np.float64]:
        return numbers[name] if default is None else numbers.get(name, default)

    u = column("rlnDefocusU")
    zeros = np.zeros_like(u)
    bfactors, sign = damping_bfactors(column("rlnCtfBfactor"), path)
    return _checked(
        path,
        TiltTable(
            tilt_deg=column("rlnAngleTilt"),
            defocus_u_A=u,
            defocus_v_A=column("rlnDefocusV", u),
            astigmatism_deg=column("rlnDefocusAngle", zeros),
            voltage_kv=column("rlnVoltage"),
            cs_mm=column("rlnSphericalAberration"),
            amplitude_contrast=column("rlnAmplitudeContrast"),
            phase_shift_deg=column("rlnPhaseShift", zeros),
            bfactor_A2=bfactors,
            scale=column("rlnCtfScalefactor"),
            bfactor_sign=sign,
        ),
    )


def read_warp_table(path: str | os.PathLike[str], bfactor_scale: float = 0.25) -> TiltTable:
    """Read a CTF table of WARP, a csv file in SI units beside the subtomogram.

    Defocus is negative for underfocus, and DefocusDelta is the full difference u - v. WARP writes negative B factors;
    B factors of either sign damp, see :mod:`opustomo.io.star_conventions`.

    Parameters
    ----------
    path
        The csv file.
    bfactor_scale
        Factor applied to the B factors of WARP, which are too large for this purpose; OPUS-TOMO divides them by 4.

    Raises
    ------
    UserError
        The file or a column is missing, a value is not finite or physically impossible, or B factors have both signs.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: the CTF table does not exist. Export the subtomograms with their csv files again.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            rows = [[cell.strip() for cell in row] for row in csv.reader(handle) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a readable csv table ({error}). Export it again.") from error
    header = rows[0] if rows else []
    lacking = next((name for name in _WARP_REQUIRED if name not in header), None)
    if lacking is not None:
        raise UserError(f"{path}: the CTF table has no column {lacking}. Export it from WARP again.")
    short = next((index for index, row in enumerate(rows) if len(row) != len(header)), None)
    if short is not None:
        raise UserError(
            f"{path}: line {short + 1} has {len(rows[short])} values, but there are {len(header)} columns. Export the "
            "table again."
        )

    def column(name: str) -> npt.NDArray[np.float64]:
        place = header.index(name)
        return to_numbers([row[place] for row in rows[1:]], name, str(path))

    underfocus_A = -column("Defocus") * 1e10
    half_delta_A = 0.5 * column("DefocusDelta") * 1e10
    bfactors, sign = damping_bfactors(column("Bfactor"), path, "Bfactor")
    return _checked(
        path,
        TiltTable(
            tilt_deg=column("TiltAngle"),
            defocus_u_A=underfocus_A - half_delta_A,
            defocus_v_A=underfocus_A + half_delta_A,
            astigmatism_deg=np.rad2deg(column("AstigmatismAngle")),
            voltage_kv=column("Voltage") * 1e-3,
            cs_mm=column("Cs") * 1e3,
            amplitude_contrast=column("Amplitude"),
            phase_shift_deg=np.zeros_like(underfocus_A),
            bfactor_A2=bfactors * 1e20 * bfactor_scale,
            scale=column("Scale"),
            bfactor_sign=sign,
            bfactor_scale=bfactor_scale,
        ),
    )


def wedge_only_table(tilt_range_deg: float, tilt_step_deg: float) -> TiltTable:
    """Return a table of tilts without a CTF: it is 1 within the slices, scaled by cos(tilt).

    Parameters
    ----------
    tilt_range_deg
        Largest tilt in degrees, 0 < range < 90.
    tilt_step_deg
        Step between tilts in degrees. Tilts are symmetric about 0, so the largest may be below the range.
    """
    if not 0 < tilt_range_deg < 90 or not tilt_step_deg > 0:
        raise ValueError(f"a range of {tilt_range_deg} and steps of {tilt_step_deg} degrees define no tilts")
    # Tilts are symmetric about 0, so the untilted slice is always included.
    steps = int(np.floor(tilt_range_deg / tilt_step_deg + 1e-9))
    tilts = np.arange(-steps, steps + 1, dtype=np.float64) * tilt_step_deg
    zeros, ones = np.zeros_like(tilts), np.ones_like(tilts)
    return TiltTable(
        tilt_deg=tilts,
        defocus_u_A=zeros,
        defocus_v_A=zeros,
        astigmatism_deg=zeros,
        voltage_kv=300 * ones,
        cs_mm=zeros,
        amplitude_contrast=ones,
        phase_shift_deg=zeros,
        bfactor_A2=zeros,
        scale=np.cos(np.deg2rad(tilts)),
    )


def _checked(path: str | os.PathLike[str], table: TiltTable) -> TiltTable:
    if not len(table):
        raise UserError(f"{path}: the CTF table has no tilts. Export it again.")
    bounds = (
        ("tilt angle", table.tilt_deg, -180.0, 180.0, "degrees"),
        ("voltage", table.voltage_kv, 1.0, 10_000.0, "kV"),
        ("amplitude contrast", table.amplitude_contrast, 0.0, 1.0, "as a fraction"),
        ("scale", table.scale, 0.0, np.inf, "as a weight"),
    )
    for name, values, low, high, unit in bounds:
        if values.min() < low or values.max() > high:
            tilt = int(np.argmax((values < low) | (values > high)))
            raise UserError(
                f"{path}: the {name} of tilt {tilt + 1} is {values[tilt]:g}, expected "
                f"{low:g} to {high:g} {unit}. Correct the table."
            )
    if not table.scale.any():
        raise UserError(f"{path}: the scales of all tilts are 0. Correct the table.")
    return table
