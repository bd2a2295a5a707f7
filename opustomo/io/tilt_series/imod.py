"""Text files of IMOD (.tlt, .xf, tilt.com, .order), and the tilt series that they describe with a defocus file.

The tilt angles of IMOD are right-handed rotations about y: a point appears at `x cos t + z sin t` of the aligned image.
RELION 5 uses the same angles (rlnTomoYTilt).
"""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from opustomo.errors import UserError
from opustomo.geometry.tilt_geometry import TiltGeometry, rotation_x, rotation_y
from opustomo.io.tilt_series.defocus_files import TiltDefoci, read_defoci
from opustomo.io.tilt_series.series import TiltImage, TiltOptics, TiltSeries


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


@dataclass(frozen=True)
class ImodFiles:
    """Files of one series; None means that a file does not exist.

    Attributes
    ----------
    tlt
        Tilt angles.
    defocus
        Defoci from ctfplotter or CTFFIND.
    order
        Doses, see :func:`opustomo.io.tilt_series.imod.read_dose`.
    xf
        Transforms from the raw to the aligned stack; if given, `stack` is the raw stack.
    com
        tilt.com with XAXISTILT and OFFSET.
    stack
        Tilt images.
    """

    tlt: Path
    defocus: Path
    order: Path | None = None
    xf: Path | None = None
    com: Path | None = None
    stack: Path | None = None


@dataclass(frozen=True)
class Microscope:
    """Constants that text files do not state, in kV, mm, fraction, e/Å² and Å² per e/Å²."""

    voltage_kv: float = 300.0
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.07
    dose_per_tilt: float = 3.0
    bfactor_per_dose: float = 4.0


@dataclass(frozen=True)
class ImodSettings:
    """What the files of a series do not state.

    Attributes
    ----------
    apix
        Pixel size of the stack and of `volume_px`, Å.
    shift_apix
        Pixel size of the shifts in the transforms, Å; None uses `apix`.
    microscope
        Constants.
    volume_px
        Size x, y, z of the tomogram.
    hand
        As in `TiltGeometry`.
    sign
        -1 if the angles have the opposite sign to IMOD's.
    """

    apix: float
    shift_apix: float | None = None
    microscope: Microscope = Microscope()
    volume_px: tuple[int, int, int] | None = None
    hand: int = -1
    sign: int = 1


def read_imod_series(name: str, files: ImodFiles, settings: ImodSettings, dose: np.ndarray | None = None) -> TiltSeries:
    """Read the files of one series.

    Parameters
    ----------
    name
        Name of the tomogram.
    files
        The files.
    settings
        What the files do not state.
    dose
        (T,) accumulated doses, e/Å²; None reads `files.order`.

    Raises
    ------
    UserError
        A file is missing or inconsistent with the others.
    """
    microscope = settings.microscope
    tilt = read_tlt(files.tlt)
    defoci = read_defoci(files.defocus, tilt)
    if dose is None:
        dose = np.zeros(len(tilt))
        if files.order is not None:
            dose = read_dose(files.order, tilt, microscope.dose_per_tilt)
    options = {} if files.com is None else read_com_options(files.com)
    rotations, shifts = _geometry(files, options, settings.sign * tilt, settings.shift_apix or settings.apix)
    return TiltSeries(
        name=name,
        source=files.tlt,
        geometry=TiltGeometry(rotations, shifts, settings.hand),
        optics=imod_optics(tilt, defoci, dose, microscope),
        used=np.ones(len(tilt), dtype=bool),
        images=() if files.stack is None else tuple(TiltImage(str(files.stack), i) for i in range(len(tilt))),
        apix=settings.apix,
        volume_px=settings.volume_px,
        notes=_notes(files, options),
    )


def imod_optics(tilt_deg: np.ndarray, defoci: TiltDefoci, dose: np.ndarray, microscope: Microscope) -> TiltOptics:
    """Return the CTF parameters of each tilt, with scale cos t and B factors proportional to the dose."""
    return TiltOptics(
        defocus_u_A=defoci.u_A,
        defocus_v_A=defoci.v_A,
        astigmatism_deg=defoci.angle_deg,
        phase_shift_deg=defoci.phase_shift_deg,
        bfactor_A2=microscope.bfactor_per_dose * dose,
        scale=np.cos(np.deg2rad(tilt_deg)),
        voltage_kv=microscope.voltage_kv,
        cs_mm=microscope.cs_mm,
        amplitude_contrast=microscope.amplitude_contrast,
    )


def _notes(files: ImodFiles, options: dict[str, str]) -> tuple[str, ...]:
    notes = []
    if any(float(word) != 0 for word in options.get("SHIFT", "").replace(",", " ").split()[:2] if is_number(word)):
        notes.append(f"{files.com}: SHIFT {options['SHIFT']} is ignored; coordinates must not include it")
    if "LOCALFILE" in options:
        notes.append(f"{files.com}: the local alignments of LOCALFILE are ignored")
    return tuple(notes)


def is_number(word: str) -> bool:
    """Return whether a word is a number."""
    try:
        float(word)
    except ValueError:
        return False
    return True


def _geometry(
    files: ImodFiles, options: dict[str, str], tilt: np.ndarray, apix: float
) -> tuple[np.ndarray, np.ndarray]:
    x_tilt, offset = _number(files.com, options, "XAXISTILT"), _number(files.com, options, "OFFSET")
    rotations = rotation_y(tilt + offset) @ rotation_x(np.asarray(x_tilt))
    if files.xf is None:
        return rotations, np.zeros((len(tilt), 2))
    matrices, moved = read_xf(files.xf)
    if len(matrices) != len(tilt):
        raise UserError(
            f"{files.xf}: there are {len(matrices)} transforms, but {files.tlt} has {len(tilt)} tilts. Give the files "
            "of one tilt series."
        )
    back = np.linalg.inv(matrices)
    # The magnification of the alignment is omitted, because slices must be rotations.
    back_turn = back / np.sqrt(np.abs(np.linalg.det(back)))[:, None, None]
    in_image = np.zeros((len(tilt), 3, 3))
    in_image[:, :2, :2], in_image[:, 2, 2] = back_turn, 1.0
    return in_image @ rotations, -np.einsum("tij,tj->ti", back, moved) * apix


def _number(path: Path | None, options: dict[str, str], name: str) -> float:
    text = options.get(name, "0").split()
    try:
        return float(text[0]) if text else 0.0
    except ValueError as error:
        raise UserError(f"{path}: {name} is {text[0]!r}, but it must be a number.") from error
