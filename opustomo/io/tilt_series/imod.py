"""Tilt series in text files of IMOD: .tlt, .xf, tilt.com, .order and a defocus file.

The tilt angles of IMOD are right-handed rotations about y: a point appears at `x cos t + z sin t` of the aligned image.
RELION 5 uses the same angles (rlnTomoYTilt).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from opustomo.errors import UserError
from opustomo.geometry.tilt_geometry import TiltGeometry, rotation_x, rotation_y
from opustomo.io.tilt_series.imod_files import TiltDefoci, read_com_options, read_defoci, read_dose, read_tlt, read_xf
from opustomo.io.tilt_series.series import TiltImage, TiltOptics, TiltSeries


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
        Doses, see :func:`opustomo.io.tilt_series.imod_files.read_dose`.
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
