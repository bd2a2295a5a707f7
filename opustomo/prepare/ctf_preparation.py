"""CTF tables of the particles of tilt series, the particle table that refers to them, and a script for RELION."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from opustomo.errors import UserError
from opustomo.geometry.eulers import euler_matrices
from opustomo.geometry.tilt_geometry import slice_frame
from opustomo.io.atomic import atomic_path
from opustomo.io.ctf_tables import write_plain_loop
from opustomo.io.image_paths import folders_above
from opustomo.io.progress_bar import progress
from opustomo.io.star_conventions import with_columns
from opustomo.io.star_tables import ParticleStar
from opustomo.io.tilt_series.discovery import SeriesSource
from opustomo.io.tilt_series.series import TiltOptics, TiltSeries
from opustomo.prepare.particle_positions import (
    coordinate_note,
    from_corner,
    outside_note,
    positions_from_star,
    read_coords,
    rows_by_tomogram,
    visible_note,
    visible_tilts,
)
from opustomo.prepare.particle_tables import SUBTOMOGRAM_COLUMNS
from opustomo.prepare.worker_pool import run_jobs


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


MAGNIFICATION = 10000.0
"""Magnification of output tables, for which the detector pixel size in µm is the pixel size in Å."""

LARGEST_TURN_DEG = 5.0
"""Largest rotation of a subtomogram relative to its tomogram for which the tilts of the tomogram are used."""


@dataclass(frozen=True)
class CtfConfig:
    """Options of CTF tables.

    Attributes
    ----------
    folder
        Output folder of the tables.
    out_star
        Output particle table.
    coord_apix
        Pixel size of coordinates in pixels, Å; None uses that of the tilt series.
    original_sign
        If given, depths are computed by the formula of OPUS-TOMO with this sign times the written tilt, instead of the
        geometry of the series.
    clip_from_deg, clip_sigmas
        See :func:`opustomo.prepare.ctf_preparation.clipped_defoci`; None leaves defoci unchanged.
    image_name
        Pattern with {name} and {index} for the names of subtomograms, for particles in .coords files.
    magnification
        Magnification of the output table, which determines the detector pixel size.
    workers
        Number of processes.
    """

    folder: Path
    out_star: Path
    coord_apix: float | None = None
    original_sign: int | None = None
    clip_from_deg: float = 45.0
    clip_sigmas: float | None = None
    image_name: str = "{name}/{name}_{index:06d}.mrc"
    magnification: float = MAGNIFICATION
    workers: int = 1


@dataclass(frozen=True, eq=False)
class _Job:
    series: TiltSeries
    positions_A: np.ndarray
    visible: np.ndarray
    paths: list[Path]
    config: CtfConfig


def prepare_star(star: ParticleStar, source: SeriesSource, config: CtfConfig) -> tuple[int, tuple[str, ...]]:
    """Write CTF tables for the particles of a table, and the table with rlnCtfImage.

    Returns
    -------
    int
        Number of tomograms.
    tuple of str
        Notes on coordinates and tilts.

    Raises
    ------
    UserError
        A tilt series or column is missing.
    """
    _check_frames(star)
    rows = rows_by_tomogram(star)
    found = source.find(rows)
    tables = [""] * len(star)
    jobs = []
    for name, members in rows.items():
        series = found[name]
        paths = [Path(name) / f"{name}_{index:06d}_ctf.star" for index in range(1, len(members) + 1)]
        for row, path in zip(members, paths, strict=True):
            tables[row] = path.with_suffix(".mrc").as_posix()
        positions = positions_from_star(star, members, series, config.coord_apix)
        jobs.append(_Job(series, positions, visible_tilts(star, members, series), paths, config))
    _write_all(jobs, config)
    folder = os.path.relpath(config.folder, config.out_star.parent)
    columns = {"rlnCtfImage": [str(Path(folder) / name) for name in tables]}
    if "rlnImageName" in star:
        columns["rlnImageName"] = relocated_names(star, config.out_star.parent)
    with_columns(star, columns).write(config.out_star)
    notes = (
        coordinate_note(star, jobs[0].series.apix, config.coord_apix),
        outside_note([job.positions_A for job in jobs], [job.series for job in jobs], star.path),
        visible_note([job.visible for job in jobs], star),
        *series_notes(job.series for job in jobs),
    )
    return len(jobs), tuple(note for note in notes if note is not None)


def series_notes(series: Iterable[TiltSeries]) -> tuple[str, ...]:
    """Return the notes of tilt series without duplicates."""
    return tuple(dict.fromkeys(note for one in series for note in one.notes))


def _check_frames(star: ParticleStar) -> None:
    """Raise an error for subtomograms that are rotated relative to their tomograms, for which no table can be made."""
    if not all(column in star for column in SUBTOMOGRAM_COLUMNS):
        return
    eulers = np.stack([star.numbers(column) for column in SUBTOMOGRAM_COLUMNS], axis=1)
    trace = np.trace(euler_matrices(eulers), axis1=1, axis2=2)
    turned = np.rad2deg(np.arccos(np.clip((trace - 1) / 2, -1, 1)))
    if turned.max() > LARGEST_TURN_DEG:
        row = int(turned.argmax())
        raise UserError(
            f"{star.path}: the subtomogram of row {row + 1} is rotated by {turned[row]:.0f}° relative to its tomogram "
            "(rlnTomoSubtomogramRot, Tilt, Psi). Make subtomograms without rotation with dsd extract_subtomos."
        )


def prepare_coords(files: Sequence[Path], source: SeriesSource, config: CtfConfig) -> tuple[int, tuple[str, ...]]:
    """Write CTF tables and a particle table for .coords files, which are beside the files of their tilt series.

    Returns
    -------
    int
        Number of particles.
    tuple of str
        Notes on the tilt series.

    Raises
    ------
    UserError
        A file is missing or damaged, or two files have the same name.
    """
    stems = [path.stem for path in files]
    twice = next((stem for stem in stems if stems.count(stem) > 1), None)
    if twice is not None:
        raise UserError(f"{twice}.coords is given twice. Give the tomograms of one set different names.")
    jobs: list[_Job] = []
    columns: dict[str, list[str]] = {}
    for path in files:
        name = path.stem
        series = source.from_text(source.text or path.parent, name)
        pixels = read_coords(path)
        tables = [Path(name) / f"{name}_{index:06d}_ctf.star" for index in range(1, len(pixels) + 1)]
        visible = np.broadcast_to(series.used, (len(pixels), len(series)))
        jobs.append(_Job(series, from_corner(pixels, series, config.coord_apix), visible, tables, config))
        _append_rows(columns, series, pixels, tables, config)
    _write_all(jobs, config)
    make_particle_table(columns).write(config.out_star)
    return sum(len(job.paths) for job in jobs), series_notes(job.series for job in jobs)


def make_particle_table(columns: dict[str, list[str]]) -> ParticleStar:
    """Return a particle table with the given columns."""
    import pandas as pd

    return ParticleStar(None, {"": pd.DataFrame(columns, dtype=object)}, "")


def _append_rows(
    columns: dict[str, list[str]], series: TiltSeries, pixels: np.ndarray, tables: list[Path], config: CtfConfig
) -> None:
    folder = Path(os.path.relpath(config.folder, config.out_star.parent))
    count, apix = len(pixels), series.apix or 0.0
    images = [config.image_name.format(name=series.name, index=index) for index in range(1, count + 1)]
    rows = {
        "rlnMicrographName": [f"{series.name}.mrc"] * count,
        **{f"rlnCoordinate{axis}": [f"{value:.3f}" for value in pixels[:, i]] for i, axis in enumerate("XYZ")},
        "rlnImageName": [(folder / name).as_posix() for name in images],
        "rlnCtfImage": [(folder / path).with_suffix(".mrc").as_posix() for path in tables],
        "rlnMagnification": [f"{config.magnification:.6g}"] * count,
        "rlnDetectorPixelSize": [f"{apix * config.magnification * 1e-4:.6f}"] * count,
        # RELION 3.1 and later ignore origins in pixels without voltage and spherical aberration.
        "rlnVoltage": [f"{series.optics.voltage_kv:.6f}"] * count,
        "rlnSphericalAberration": [f"{series.optics.cs_mm:.6f}"] * count,
        "rlnAmplitudeContrast": [f"{series.optics.amplitude_contrast:.6f}"] * count,
    }
    for column, values in rows.items():
        columns.setdefault(column, []).extend(values)


def relocated_names(star: ParticleStar, folder: Path) -> list[str]:
    """Return rlnImageName relative to another folder; names of files that do not exist are unchanged."""
    names = star.strings("rlnImageName")
    if star.path is None or star.path.parent.resolve() == folder.resolve():
        return names
    home = star.path.parent
    places: dict[str, str] = {}
    moved = []
    for name in names:
        parent, _, base = name.rpartition("/")
        if parent not in places:
            roots = () if Path(name).is_absolute() else (home, *folders_above(home))
            root = next((root for root in roots if (root / name).is_file()), None)
            places[parent] = parent if root is None else os.path.relpath(root / parent, folder)
        moved.append(f"{places[parent]}/{base}" if places[parent] else base)
    return moved


def _write_all(jobs: Sequence[_Job], config: CtfConfig) -> None:
    total = sum(len(job.paths) for job in jobs)
    with progress(total, "CTF tables") as advance:
        for _, count in run_jobs(_write_tables, jobs, config.workers):
            advance(count)


def _write_tables(job: _Job) -> int:
    """Write the tables of one tomogram and return their number."""
    series, config = job.series, job.config
    geometry = series.geometry
    frame = slice_frame(geometry.orientations(np.zeros((1, 3)))[0], turn=False)
    optics = series.optics
    if config.clip_sigmas is not None:
        optics = clipped_defoci(optics, frame.tilt_deg, config.clip_from_deg, config.clip_sigmas)
    optics = replace(optics, astigmatism_deg=optics.astigmatism_deg - frame.image_angle_deg)
    if config.original_sign is not None:
        depth = original_depth(job.positions_A, config.original_sign * frame.tilt_deg)
    else:
        _, depth = geometry.project(job.positions_A)
    for path, deep, visible in zip(job.paths, depth, job.visible, strict=True):
        tilts = np.flatnonzero(visible)
        write_ctf_table(config.folder / path, optics.take(tilts), frame.tilt_deg[tilts], deep[tilts])
    return len(job.paths)
