"""Tilt series of SerialEM (.mdoc files).

TiltAngle is the angle of the stage and has the sign of IMOD's .tlt files. A title line states the tilt axis as an
azimuth, counter-clockwise from the y axis of the image. PriorRecordDose is the dose before an exposure and ExposureDose
that of the exposure itself, in e/Å².
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import numpy as np

from opustomo.errors import UserError
from opustomo.io.tilt_series.series import TextTilts, check_angles, finite_number

_MONTHS = {name: place for place, name in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)}
_AXIS = re.compile(r"tilt\s*axis\s*angle\s*=\s*([-+]?\d+\.?\d*)", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Mdoc:
    """Content of an .mdoc file as text.

    Attributes
    ----------
    header
        Entries above the first section.
    titles
        Lines `[T = …]`.
    sections
        Entries of each `[ZValue = …]`, including ZValue.
    """

    header: dict[str, str]
    titles: tuple[str, ...]
    sections: tuple[dict[str, str], ...]


def read_mdoc(path: str | os.PathLike[str]) -> Mdoc:
    """Read an .mdoc file.

    Raises
    ------
    UserError
        The file is missing or has no sections of a tilt series.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Give SerialEM's .mdoc file.") from error
    header: dict[str, str] = {}
    titles: list[str] = []
    sections: list[dict[str, str]] = []
    for line in lines:
        text = line.strip()
        if text.startswith("[") and text.endswith("]"):
            name, _, value = (part.strip() for part in text[1:-1].partition("="))
            if name == "T":
                titles.append(value)
            elif name == "ZValue":
                sections.append({"ZValue": value})
            else:
                raise UserError(
                    f"{path}: the section [{name} = …] belongs to a montage or a single frame. Give the .mdoc file of "
                    "a tilt series."
                )
        elif "=" in text:
            name, _, value = (part.strip() for part in text.partition("="))
            (sections[-1] if sections else header)[name] = value
    if not sections:
        raise UserError(f"{path}: there is no section [ZValue = …]. Give the .mdoc file of a tilt series.")
    return Mdoc(header, tuple(titles), tuple(sections))


def read_mdoc_tilts(path: str | os.PathLike[str], dose_per_tilt: float) -> TextTilts:
    """Read the tilts of an .mdoc file in the order of the file; the file has no alignment.

    Doses include the exposure itself. They are PriorRecordDose + ExposureDose, or, without PriorRecordDose, the sum
    over exposures up to this one in the order of DateTime. If no dose was recorded, an exposure adds `dose_per_tilt`.

    Raises
    ------
    UserError
        As in `read_mdoc`, a value is missing or not a number, a section occurs twice, or an angle is invalid.
    """
    path = Path(path)
    found = read_mdoc(path)
    tilt = _column(path, found, "TiltAngle")
    check_angles(path, tilt)
    written = _column(path, found, "ZValue")
    if (written < 0).any() or (written != np.floor(written)).any() or written.max() > 1e6:
        raise UserError(f"{path}: ZValue is {written.min():g}, but it must be an integer from 0. Correct it.")
    sections = written.astype(np.int64)
    if len(np.unique(sections)) < len(sections):
        twice = np.unique(sections)[np.unique(sections, return_counts=True)[1].argmax()]
        raise UserError(f"{path}: there are two sections [ZValue = {twice}]. Remove one of them.")
    dose, notes = _doses(path, found, dose_per_tilt)
    spacing = found.sections[0].get("PixelSpacing", found.header.get("PixelSpacing"))
    apix = None if spacing is None else finite_number(path, "PixelSpacing", spacing)
    names = [section.get("SubFramePath", "") for section in found.sections]
    return TextTilts(
        source=path,
        tilt_deg=tilt,
        axis_deg=np.full(len(tilt), _axis(found)),
        sections=sections,
        dose=dose,
        images=tuple(PureWindowsPath(name).name for name in names) if all(names) else (),
        apix=apix if apix is not None and apix > 0 else None,
        notes=notes,
    )


def exposure_order(path: Path, found: Mdoc) -> tuple[np.ndarray, str | None]:
    """Return the index of each section in the order of exposure, from 0, by DateTime, else in the order of the file.

    The second value is a note if DateTime is missing.
    """
    times = [_time(section.get("DateTime", "")) for section in found.sections]
    known = [time for time in times if time is not None]
    if len(known) < len(times):
        return np.arange(len(times)), f"{path}: DateTime is missing; sections are assumed to be in order of exposure"
    order = sorted(range(len(known)), key=lambda index: known[index])
    place = np.empty(len(known), dtype=np.int64)
    place[order] = np.arange(len(known))
    return place, None


def _doses(path: Path, found: Mdoc, dose_per_tilt: float) -> tuple[np.ndarray, tuple[str, ...]]:
    sections = found.sections
    exposure = np.zeros(len(sections))
    if all("ExposureDose" in section for section in sections):
        exposure = _column(path, found, "ExposureDose")
    if (exposure < 0).any():
        raise UserError(f"{path}: an ExposureDose is {exposure.min():g}. Correct it.")
    if exposure.all() and all("PriorRecordDose" in section for section in sections):
        return _column(path, found, "PriorRecordDose") + exposure, ()
    place, note = exposure_order(path, found)
    notes = [] if note is None else [note]
    if not exposure.all():
        exposure = np.full(len(sections), dose_per_tilt)
        notes.append(f"{path}: no dose was recorded; each exposure adds {dose_per_tilt:g} e/Å² (--dose)")
    summed = np.cumsum(exposure[np.argsort(place)])
    return summed[place], tuple(notes)


def _axis(found: Mdoc) -> float:
    """Return the azimuth of the tilt axis in degrees; 0 if the file does not state it."""
    texts = [*found.titles, *(f"{name} = {value}" for name, value in found.header.items())]
    for text in texts:
        match = _AXIS.search(text)
        if match is not None:
            return float(match[1])
    return 0.0


def _time(text: str) -> tuple[int, ...] | None:
    """Return year, month, day, hour, minute and second of `06-Jun-23  23:19:46`; None for other text."""
    match = re.match(r"(\d{1,2})-([A-Za-z]{3})-(\d{2,4})\s+(\d{1,2}):(\d{2}):(\d{2})", text)
    if match is None or match[2].lower() not in _MONTHS:
        return None
    year = int(match[3]) + (2000 if len(match[3]) == 2 else 0)
    return (year, _MONTHS[match[2].lower()], int(match[1]), int(match[4]), int(match[5]), int(match[6]))


def _column(path: Path, found: Mdoc, name: str) -> np.ndarray:
    values = []
    for section in found.sections:
        if name not in section:
            raise UserError(f"{path}: the section [ZValue = {section['ZValue']}] has no {name}. Export the file again.")
        values.append(finite_number(path, f"{name} of [ZValue = {section['ZValue']}]", section[name]))
    return np.array(values)
