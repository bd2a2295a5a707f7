"""Volumes of a simulation, resampled to a common box and pixel size, and the soft mask that covers all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from opustomo.errors import UserError
from opustomo.io.mrc import read_volume
from opustomo.physics.resampling import resample
from opustomo.simulate.densities import load_density


def gather_volumes(
    files: Sequence[Path], builtin: Sequence[str], apix: float | None, box: int | None
) -> tuple[np.ndarray, float]:
    """Read the volumes of all states and resample them to a common grid.

    Parameters
    ----------
    files
        MRC files, or .npy files with arrays (K, D, D, D) or (D, D, D), whose pixel size is `apix`.
    builtin
        Names of built-in densities, which follow the files.
    apix
        Pixel size of the output in Å; None keeps that of the volumes.
    box
        Box size of the output in voxels; None keeps the field of view, rounded to an even number of voxels.

    Returns
    -------
    volumes : numpy.ndarray, float32, (K, D, D, D)
        Volumes, axes z, y, x.
    apix : float
        Pixel size in Å.

    Raises
    ------
    UserError
        If there are no volumes, a file cannot be used, or the volumes differ in box or pixel size.
    """
    states: list[tuple[str, np.ndarray, float]] = []
    for path in files:
        states += [(str(path), volume, pixel) for volume, pixel in _read(path, apix)]
    states += [(name, *load_density(name)) for name in builtin]
    if not states:
        raise UserError("No volumes are given. Give MRC files, a .npy stack, or --builtin densities.")
    first_name, first, first_apix = states[0]
    for name, volume, pixel in states:
        if len(set(volume.shape)) != 1 or volume.shape[0] % 2 or volume.shape[0] < 8:
            raise UserError(f"{name} has {volume.shape} voxels, but it must be an even cube. Pad or crop it.")
        if not np.isfinite(volume).all():
            raise UserError(f"{name} contains non-finite values. Repair the volume.")
        if volume.max() <= 0 or np.ptp(volume) == 0:
            raise UserError(f"{name} has no positive density. Protein must be bright.")
        if volume.shape != first.shape or abs(pixel / first_apix - 1) > 1e-3:
            raise UserError(
                f"{name} has {volume.shape[0]} voxels of {pixel:g} Å, but {first_name} has {first.shape[0]} voxels of "
                f"{first_apix:g} Å. All volumes must have the same grid."
            )
    size = first.shape[0]
    new_apix = first_apix if apix is None else apix
    new_size = box if box is not None else max(16, 2 * round(size * first_apix / new_apix / 2))
    if (new_size, new_apix) == (size, first_apix):
        return np.stack([volume for _, volume, _ in states]), first_apix
    return np.stack([resample(volume, first_apix, new_size, new_apix) for _, volume, _ in states]), new_apix


def _read(path: Path, apix: float | None) -> list[tuple[np.ndarray, float]]:
    """Read the volumes of one file with their pixel sizes."""
    if path.suffix.lower() == ".npy":
        try:
            stack = np.load(path, allow_pickle=False)
        except OSError as error:
            raise UserError(f"Cannot read {path}: {error.strerror or error}.") from error
        except ValueError as error:
            raise UserError(f"{path} is not a numeric NumPy array. Save volumes with numpy.save.") from error
        if stack.ndim not in (3, 4) or stack.dtype.kind not in "fiu":
            raise UserError(
                f"{path} contains an array of type {stack.dtype} and shape {stack.shape}, but numbers of shape "
                "(K, D, D, D) are required."
            )
        if apix is None:
            raise UserError(f"{path} has no pixel size. Give it with --apix.")
        return [(np.asarray(v, dtype=np.float32), apix) for v in (stack if stack.ndim == 4 else stack[None])]
    volume, pixel = read_volume(path)
    if pixel is None and apix is None:
        raise UserError(f"The MRC header of {path} has no pixel size. Give it with --apix.")
    return [(volume, pixel if pixel is not None else float(apix or 0))]


def covering_mask(volumes: np.ndarray, apix: float, *, level: float = 0.1) -> np.ndarray:
    """Compute a soft mask around the density of all volumes above `level` of their maximum.

    The mask extends the density by a margin of 12 Å (at least one voxel) and has a raised-cosine edge of 24 Å (at
    least 2 voxels).

    Parameters
    ----------
    volumes
        Densities, (K, D, D, D), protein bright.
    apix
        Pixel size in Å.
    level
        Threshold as a fraction of the maximum of each volume; ringing of a resampled volume is below 0.1.

    Returns
    -------
    numpy.ndarray, float32, (D, D, D)
        Mask between 0 and 1; 1 wherever a volume exceeds its threshold.
    """
    inside = np.zeros(volumes.shape[1:], dtype=bool)
    for volume in volumes:
        inside |= volume > level * volume.max()
    margin, edge = max(1.0, 12.0 / apix), max(2.0, 24.0 / apix)
    distance = ndimage.distance_transform_edt(~inside) - margin
    return (0.5 + 0.5 * np.cos(np.pi * np.clip(distance / edge, 0.0, 1.0))).astype(np.float32)
