"""Tables of two-dimensional particle series with one row per particle and tilt image."""

from __future__ import annotations

import re

import numpy as np

from opustomo.errors import UserError
from opustomo.io.star import format_pixel_sizes
from opustomo.io.star_conventions import image_bfactors
from opustomo.io.star_tables import EULER_COLUMNS, ParticleStar
from opustomo.io.tilt_series.series import TiltOptics

GROUP_COLUMNS = ("rlnTomoParticleName", "rlnTomoParticleId", "rlnGroupName")


def check_kind(star: ParticleStar) -> None:
    """Raise an error if a table does not have one row per image.

    Raises
    ------
    UserError
        The table has one row per particle, or a column is missing.
    """
    if "rlnTomoVisibleFrames" in star or ("rlnTomoName" in star and EULER_COLUMNS[0] in star and not _indexed(star)):
        multiplied = star.value_per_particle("rlnCtfDataAreCtfPremultiplied")
        stacks = "" if multiplied is None or not multiplied.any() else ", and its images are multiplied by the CTF"
        raise UserError(
            f"{star.path}: the table has one row per particle, not one per image{stacks}; use dsd extract_subtomos on "
            "the tilt series instead."
        )
    for column in (*EULER_COLUMNS, "rlnDefocusU"):
        star.strings(column)  # raises an error if the column is missing


def _indexed(star: ParticleStar) -> bool:
    return "@" in star.strings("rlnImageName")[0]


def stack_sections(star: ParticleStar) -> tuple[np.ndarray, list[str]]:
    """Return the sections (from 0) and the stacks of all rows.

    Raises
    ------
    UserError
        A name does not have the form 000001@stack.mrcs.
    """
    sections, names = np.empty(len(star), dtype=np.int64), []
    for row, text in enumerate(star.strings("rlnImageName")):
        match = re.fullmatch(r"(\d+)@(.+)", text)
        if match is None or int(match[1]) < 1:
            raise UserError(
                f"{star.path}: rlnImageName of row {row + 1} is {text}, but the form 000001@stack.mrcs is expected."
            )
        sections[row] = int(match[1]) - 1
        names.append(match[2])
    return sections, names


def rows_by_particle(star: ParticleStar, names: list[str], column: str | None) -> dict[str, np.ndarray]:
    """Return the rows of each particle in the order of the table, by a column, else by name or stack."""
    if column is None:
        column = next((c for c in GROUP_COLUMNS if c in star and 1 < len(set(star.strings(c))) < len(star)), None)
    keys = names if column is None else star.strings(column)
    places: dict[str, int] = {}
    index = np.array([places.setdefault(key, len(places)) for key in keys])
    order = np.argsort(index, kind="stable")
    return dict(zip(places, np.split(order, np.searchsorted(index[order], np.arange(1, len(places)))), strict=True))


def image_pixel_size(star: ParticleStar, header_apix: float | None) -> float:
    """Return the pixel size of the images in Å from the table, else from the stacks.

    Raises
    ------
    UserError
        The pixel size is unknown, or images have different pixel sizes.
    """
    sizes = star.pixel_sizes()
    if sizes is not None and not np.allclose(sizes, sizes[0], rtol=1e-3):
        raise UserError(
            f"{star.path}: the images have pixel sizes of {format_pixel_sizes(sizes)}; split the table by pixel size "
            "and prepare one part at a time."
        )
    if sizes is None and header_apix is None:
        raise UserError(f"{star.path}: neither the table nor the stacks have the pixel size of the images; add it.")
    return float(sizes[0]) if sizes is not None else float(header_apix or 0)


def image_optics(star: ParticleStar) -> TiltOptics:
    """Return the CTF parameters of every image; voltage, Cs and amplitude contrast are the same for all.

    Raises
    ------
    UserError
        A column is missing, B factors have both signs, or images are from several microscopes.
    """
    u = star.numbers("rlnDefocusU")
    bfactors, _ = image_bfactors(star)
    return TiltOptics(
        defocus_u_A=u,
        defocus_v_A=star.numbers("rlnDefocusV") if "rlnDefocusV" in star else u,
        astigmatism_deg=_values(star, "rlnDefocusAngle", 0.0),
        phase_shift_deg=_values(star, "rlnPhaseShift", 0.0),
        bfactor_A2=bfactors,
        scale=_values(star, "rlnCtfScalefactor", 1.0),
        voltage_kv=_single_value(star, "rlnVoltage"),
        cs_mm=_single_value(star, "rlnSphericalAberration"),
        amplitude_contrast=_single_value(star, "rlnAmplitudeContrast"),
    )


def header_note(star: ParticleStar, used_A: float, header_apix: float | None) -> str | None:
    """Describe stacks whose headers contradict the pixel size of the table; a value of 1 Å is ignored."""
    if header_apix is None or abs(header_apix - 1.0) < 1e-3 or abs(header_apix / used_A - 1.0) <= 0.01:
        return None
    return (
        f"the headers of the stacks state {header_apix:.5g} Å per pixel, but {star.path} states {used_A:.5g} Å, which "
        "is used"
    )


def _single_value(star: ParticleStar, column: str) -> float:
    """Return the value of a column that is equal for all rows."""
    values = _values(star, column)
    other = np.flatnonzero(~np.isclose(values, values[0]))
    if other.size:
        raise UserError(
            f"{star.path}: {column} is {values[0]:g} in row 1 and {values[other[0]]:g} in row {other[0] + 1}; split "
            "the table by it and prepare one part at a time."
        )
    return float(values[0])


def _values(star: ParticleStar, column: str, default: float | None = None) -> np.ndarray:
    values = star.value_per_particle(column)
    if values is not None:
        return values
    if default is None:
        raise UserError(f"{star.path}: neither the particles nor the optics table have {column}; export it too.")
    return np.full(len(star), default)
