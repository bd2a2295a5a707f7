"""Extraction of subtomograms: reconstruction from tilt images, with CTF tables, for all particles of a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from opustomo.errors import UserError
from opustomo.geometry.tilt_geometry import SliceFrame, slice_frame
from opustomo.io.mrc import write_volume
from opustomo.io.progress_bar import progress
from opustomo.io.star_conventions import CENTERED_COORDINATES, COORDINATES, with_columns
from opustomo.io.star_poses import doubtful_notes
from opustomo.io.star_tables import ParticleStar
from opustomo.io.tilt_series.discovery import SeriesSource
from opustomo.io.tilt_series.series import TiltSeries
from opustomo.physics.slice_insertion import SliceInserter
from opustomo.prepare.ctf_preparation import write_ctf_table
from opustomo.prepare.particle_positions import (
    candidates_in_series_pixels,
    coordinate_note,
    coordinate_pixel_size,
    in_series_pixels,
    positions_from_star,
    rows_by_tomogram,
    visible_note,
    visible_tilts,
)
from opustomo.prepare.particle_tables import TomogramPoses, tomogram_poses, with_subtomograms
from opustomo.prepare.tilt_images import SliceGrid, TiltImages, cut_slices, find_images
from opustomo.prepare.worker_pool import run_jobs

CHUNK_BYTES = 128_000_000
"""Maximum memory of the slices of one process."""


@dataclass(frozen=True)
class ReconstructionConfig:
    """Options of the reconstruction of subtomograms.

    Attributes
    ----------
    box, apix
        Side in voxels and pixel size in Å.
    normalize
        Whether subtomograms are divided by the sampling weights (weighted back-projection).
    invert
        Whether the contrast of tilt images, in which particles are dark, is inverted.
    keep_scale
        Whether tilt images are used without division by their standard deviations.
    float16
        Whether subtomograms are written in half precision.
    one_thread
        Whether each process uses only one thread.
    """

    box: int
    apix: float
    normalize: bool = True
    invert: bool = True
    keep_scale: bool = False
    float16: bool = False
    one_thread: bool = False


@dataclass(frozen=True, eq=False)
class SubtomogramJob:
    """Particles of one tilt series to be reconstructed.

    Attributes
    ----------
    series, images, frame
        The series, its images, and its tilts as slices.
    positions_A
        (N, 3) positions relative to the center of the tomogram.
    visible
        (N, T) whether each particle is visible in each tilt.
    volumes, tables
        Output files.
    config
        Options.
    """

    series: TiltSeries
    images: TiltImages
    frame: SliceFrame
    positions_A: np.ndarray
    visible: np.ndarray
    volumes: Sequence[Path]
    tables: Sequence[Path]
    config: ReconstructionConfig


def particles_at_once(tilts: int, box: int) -> int:
    """Return the number of particles whose slices fit in `CHUNK_BYTES`."""
    return max(1, CHUNK_BYTES // (8 * tilts * box * (box // 2 + 1)))


def project_particles(
    series: TiltSeries, images: TiltImages, positions_A: np.ndarray, visible: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute the positions of particles in the images of a series.

    Parameters
    ----------
    series, images
        Series with T tilts, and its I images.
    positions_A
        (N, 3) positions relative to the center of the tomogram.
    visible
        (N, T) whether each particle is visible in each tilt.

    Returns
    -------
    centers
        (N, I, 2) x, y in pixels of the images.
    seen
        (N, I) whether the image contains this point and the particle is visible in the tilt.
    depth_A
        (N, T) contribution of the depth of the particle to the defocus.
    """
    image_A, depth_A = series.geometry.project(positions_A)
    centers = image_A[:, images.tilts] / images.apix + np.array(images.size) / 2
    inside = (centers >= 0) & (centers <= np.array(images.size) - 1)
    return centers, np.asarray(inside.all(axis=2)) & visible[:, images.tilts], depth_A


def write_subtomograms(job: SubtomogramJob) -> int:
    """Reconstruct and write subtomograms and their CTF tables.

    A tilt in which the particle is not visible, or whose image does not contain its center, is left out of both.

    Returns
    -------
    int
        Number of particles.
    """
    if job.config.one_thread:
        torch.set_num_threads(1)
    centers, seen, depth_A = project_particles(job.series, job.images, job.positions_A, job.visible)
    slices = _slices(job, centers, seen)
    # Particles with the same tilts share the insertion matrix.
    patterns, which = np.unique(seen, axis=0, return_inverse=True)
    for pattern, tilts in enumerate(patterns):
        rows = np.flatnonzero(which.ravel() == pattern)
        kept = np.flatnonzero(tilts)
        inserter = SliceInserter(
            job.frame.tilt_deg[job.images.tilts[kept]], job.config.box, normalize=job.config.normalize
        )
        for row in rows.tolist():
            volume = inserter.insert(torch.from_numpy(slices[row, kept])[None])[0].numpy()
            dtype = np.float16 if job.config.float16 else np.float32
            write_volume(job.volumes[row], volume.astype(dtype), job.config.apix)
            _write_table(job, row, job.images.tilts[kept], depth_A[row])
    return len(job.volumes)


def _slices(job: SubtomogramJob, centers: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return slices (N, T, box, box//2 + 1), computed tilt by tilt to open each image once; 0 if not seen."""
    config = job.config
    grid = SliceGrid(config.box, config.apix, config.keep_scale)
    slices = np.zeros((*seen.shape, config.box, config.box // 2 + 1), dtype=np.complex64)
    for entry, tilt in enumerate(job.images.tilts):
        rows = np.flatnonzero(seen[:, entry])
        if rows.size:
            cut = cut_slices(
                job.images.open(entry), job.images.apix, centers[rows, entry], job.frame.in_plane[tilt], grid
            )
            slices[rows, entry] = -cut if config.invert else cut
    return slices


def _write_table(job: SubtomogramJob, row: int, tilts: np.ndarray, depth_A: np.ndarray) -> None:
    optics = job.series.optics.take(tilts)
    optics = replace(optics, astigmatism_deg=optics.astigmatism_deg - job.frame.image_angle_deg[tilts])
    write_ctf_table(job.tables[row], optics, job.frame.tilt_deg[tilts], depth_A[tilts])


APIX_SLACK = 1e-3
SMALL_TURN_DEG = 0.01
PROJECTED_AT_ONCE = 10_000


@dataclass(frozen=True)
class ExtractionConfig:
    """Options of an extraction.

    Attributes
    ----------
    folder
        Output folder of subtomograms, tables and particles.star.
    reconstruction
        Options of the reconstruction.
    images
        Folder of the tilt images; None uses the paths in the metadata.
    image_apix
        Pixel size of the tilt images, Å.
    coord_apix
        Pixel size of coordinates in pixels, Å; None uses that of the tilt series.
    recenter
        Whether origins are added to the coordinates.
    turn
        Whether frames are rotated so that tilt axes are y.
    workers
        Number of processes.
    """

    folder: Path
    reconstruction: ReconstructionConfig
    images: Path | None = None
    image_apix: float | None = None
    coord_apix: float | None = None
    recenter: bool = False
    turn: bool = True
    workers: int = 1


@dataclass(frozen=True)
class ExtractionReport:
    """Result of an extraction: numbers of particles and tomograms, particle table, and notes for the user."""

    particles: int
    tomograms: int
    star: Path
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Tomogram:
    """Particles and tilt series of one tomogram."""

    name: str
    rows: np.ndarray
    series: TiltSeries
    images: TiltImages
    frame: SliceFrame
    positions_A: np.ndarray
    visible: np.ndarray


def extract_subtomograms(star: ParticleStar, source: SeriesSource, config: ExtractionConfig) -> ExtractionReport:
    """Reconstruct the subtomograms of all particles, and write their CTF tables and the particle table.

    All inputs are checked before the first subtomogram is reconstructed.

    Raises
    ------
    UserError
        A series, image or column is missing, sizes are inconsistent, or a particle is in no image.
    """
    rows = rows_by_tomogram(star)
    found = source.find(rows)
    converted = None
    if config.coord_apix is None:
        star, converted = candidates_in_series_pixels(star, rows, found)
    first = next(iter(found.values()))
    poses = tomogram_poses(star, config.coord_apix or first.apix)
    tomograms = [_tomogram(name, members, found[name], star, poses, config) for name, members in rows.items()]
    names, frames = [""] * len(star), np.empty((len(star), 3, 3))
    for tomogram in tomograms:
        frames[tomogram.rows] = tomogram.frame.frame
        for index, row in enumerate(tomogram.rows.tolist(), 1):
            names[row] = f"{tomogram.name}/{tomogram.name}_{index:06d}"
    config.folder.mkdir(parents=True, exist_ok=True)
    jobs = list(_jobs(tomograms, names, config))
    with progress(len(star), "subtomograms") as advance:
        for _, count in run_jobs(write_subtomograms, jobs, config.workers):
            advance(count)
    table = _recentered(star, poses, tomograms, config) if config.recenter else star
    if config.recenter:
        poses = replace(poses, origins_A=np.zeros_like(poses.origins_A))
    columns = {
        "rlnImageName": [f"{name}.mrc" for name in names],
        "rlnCtfImage": [f"{name}_ctf.mrc" for name in names],
    }
    size = config.reconstruction
    path = config.folder / "particles.star"
    table = in_series_pixels(table, config.coord_apix)
    with_subtomograms(table, poses.in_frames(frames), frames, box=size.box, apix=size.apix, columns=columns).write(path)
    remarks = (
        converted,
        coordinate_note(star, first.apix, config.coord_apix),
        visible_note([tomogram.visible for tomogram in tomograms], star),
    )
    notes = (*doubtful_notes(star), *_notes(tomograms), *(note for note in remarks if note is not None))
    return ExtractionReport(len(star), len(tomograms), path, notes)


def _tomogram(
    name: str,
    rows: np.ndarray,
    series: TiltSeries,
    star: ParticleStar,
    poses: TomogramPoses,
    config: ExtractionConfig,
) -> _Tomogram:
    images = find_images(series, config.images, config.image_apix)
    wanted = config.reconstruction.apix
    if wanted < images.apix * (1 - APIX_SLACK):
        raise UserError(
            f"--apix {wanted:g} is smaller than the pixel size {images.apix:.4g} Å of the tilt images of {name} "
            f"({images.headers[0].path}). Give this value or a larger one."
        )
    rotations = series.geometry.orientations(np.zeros((1, 3)))[0]
    frame = slice_frame(rotations, turn=config.turn and poses.matrices is not None)
    positions = positions_from_star(star, rows, series, config.coord_apix)
    if config.recenter:
        positions = positions - poses.origins_A[rows]
    tomogram = _Tomogram(name, rows, series, images, frame, positions, visible_tilts(star, rows, series))
    _require_seen(star, tomogram)
    return tomogram


def _require_seen(star: ParticleStar, tomogram: _Tomogram) -> None:
    """Raise an error for a particle that is in no image, before the reconstruction begins."""
    series, positions, visible = tomogram.series, tomogram.positions_A, tomogram.visible
    for start in range(0, len(positions), PROJECTED_AT_ONCE):
        part = slice(start, start + PROJECTED_AT_ONCE)
        _, seen, _ = project_particles(series, tomogram.images, positions[part], visible[part])
        lost = np.flatnonzero(~seen.any(axis=1))
        if lost.size:
            row = start + int(lost[0])
            place = ", ".join(f"{value:.0f}" for value in positions[row])
            raise UserError(
                f"{star.path}: the particle of row {tomogram.rows[row] + 1}, at {place} Å from the center of "
                f"{series.name}, is in no tilt image. Check the pixel sizes of coordinates and series "
                "(--coord-apix, --series-apix)."
            )


def _jobs(tomograms: list[_Tomogram], names: list[str], config: ExtractionConfig) -> Iterator[SubtomogramJob]:
    """Yield parts of tomograms, which limits the memory and the time between updates of the progress bar."""
    reconstruction = replace(config.reconstruction, one_thread=config.workers > 1)
    for tomogram in tomograms:
        step = min(particles_at_once(len(tomogram.images.tilts), reconstruction.box), 100)
        for start in range(0, len(tomogram.rows), step):
            part = slice(start, start + step)
            stems = [config.folder / names[row] for row in tomogram.rows[part].tolist()]
            yield SubtomogramJob(
                tomogram.series,
                tomogram.images,
                tomogram.frame,
                tomogram.positions_A[part],
                tomogram.visible[part],
                [stem.with_name(f"{stem.name}.mrc") for stem in stems],
                [stem.with_name(f"{stem.name}_ctf.star") for stem in stems],
                reconstruction,
            )


def _recentered(
    star: ParticleStar, poses: TomogramPoses, tomograms: list[_Tomogram], config: ExtractionConfig
) -> ParticleStar:
    """Return the table with origins added to the coordinates."""
    centered = all(column in star for column in CENTERED_COORDINATES)
    columns = CENTERED_COORDINATES if centered else COORDINATES
    unit = np.ones(len(star))
    if not centered:
        for tomogram in tomograms:
            pixel = coordinate_pixel_size(star, tomogram.rows, config.coord_apix)
            unit[tomogram.rows] = np.ravel((tomogram.series.apix or 1.0) if pixel is None else pixel)
    values = {}
    for axis, column in enumerate(columns):
        moved = star.numbers(column) - poses.origins_A[:, axis] / unit
        values[column] = [f"{value:.6f}" for value in moved]
    return with_columns(star, values)


def _notes(tomograms: list[_Tomogram]) -> tuple[str, ...]:
    notes = list(dict.fromkeys(note for tomogram in tomograms for note in tomogram.series.notes))
    turned = max(tomogram.frame.turn_deg for tomogram in tomograms)
    if turned > SMALL_TURN_DEG:
        notes.append(
            f"frames were rotated by up to {turned:.2f}° so that tilt axes are y; angles and origins were rotated too, "
            "and rlnTomoSubtomogramRot, Tilt, Psi lead back to the tomogram"
        )
    residual = max(tomogram.frame.residual_deg for tomogram in tomograms)
    if residual > 1.0:
        notes.append(f"tilt axes differ by up to {residual:.1f}° from y, which a table of tilt angles cannot describe")
    return tuple(notes)
