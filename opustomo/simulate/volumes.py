"""The volumes of a simulation: read from files or shipped, brought to one box and pixel size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from opustomo.errors import UserError
from opustomo.io.mrc import read_volume
from opustomo.simulate.densities import load_density
from opustomo.slices.resample import resample


def gather_volumes(
    files: Sequence[Path], builtin: Sequence[str], apix: float | None, box: int | None
) -> tuple[np.ndarray, float]:
    """States of a simulation.

    Parameters
    ----------
    files
        MRC files, or .npy files with (K, D, D, D) or (D, D, D) arrays (their pixel size is `apix`).
    builtin
        Names of shipped densities, added after the files.
    apix
        Pixel size wanted in Å; None keeps that of the volumes.
    box
        Box size wanted in voxels; None keeps the field of view, rounded to an even number of voxels.

    Returns
    -------
    (volumes, apix)
        float32 (K, D, D, D), axes z, y, x; pixel size in Å.

    Raises
    ------
    UserError
        When there is no volume, a file cannot be used, or volumes differ in box or pixel size.
    """
    found: list[tuple[str, np.ndarray, float]] = []
    for path in files:
        found += [(str(path), volume, pixel) for volume, pixel in _read(path, apix)]
    found += [(name, *load_density(name)) for name in builtin]
    if not found:
        raise UserError("No volumes: name MRC files, a .npy stack, or --builtin densities.")
    first_name, first, first_apix = found[0]
    for name, volume, pixel in found:
        if len(set(volume.shape)) != 1 or volume.shape[0] % 2 or volume.shape[0] < 8:
            raise UserError(f"{name} is {volume.shape} voxels; an even cube is needed: pad or crop it.")
        if not np.isfinite(volume).all():
            raise UserError(f"{name} holds values that are not finite; repair the volume.")
        if volume.max() <= 0 or np.ptp(volume) == 0:
            raise UserError(f"{name} holds no positive density; protein must be bright.")
        if volume.shape != first.shape or abs(pixel / first_apix - 1) > 1e-3:
            raise UserError(
                f"{name} has {volume.shape[0]} voxels of {pixel:g} Å but {first_name} {first.shape[0]} of "
                f"{first_apix:g} Å; all volumes must share one grid."
            )
    size = first.shape[0]
    wanted = first_apix if apix is None else apix
    count = box if box is not None else max(16, 2 * round(size * first_apix / wanted / 2))
    if (count, wanted) == (size, first_apix):
        return np.stack([volume for _, volume, _ in found]), first_apix
    return np.stack([resample(volume, first_apix, count, wanted) for _, volume, _ in found]), wanted


def _read(path: Path, apix: float | None) -> list[tuple[np.ndarray, float]]:
    """Volumes of one file with their pixel size."""
    if path.suffix.lower() == ".npy":
        try:
            stack = np.load(path, allow_pickle=False)
        except OSError as error:
            raise UserError(f"Cannot read {path}: {error.strerror or error}.") from error
        except ValueError as error:
            raise UserError(f"{path} is no numpy array of numbers; save volumes with numpy.save.") from error
        if stack.ndim not in (3, 4) or stack.dtype.kind not in "fiu":
            raise UserError(f"{path} holds a {stack.dtype} array {stack.shape}, not (K, D, D, D) numbers.")
        if apix is None:
            raise UserError(f"{path} does not tell its pixel size; give it with --apix.")
        return [(np.asarray(v, dtype=np.float32), apix) for v in (stack if stack.ndim == 4 else stack[None])]
    volume, pixel = read_volume(path)
    if pixel is None and apix is None:
        raise UserError(f"{path} does not tell its pixel size; give it with --apix.")
    return [(volume, pixel if pixel is not None else float(apix or 0))]
