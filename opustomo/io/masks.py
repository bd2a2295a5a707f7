"""Masks: reading, with checks of the box, the pixel size and the values."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from opustomo.errors import UserError
from opustomo.io.mrc import pixel_sizes_differ, read_volume

MASK_TOLERANCE = 1.0
"""Maximum excess of mask values beyond the range 0 to 1."""


def load_mask(path: Path | None, box: int, apix: float, force: bool = False) -> np.ndarray | None:
    """Read the solvent mask (N, N, N); return None without path.

    Raises
    ------
    UserError
        If the box or, without ``force``, the pixel size differs from that of the subtomograms, or values are invalid.
    """
    if path is None:
        return None
    mask, mask_apix = read_volume(path)
    if mask.shape != (box, box, box):
        shape = "×".join(str(n) for n in reversed(mask.shape))
        raise UserError(
            f"The mask {path} has {shape} voxels, but the subtomograms have {box}³. Resample it to their box."
        )
    if not force and pixel_sizes_differ(mask_apix, apix):
        raise UserError(
            f"The mask {path} has a pixel size of {mask_apix:.4g} Å, but the subtomograms have {apix:.4g} Å. "
            "Resample it."
        )
    lowest, highest = float(mask.min()), float(mask.max())
    if np.isfinite((lowest, highest)).all() and (lowest < -MASK_TOLERANCE or highest > 1 + MASK_TOLERANCE):
        raise UserError(
            f"The mask {path} has values from {lowest:.3g} to {highest:.3g}, but 0 to 1 is expected. Rescale it."
        )
    require_density(mask, path)
    return mask


def require_density(mask: np.ndarray, path: Path) -> None:
    """Raise an error unless a mask is finite and has voxels above zero.

    Raises
    ------
    UserError
        If a value is not finite or no voxel is above zero.
    """
    if not np.isfinite(mask).all():
        raise UserError(f"The mask {path} contains values that are not finite. Create it again.")
    if not (mask > 0).any():
        raise UserError(f"The mask {path} has no voxel above zero. Give a mask that covers the particle or body.")
