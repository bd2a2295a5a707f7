"""The solvent mask: crop window, mask on the crop, voxel counts (docs/method.md, sections 2 and 4)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from opustomo.physics.boxes import Boxes
from opustomo.physics.sampling import resample_cube

WINDOW_WITHOUT_MASK = 0.85
WIDEST_WINDOW = 0.98
WIDEST_WINDOW_AT_256 = 0.9


def crop_window(mask: np.ndarray | None, templateres: int) -> float:
    """Fraction of the box that the crop keeps.

    The smallest central cube that holds all non-zero voxels of ``mask`` (N, N, N) and a margin of two on either side.
    """
    if mask is None:
        return WINDOW_WITHOUT_MASK
    if not mask.any():
        raise ValueError("the mask is empty")
    size = mask.shape[0]
    margin = size
    for axis in range(3):
        used = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        margin = min(margin, int(used[0]), size - int(used[-1]))
    window = min((size - 2 * margin + 4) / size, WIDEST_WINDOW)
    return min(window, WIDEST_WINDOW_AT_256) if templateres == 256 else window


def mask_on_crop(mask: np.ndarray | None, boxes: Boxes) -> Tensor:
    """Mask (N, N, N) sampled at the voxels of the crop, clipped at 0; a ball of radius 1 without mask; (Dc, Dc, Dc)."""
    if mask is None:
        at = torch.linspace(-1.0, 1.0, boxes.crop) - boxes.centre
        z, y, x = torch.meshgrid(at, at, at, indexing="ij")
        return ((x**2 + y**2 + z**2) <= 1.0).float()
    full = torch.from_numpy(np.ascontiguousarray(mask, dtype=np.float32))[None]
    return resample_cube(full, mask.shape[0] / boxes.render, boxes.crop)[0].clamp(min=0.0)


def mask_norm(mask: Tensor) -> float:
    """N_norm: voxels above zero of the mask on the crop, at least 0.05·π·Dc³."""
    return max(float((mask > 0).sum()), 0.05 * math.pi * mask.shape[-1] ** 3)


def bounding_box(mask: Tensor, templateres: int) -> tuple[slice, slice, slice]:
    """Slices (z, y, x) of a template of ``templateres`` voxels that cover the mask's non-zero voxels."""
    crop = mask.shape[-1]
    scale = (templateres - 1) / (crop - 1)
    slices = []
    for others in ((1, 2), (0, 2), (0, 1)):
        used = torch.nonzero((mask > 0).any(dim=others)).flatten()
        if not len(used):
            raise ValueError("the mask has no voxel above zero inside the crop")
        slices.append(slice(math.floor(int(used[0]) * scale), math.ceil(int(used[-1]) * scale) + 1))
    return slices[0], slices[1], slices[2]
