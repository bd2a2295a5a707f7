"""CTF tables of single particles, and the script that lets RELION reconstruct their CTF volumes."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np

from opustomo.errors import UserError
from opustomo.io.atomic import atomic_path
from opustomo.io.ctf_tables import write_plain_loop
from opustomo.io.star_tables import ParticleStar
from opustomo.io.tilt_series.series import TiltOptics


def original_depth(positions_A: np.ndarray, tilt_deg: np.ndarray) -> np.ndarray:
    """Return depths `x sin t + z cos t` (N, T) in Å, as in OPUS-TOMO and in RELION's old preparation script.

    If the tilt is written as -t, this is not a rotation: slices are along (cos t, 0, sin t), and their normal is
    (-sin t, 0, cos t). See docs/handedness.md.
    """
    angle = np.deg2rad(tilt_deg)
    return positions_A[:, 0, None] * np.sin(angle) + positions_A[:, 2, None] * np.cos(angle)


def clipped_defoci(optics: TiltOptics, tilt_deg: np.ndarray, from_deg: float, sigmas: float) -> TiltOptics:
    """Limit defoci of tilts beyond ± `from_deg` to the mean ± `sigmas` standard deviations of the lower tilts.

    Estimates at high tilt are often wrong. u and v change by the same amount. With fewer than two lower tilts the
    defoci are unchanged.
    """
    low = np.abs(tilt_deg) <= from_deg
    if low.sum() < 2:
        return optics
    mean = 0.5 * (optics.defocus_u_A + optics.defocus_v_A)
    center, reach = mean[low].mean(), sigmas * mean[low].std()
    moved = np.where(low, 0.0, np.clip(mean, center - reach, center + reach) - mean)
    return replace(optics, defocus_u_A=optics.defocus_u_A + moved, defocus_v_A=optics.defocus_v_A + moved)


def write_ctf_table(
    path: str | os.PathLike[str], optics: TiltOptics, tilt_deg: np.ndarray, depth_A: np.ndarray
) -> None:
    """Write the CTF table of one particle.

    Parameters
    ----------
    path
        Output file.
    optics
        CTF parameters of the tilts of the particle at the center of the tomogram, with azimuths relative to the x axis
        of the slice.
    tilt_deg
        (T,) tilt angles.
    depth_A
        (T,) depths that are added to the defoci.
    """
    ones = np.ones(len(optics))
    columns = {
        "rlnDefocusU": optics.defocus_u_A + depth_A,
        "rlnDefocusV": optics.defocus_v_A + depth_A,
        "rlnDefocusAngle": optics.astigmatism_deg,
        "rlnVoltage": ones * optics.voltage_kv,
        "rlnSphericalAberration": ones * optics.cs_mm,
        "rlnAmplitudeContrast": ones * optics.amplitude_contrast,
        "rlnAngleRot": 0 * ones,
        "rlnAngleTilt": tilt_deg,
        "rlnAnglePsi": 0 * ones,
        "rlnCtfBfactor": optics.bfactor_A2,
        "rlnCtfScalefactor": optics.scale,
    }
    if np.any(optics.phase_shift_deg):
        columns["rlnPhaseShift"] = optics.phase_shift_deg
    write_plain_loop(path, "images", columns)


SCRIPT_NAME = "do_all_reconstruct_ctfs.sh"
"""Name of the script, as in RELION's own preparation script."""

_HEAD = f"""\
#!/bin/sh
# Usage: sh {SCRIPT_NAME} BOX
# RELION reconstructs the CTF volume of every subtomogram; BOX is the box of the subtomograms in pixels.
case "$1" in '' | *[!0-9]*) echo "usage: sh {SCRIPT_NAME} BOX (box of the subtomograms in pixels)" >&2; exit 2 ;; esac
cd "$(dirname "$0")" || exit 1
set -e
"""


def write_ctf_script(star: ParticleStar, folder: Path, apix: float | None) -> Path | None:
    """Write `do_all_reconstruct_ctfs.sh`, one call of `relion_reconstruct` per CTF table.

    Parameters
    ----------
    star
        Particle table whose `rlnCtfImage` refers to the CTF volumes, relative to the table. Each CTF table has the
        name of its volume with the suffix .star.
    folder
        Output folder of the script, which changes to this folder before it calls RELION.
    apix
        Pixel size of the subtomograms in Å if the table does not state it.

    Returns
    -------
    Path or None
        The script; None if the pixel size is unknown.

    Raises
    ------
    UserError
        A name contains a line break or a quotation mark.
    """
    stated = star.pixel_sizes()
    if stated is None and apix is None:
        return None
    sizes = [apix] * len(star) if stated is None else stated.tolist()
    home = star.path.parent if star.path is not None else Path()
    lines: dict[str, None] = {}
    for name, size in zip(star.strings("rlnCtfImage"), sizes, strict=True):
        if any(sign in name for sign in "\n\r'\""):
            raise UserError(f"{name!r}: RELION cannot read files with quotation marks in their names. Rename it.")
        volume = Path(os.path.relpath(home / name, folder))
        table = volume.with_suffix(".star")
        call = f"relion_reconstruct --i {shlex.quote(str(table))} --o {shlex.quote(str(volume))}"
        lines[f"{call} --reconstruct_ctf $1 --angpix {size:.6g}"] = None  # particles may share a table
    path = folder / SCRIPT_NAME
    with atomic_path(path) as temporary:
        temporary.write_text(_HEAD + "\n".join(lines) + "\n", encoding="utf-8")
    return path
