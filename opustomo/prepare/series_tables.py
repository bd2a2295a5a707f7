"""Tables of two-dimensional particle series: one row per particle and tilt image."""

from __future__ import annotations

import re

import numpy as np

from opustomo.errors import UserError
from opustomo.io.bfactors import image_bfactors
from opustomo.io.star import listed_sizes
from opustomo.io.star_tables import EULER_COLUMNS, ParticleStar
from opustomo.io.tilt_series.series import TiltOptics

GROUP_COLUMNS = ("rlnTomoParticleName", "rlnTomoParticleId", "rlnGroupName")


def check_kind(star: ParticleStar) -> None:
    """See that a table has one row per image.

    Raises
    ------
    UserError
        It has one per particle, or a column is missing.
    """
    if "rlnTomoVisibleFrames" in star or ("rlnTomoName" in star and EULER_COLUMNS[0] in star and not _indexed(star)):
        multiplied = star.value_per_particle("rlnCtfDataAreCtfPremultiplied")
        stacks = "" if multiplied is None or not multiplied.any() else ", and its images are multiplied by the CTF"
        raise UserError(
            f"{star.path}: has one row per particle, not one per image{stacks}; use dsd extract_subtomos on the tilt "
            "series instead."
        )
    for column in (*EULER_COLUMNS, "rlnDefocusU"):
        star.strings(column)  # says what is missing


def _indexed(star: ParticleStar) -> bool:
    return "@" in star.strings("rlnImageName")[0]


def stack_sections(star: ParticleStar) -> tuple[np.ndarray, list[str]]:
    """Sections (from 0) and stacks of all rows.

    Raises
    ------
    UserError
        A name is not like 000001@stack.mrcs.
    """
    sections, names = np.empty(len(star), dtype=np.int64), []
    for row, text in enumerate(star.strings("rlnImageName")):
        match = re.fullmatch(r"(\d+)@(.+)", text)
        if match is None or int(match[1]) < 1:
            raise UserError(f"{star.path}: rlnImageName of row {row + 1} is {text}, expected 000001@stack.mrcs.")
        sections[row] = int(match[1]) - 1
        names.append(match[2])
    return sections, names


def rows_by_particle(star: ParticleStar, names: list[str], column: str | None) -> dict[str, np.ndarray]:
    """Rows of each particle, in the order of the table: by a column, else by its name or its stack."""
    if column is None:
        column = next((c for c in GROUP_COLUMNS if c in star and 1 < len(set(star.strings(c))) < len(star)), None)
    keys = names if column is None else star.strings(column)
    places: dict[str, int] = {}
    index = np.array([places.setdefault(key, len(places)) for key in keys])
    order = np.argsort(index, kind="stable")
    return dict(zip(places, np.split(order, np.searchsorted(index[order], np.arange(1, len(places)))), strict=True))


def image_pixel_size(star: ParticleStar, header_apix: float | None) -> float:
    """Pixel size of the images: the table's, else the stacks'.

    Raises
    ------
    UserError
        Nothing tells it, or images have several.
    """
    sizes = star.pixel_sizes()
    if sizes is not None and not np.allclose(sizes, sizes[0], rtol=1e-3):
        raise UserError(
            f"{star.path}: its images have pixel sizes of {listed_sizes(sizes)}; split the table by pixel size and "
            "prepare one part at a time."
        )
    if sizes is None and header_apix is None:
        raise UserError(f"{star.path}: neither it nor the stacks tell the pixel size of the images; add it.")
    return float(sizes[0]) if sizes is not None else float(header_apix or 0)


def image_optics(star: ParticleStar) -> TiltOptics:
    """Return the CTF of every image; voltage, Cs and amplitude contrast are the same for all.

    Raises
    ------
    UserError
        A column is missing, B factors have both signs, or images of several microscopes are mixed.
    """
    u = star.numbers("rlnDefocusU")
    bfactors, _ = image_bfactors(star)
    return TiltOptics(
        defocus_u_A=u,
        defocus_v_A=star.numbers("rlnDefocusV") if "rlnDefocusV" in star else u,
        astigmatism_deg=_told(star, "rlnDefocusAngle", 0.0),
        phase_shift_deg=_told(star, "rlnPhaseShift", 0.0),
        bfactor_A2=bfactors,
        scale=_told(star, "rlnCtfScalefactor", 1.0),
        voltage_kv=_told_once(star, "rlnVoltage"),
        cs_mm=_told_once(star, "rlnSphericalAberration"),
        amplitude_contrast=_told_once(star, "rlnAmplitudeContrast"),
    )


def header_note(star: ParticleStar, used_A: float, header_apix: float | None) -> str | None:
    """Describe stacks whose headers contradict the pixel size of the table; a header of 1 Å tells nothing."""
    if header_apix is None or abs(header_apix - 1.0) < 1e-3 or abs(header_apix / used_A - 1.0) <= 0.01:
        return None
    return (
        f"the headers of the stacks say {header_apix:.5g} Å per pixel, but {star.path} says {used_A:.5g} Å, and that "
        "is used"
    )


def _told_once(star: ParticleStar, column: str) -> float:
    """Return the one value of a column."""
    values = _told(star, column)
    other = np.flatnonzero(~np.isclose(values, values[0]))
    if other.size:
        raise UserError(
            f"{star.path}: {column} is {values[0]:g} in row 1 and {values[other[0]]:g} in row {other[0] + 1}; split "
            "the table by it and prepare one part at a time."
        )
    return float(values[0])


def _told(star: ParticleStar, column: str, default: float | None = None) -> np.ndarray:
    values = star.value_per_particle(column)
    if values is not None:
        return values
    if default is None:
        raise UserError(f"{star.path}: neither particles nor optics table have {column}; export them with it.")
    return np.full(len(star), default)
