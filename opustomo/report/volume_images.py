"""Images of volumes for the report: 8-bit central slices and projections along z, y and x."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from opustomo.analysis.results import ResultDir
from opustomo.analysis.volumes.decoding import VolumeDecoder
from opustomo.analysis.volumes.volume_sets import JOINT_TABLE, holds_joint_volumes
from opustomo.io.latents import read_latent_rows
from opustomo.io.mrc import read_volume
from opustomo.report.surface_volumes import downsample

LARGEST = 96
"""Maximum image size in pixels; larger volumes are downsampled by Fourier cropping."""
BATCH = 4


def pictures(volumes: Sequence[np.ndarray]) -> np.ndarray:
    """Return images of volumes (n, n, n) with a common gray scale, (K, 6, s, s), uint8.

    The images are the central slices z, y, x and the projections along z, y, x; their rows are y, z, z.
    """
    downsampled = [downsample(volume, LARGEST) for volume in volumes]
    views = np.stack([np.stack([*_slices(volume), *_projections(volume)]) for volume in downsampled])
    scaled = np.empty(views.shape, dtype=np.uint8)
    for view_range in (slice(0, 3), slice(3, 6)):
        images = views[:, view_range]
        high = float(np.percentile(images, 99.7))
        high = high if high > 0 else float(images.max()) or 1.0
        low = -0.08 * high
        scaled[:, view_range] = np.round(255 * np.clip((images - low) / (high - low), 0, 1))
    return scaled


def stored_or_decoded(results: ResultDir, epoch: int, table: Path) -> tuple[list[np.ndarray], float | None]:
    """Return the volumes of the latents in a text file and their pixel size in Å (None if a header lacks it).

    The volumes are read from ``reference{i}.mrc`` in the same folder if they belong to these latents, and decoded
    otherwise.

    Raises
    ------
    UserError
        If volumes must be decoded and the weights or the configuration are missing.
    """
    latents = read_latent_rows(table)
    paths = [table.with_name(f"reference{i}.mrc") for i in range(len(latents))]
    joint = table.name != JOINT_TABLE and holds_joint_volumes(table.parent)
    if not joint and all(path.is_file() and path.stat().st_mtime >= table.stat().st_mtime for path in paths):
        read = [read_volume(path) for path in paths]
        return [volume for volume, _ in read], read[0][1]
    decoder = VolumeDecoder(results.epoch_file("weights", epoch), results.config(), "cpu")
    apix = max(decoder.boxes.render_apix, decoder.boxes.crop * decoder.boxes.render_apix / LARGEST)
    volumes: list[np.ndarray] = []
    for first in range(0, len(latents), BATCH):
        volumes += list(decoder.volumes(latents[first : first + BATCH], apix).numpy())
    return volumes, apix


def picture_pixel(volumes: Sequence[np.ndarray], apix: float | None) -> float | None:
    """Return the pixel size in Å of the images of volumes (n, n, n) with pixel size `apix`; None if it is unknown."""
    if not apix:
        return None
    size = volumes[0].shape[0]
    return apix * size / downsample(volumes[0], LARGEST).shape[0]


def _slices(volume: np.ndarray) -> list[np.ndarray]:
    middle = volume.shape[0] // 2
    return [volume[middle], volume[:, middle], volume[:, :, middle]]


def _projections(volume: np.ndarray) -> list[np.ndarray]:
    return [volume.mean(axis) for axis in (0, 1, 2)]
