"""Reconstruction of subtomograms from tilt images, with matching CTF tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from opustomo.geometry.tilt_geometry import SliceFrame
from opustomo.io.mrc import write_volume
from opustomo.io.tilt_series.series import TiltSeries
from opustomo.physics.slice_insertion import SliceInserter
from opustomo.prepare.ctf_table_output import write_ctf_table
from opustomo.prepare.tilt_images import SliceGrid, TiltImages, cut_slices

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
