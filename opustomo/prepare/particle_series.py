"""Subtomograms from two-dimensional particle series, with one image per particle and tilt, as exported by M.

Every row of such a table has the orientation of its image relative to the reference, `x_image = A x_reference`. The
slices of one particle have a common tilt axis. The frame of the subtomogram is the one in which this axis is y and the
middle tilt is 0, and the angles of the particle lead from the reference to this frame.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from opustomo.errors import UserError
from opustomo.geometry.eulers import euler_matrices
from opustomo.geometry.tilt_geometry import SliceFrame, fit_axis_robustly, rotation_y, slice_frame
from opustomo.io.image_paths import find_images
from opustomo.io.mrc import read_header, write_volume
from opustomo.io.progress_bar import progress
from opustomo.io.star_conventions import describe_bfactors, with_columns
from opustomo.io.star_poses import doubtful_notes
from opustomo.io.star_tables import ORIGIN_ANGST_COLUMNS, ORIGIN_COLUMNS, ParticleStar
from opustomo.io.tilt_series.series import TiltOptics
from opustomo.physics.slice_insertion import SliceInserter
from opustomo.prepare.ctf_preparation import write_ctf_table
from opustomo.prepare.particle_tables import (
    TomogramPoses,
    check_kind,
    header_note,
    image_optics,
    image_pixel_size,
    rows_by_particle,
    stack_sections,
    with_subtomograms,
)
from opustomo.prepare.tilt_images import SliceGrid, cut_slices
from opustomo.prepare.worker_pool import run_jobs

AXIS_TOLERANCE_DEG = 5.0
"""Default of the largest angle between the normal of an image and the plane across the tilt axis of its particle."""
PARTICLES_PER_JOB = 50


@dataclass(frozen=True)
class SeriesConfig:
    """Options of subtomograms from particle series.

    Attributes
    ----------
    folder
        Output folder.
    apix
        Pixel size, Å; None uses that of the images.
    box
        Side in voxels; None uses that of the images.
    datadir
        Folder of the stacks.
    group_column
        Column that distinguishes particles; None uses names of particles, else each stack as one particle.
    axis_tolerance_deg
        Largest deviation of the normal of an image from the plane across the tilt axis of its particle, degrees.
    keep_off_axis
        Whether images with larger deviations are used as tilts about that axis; otherwise they are left out.
    invert, normalize, float16, workers
        As in `ReconstructionConfig` and `ExtractionConfig`.
    """

    folder: Path
    apix: float | None = None
    box: int | None = None
    datadir: Path | None = None
    group_column: str | None = None
    axis_tolerance_deg: float = AXIS_TOLERANCE_DEG
    keep_off_axis: bool = False
    invert: bool = False
    normalize: bool = True
    float16: bool = False
    workers: int = 1


@dataclass(frozen=True, eq=False)
class _Particle:
    """Images and geometry of one particle."""

    stem: Path
    stacks: list[Path]
    sections: np.ndarray
    origins_px: np.ndarray
    frame: SliceFrame
    optics: TiltOptics


@dataclass(frozen=True, eq=False)
class _Job:
    particles: list[_Particle]
    image_apix: float
    grid: SliceGrid
    config: SeriesConfig


@dataclass(frozen=True)
class SeriesReport:
    """Result: number of particles, particle table, and notes for the user."""

    particles: int
    star: Path
    notes: tuple[str, ...]


def prepare_series(star: ParticleStar, config: SeriesConfig) -> SeriesReport:
    """Reconstruct a subtomogram for each particle, and write its CTF table and the particle table.

    Raises
    ------
    UserError
        The table is not a particle series, images are missing, or most images of a particle have no common tilt axis.
    """
    check_kind(star)
    sections, names = stack_sections(star)
    groups = rows_by_particle(star, names, config.group_column)
    located = find_images(with_columns(star, {"rlnImageName": names}), config.datadir)
    lost = next((row for row, path in enumerate(located) if path is None), None)
    if lost is not None:
        count = len({name for name, path in zip(names, located, strict=True) if path is None})
        raise UserError(f"{star.path}: {count} stacks are missing, the first is {names[lost]}. Give --datadir.")
    stacks = [path for path in located if path is not None]
    header = read_header(stacks[0])
    image_apix, box = image_pixel_size(star, header.apix), config.box or header.shape[2]
    doubt = header_note(star, image_apix, header.apix)
    doubts = () if doubt is None else (doubt,)
    grid = SliceGrid(box, config.apix or image_apix, keep_scale=True)
    if grid.apix < image_apix * 0.999:
        raise UserError(
            f"--apix {grid.apix:g} is smaller than the pixel size {image_apix:.4g} Å of the images. Give this value or "
            "a larger one."
        )
    if box % 2:
        raise UserError(f"{stacks[0]}: the box of {box} pixels is odd. Give an even one with --box.")
    optics = image_optics(star)
    matrices = euler_matrices(star.eulers_deg())
    origins = star.origins_px(image_apix)
    particles, poses, off_axis = [], np.empty((len(groups), 3, 3)), []
    for index, (name, every) in enumerate(groups.items()):
        frame = middle_frame(matrices[every], config.axis_tolerance_deg)
        off = frame.off_axis_deg > config.axis_tolerance_deg
        if 2 * off.sum() > len(off):
            raise UserError(
                f"{star.path}: {off.sum()} of the {len(off)} images of particle {name} (row {every[0] + 1}) are more "
                f"than {config.axis_tolerance_deg:g}° off a common tilt axis, up to {frame.residual_deg:.0f}°; if "
                "these are images of several particles, give the column that distinguishes them with --group-col, "
                "otherwise increase --axis-tolerance."
            )
        off_axis.append(frame.off_axis_deg[off])
        used = np.ones(len(every), dtype=bool) if config.keep_off_axis else ~off
        rows, frame = every[used], frame.take(used)
        poses[index] = frame.frame
        stem = config.folder / "subtomo" / f"particle_{index + 1:06d}"
        mine = [stacks[row] for row in rows.tolist()]
        particles.append(_Particle(stem, mine, sections[rows], origins[rows], frame, optics.take(rows)))
    step = PARTICLES_PER_JOB
    jobs = [_Job(particles[i : i + step], image_apix, grid, config) for i in range(0, len(particles), step)]
    with progress(len(particles), "subtomograms") as advance:
        for _, done in run_jobs(_write_particles, jobs, config.workers):
            advance(done)
    bfactors = f"{describe_bfactors(star)}; they are written with the positive sign"
    table = _write_table(star, groups, poses, particles, grid, config)
    return SeriesReport(
        len(particles), table, (*_off_axis_notes(off_axis, config), bfactors, *doubtful_notes(star), *doubts)
    )


def _off_axis_notes(off_axis: list[np.ndarray], config: SeriesConfig) -> tuple[str, ...]:
    """Return notes on images that are off the tilt axes of their particles."""
    counts = np.array([len(angles) for angles in off_axis])
    if not counts.any():
        return ()
    most = f"1 to {counts.max()}" if counts.max() > 1 else "1"
    done = "kept as tilts about it" if config.keep_off_axis else "left out (--off-axis keep keeps them)"
    return (
        f"{counts.sum()} images of {(counts > 0).sum()} of the {len(counts)} particles ({most} of each) are more than "
        f"{config.axis_tolerance_deg:g}° off the tilt axis of their particle (--axis-tolerance), up to "
        f"{np.concatenate(off_axis).max():.1f}°, and were {done}",
    )


def middle_frame(matrices: np.ndarray, tolerance_deg: float = AXIS_TOLERANCE_DEG) -> SliceFrame:
    """Return the frame in which slices are rotated about y and the mean direction of their normals is z.

    Parameters
    ----------
    matrices
        (T, 3, 3) rotations from reference to image coordinates.
    tolerance_deg
        Tolerance of `fit_axis_robustly`.
    """
    frame = slice_frame(matrices, axis=fit_axis_robustly(matrices[:, 2], tolerance_deg))
    angle = np.deg2rad(frame.tilt_deg)
    middle = np.rad2deg(np.arctan2(np.sin(angle).mean(), np.cos(angle).mean()))
    # Normals are along (sin t, 0, cos t), so a rotation about y by -middle moves their mean to z.
    turned = rotation_y(np.asarray(-middle)) @ frame.frame
    rest = slice_frame(matrices @ turned.T, turn=False)
    return replace(rest, frame=turned)


def _write_particles(job: _Job) -> int:
    """Reconstruct and write the particles of a job and return their number."""
    if job.config.workers > 1:
        torch.set_num_threads(1)
    for particle in job.particles:
        frame = particle.frame
        inserter = SliceInserter(frame.tilt_deg, job.grid.box, normalize=job.config.normalize)
        slices = np.stack([_slice(job, particle, tilt) for tilt in range(len(particle.sections))])
        volume = inserter.insert(torch.from_numpy(slices)[None])[0].numpy()
        dtype = np.float16 if job.config.float16 else np.float32
        write_volume(particle.stem.with_suffix(".mrc"), volume.astype(dtype), job.grid.apix)
        optics = particle.optics
        optics = replace(optics, astigmatism_deg=optics.astigmatism_deg - frame.image_angle_deg)
        table = particle.stem.with_name(f"{particle.stem.name}_ctf.star")
        write_ctf_table(table, optics, frame.tilt_deg, np.zeros(len(frame.tilt_deg)))
    return len(job.particles)


def _slice(job: _Job, particle: _Particle, tilt: int) -> np.ndarray:
    header = read_header(particle.stacks[tilt])
    section = int(particle.sections[tilt])
    if section >= header.shape[0]:
        raise UserError(
            f"{header.path}: the stack has {header.shape[0]} images, but the table refers to image {section + 1}. Give "
            "the stack that belongs to the table."
        )
    image = np.memmap(header.path, header.dtype, "r", header.offset, header.shape)[section]
    center = np.array([[image.shape[1] // 2, image.shape[0] // 2]]) - particle.origins_px[tilt, :2]
    cut = cut_slices(image, job.image_apix, center, particle.frame.in_plane[tilt], job.grid)[0]
    return -cut if job.config.invert else cut


def _write_table(
    star: ParticleStar,
    groups: dict[str, np.ndarray],
    poses: np.ndarray,
    particles: list[_Particle],
    grid: SliceGrid,
    config: SeriesConfig,
) -> Path:
    """Write a table with one row per particle, which is that of its first image without columns of images."""
    first = star.subset(np.array([rows[0] for rows in groups.values()]))
    dropped = [c for c in (*_of_images(first), *ORIGIN_COLUMNS, *ORIGIN_ANGST_COLUMNS) if c in first]
    table = first.particles.drop(columns=dropped)
    kept = replace(first, blocks={**first.blocks, first.particle_block: table})
    names = [particle.stem.relative_to(config.folder).as_posix() for particle in particles]
    columns = {
        "rlnImageName": [f"{name}.mrc" for name in names],
        "rlnCtfImage": [f"{name}_ctf.mrc" for name in names],
    }
    same = np.broadcast_to(np.eye(3), poses.shape)
    centered = TomogramPoses(poses, np.zeros((len(poses), 3)))
    path = config.folder / "particles.star"
    with_subtomograms(kept, centered, same, box=grid.box, apix=grid.apix, columns=columns).write(path)
    return path


def _of_images(star: ParticleStar) -> Iterator[str]:
    for column in star.particles.columns:
        if re.match(r"rlnDefocus|rlnCtf|rlnPhaseShift|rlnMicrographPreExposure|rlnBeamTilt", column):
            yield column
