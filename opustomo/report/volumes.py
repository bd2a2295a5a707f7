"""Volumes as small pictures: central slices and projections along z, y and x, in bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from opustomo.analysis.decoding import VolumeDecoder
from opustomo.analysis.results import ResultDir
from opustomo.analysis.volume_sets import JOINT_TABLE, holds_joint_volumes
from opustomo.io.mrc import read_volume
from opustomo.io.tables import read_latent_rows
from opustomo.physics.fourier import crop_spectrum, irfft3, rfft3

LARGEST = 96
"""Side in pixels beyond which volumes are cropped in Fourier space: pictures need no more."""
BATCH = 4


def pictures(volumes: Sequence[np.ndarray]) -> np.ndarray:
    """Views of volumes (n, n, n), all on one grey scale: (K, 6, s, s) bytes.

    The views are the central slices z, y, x and the projections along z, y, x; rows are y, z, z.
    """
    small = [_small(volume) for volume in volumes]
    views = np.stack([np.stack([*_slices(volume), *_projections(volume)]) for volume in small])
    scaled = np.empty(views.shape, dtype=np.uint8)
    for kind in (slice(0, 3), slice(3, 6)):
        part = views[:, kind]
        bright = float(np.percentile(part, 99.7))
        bright = bright if bright > 0 else float(part.max()) or 1.0
        low = -0.08 * bright
        scaled[:, kind] = np.round(255 * np.clip((part - low) / (bright - low), 0, 1))
    return scaled


def stored_or_decoded(results: ResultDir, epoch: int, table: Path) -> list[np.ndarray]:
    """Volumes of the latents in a text file: ``reference{i}.mrc`` beside it if they are its own, else decoded.

    Raises
    ------
    UserError
        They have to be decoded and the weights or the configuration are missing.
    """
    latents = read_latent_rows(table)
    paths = [table.with_name(f"reference{i}.mrc") for i in range(len(latents))]
    of_joint = table.name != JOINT_TABLE and holds_joint_volumes(table.parent)
    if not of_joint and all(path.is_file() and path.stat().st_mtime >= table.stat().st_mtime for path in paths):
        return [read_volume(path)[0] for path in paths]
    decoder = VolumeDecoder(results.epoch_file("weights", epoch), results.config(), "cpu")
    apix = max(decoder.boxes.render_apix, decoder.boxes.crop * decoder.boxes.render_apix / LARGEST)
    found: list[np.ndarray] = []
    for first in range(0, len(latents), BATCH):
        found += list(decoder.volumes(latents[first : first + BATCH], apix).numpy())
    return found


def _small(volume: np.ndarray) -> np.ndarray:
    if len(set(volume.shape)) != 1 or volume.shape[0] % 2 or volume.shape[0] <= LARGEST:
        return volume
    return irfft3(crop_spectrum(rfft3(torch.from_numpy(volume)), LARGEST)).numpy()


def _slices(volume: np.ndarray) -> list[np.ndarray]:
    middle = volume.shape[0] // 2
    return [volume[middle], volume[:, middle], volume[:, :, middle]]


def _projections(volume: np.ndarray) -> list[np.ndarray]:
    return [volume.mean(axis) for axis in (0, 1, 2)]
