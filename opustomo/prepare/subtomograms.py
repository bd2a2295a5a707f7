"""Subtomograms reconstructed from the tilt images themselves, and the CTF tables that fit them."""

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
from opustomo.prepare.particle_ctf import write_ctf_table
from opustomo.prepare.tilt_images import SliceGrid, TiltImages, cut_slices

CHUNK_BYTES = 128_000_000
"""Slices held at once by one process."""


@dataclass(frozen=True)
class ReconstructionConfig:
    """How subtomograms are made.

    Attributes
    ----------
    box, apix
        Side in voxels, pixel size in Å.
    normalise
        Divide by the sampling weights (weighted back-projection).
    invert
        Turn dark particles into bright ones.
    keep_scale
        Do not divide tilt images by their standard deviations.
    float16
        Write half precision.
    one_thread
        Leave the other cores to other processes.
    """

    box: int
    apix: float
    normalise: bool = True
    invert: bool = True
    keep_scale: bool = False
    float16: bool = False
    one_thread: bool = False


@dataclass(frozen=True, eq=False)
class SubtomogramJob:
    """Some particles of one tilt series.

    Attributes
    ----------
    series, images, frame
        The series, its images, and its tilts as slices.
    positions_A
        (N, 3) from the centre of the tomogram.
    visible
        (N, T) tilts of the series that may show each particle.
    volumes, tables
        Files to write.
    config
        How.
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
    """Particles whose slices fit in `CHUNK_BYTES`."""
    return max(1, CHUNK_BYTES // (8 * tilts * box * (box // 2 + 1)))


def seen_by_tilts(
    series: TiltSeries, images: TiltImages, positions_A: np.ndarray, visible: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the images of a series show particles.

    Parameters
    ----------
    series, images
        T tilts, I of them with an image.
    positions_A
        (N, 3) from the centre of the tomogram.
    visible
        (N, T) tilts that may show each particle.

    Returns
    -------
    centres
        (N, I, 2) x, y in pixels of the images.
    seen
        (N, I) whether the image holds that point, and the tilt is visible.
    depth_A
        (N, T) what the depth of the particle adds to the defocus.
    """
    image_A, depth_A = series.geometry.project(positions_A)
    centres = image_A[:, images.tilts] / images.apix + np.array(images.size) / 2
    inside = (centres >= 0) & (centres <= np.array(images.size) - 1)
    return centres, np.asarray(inside.all(axis=2)) & visible[:, images.tilts], depth_A


def write_subtomograms(job: SubtomogramJob) -> int:
    """Reconstruct and write subtomograms and their CTF tables.

    A tilt that is not visible, or whose image does not hold the particle's centre, is left out of both.

    Returns
    -------
    int
        Number of particles.

    """
    if job.config.one_thread:
        torch.set_num_threads(1)
    centres, seen, depth_A = seen_by_tilts(job.series, job.images, job.positions_A, job.visible)
    slices = _slices(job, centres, seen)
    # particles that the same tilts hold share the insertion matrix
    patterns, which = np.unique(seen, axis=0, return_inverse=True)
    for pattern, tilts in enumerate(patterns):
        rows = np.flatnonzero(which.ravel() == pattern)
        kept = np.flatnonzero(tilts)
        inserter = SliceInserter(
            job.frame.tilt_deg[job.images.tilts[kept]], job.config.box, normalise=job.config.normalise
        )
        for row in rows.tolist():
            volume = inserter.insert(torch.from_numpy(slices[row, kept])[None])[0].numpy()
            dtype = np.float16 if job.config.float16 else np.float32
            write_volume(job.volumes[row], volume.astype(dtype), job.config.apix)
            _write_table(job, row, job.images.tilts[kept], depth_A[row])
    return len(job.volumes)


def _slices(job: SubtomogramJob, centres: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """(N, T, box, box//2 + 1), tilt by tilt, so that each image is opened once; 0 where it does not show a particle."""
    config = job.config
    grid = SliceGrid(config.box, config.apix, config.keep_scale)
    slices = np.zeros((*seen.shape, config.box, config.box // 2 + 1), dtype=np.complex64)
    for entry, tilt in enumerate(job.images.tilts):
        rows = np.flatnonzero(seen[:, entry])
        if rows.size:
            cut = cut_slices(
                job.images.open(entry), job.images.apix, centres[rows, entry], job.frame.in_plane[tilt], grid
            )
            slices[rows, entry] = -cut if config.invert else cut
    return slices


def _write_table(job: SubtomogramJob, row: int, tilts: np.ndarray, depth_A: np.ndarray) -> None:
    optics = job.series.optics.take(tilts)
    optics = replace(optics, astigmatism_deg=optics.astigmatism_deg - job.frame.image_angle_deg[tilts])
    write_ctf_table(job.tables[row], optics, job.frame.tilt_deg[tilts], depth_A[tilts])
