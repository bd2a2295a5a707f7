"""Nested boxes of a run (input box D, render box Dr, crop Dc) and the solvent mask that sets the crop."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from opustomo.physics.sampling import resample_cube


@dataclass(frozen=True)
class Boxes:
    """Sizes (voxels) and pixel size (Å) of the boxes in which a subtomogram is handled.

    Attributes
    ----------
    box
        D, side of the input subtomogram.
    apix
        Pixel size of the input, Å.
    render
        Dr, side of the Fourier-cropped box on which CTF and envelopes are applied.
    crop
        Dc, side of the central cube on which networks and loss work.
    """

    box: int
    apix: float
    render: int
    crop: int

    def __post_init__(self) -> None:
        for name, size in (("box", self.box), ("render", self.render), ("crop", self.crop)):
            if size < 4 or size % 2:
                raise ValueError(f"{name} must be an even number of at least 4 voxels, got {size}")
        if not self.crop <= self.render <= self.box:
            raise ValueError(f"need crop <= render <= box, got {self.crop}, {self.render}, {self.box}")
        if not self.apix > 0:
            raise ValueError(f"pixel size must be positive, got {self.apix}")

    @classmethod
    def from_window(cls, box: int, apix: float, downfrac: float = 1.0, window: float = 0.85) -> Boxes:
        """Boxes for a down-sampling fraction and a crop window (fractions of 1)."""
        if not 0 < downfrac <= 1:
            raise ValueError(f"downfrac must lie in (0, 1], got {downfrac}")
        render = 2 * int(box * downfrac / 2 + 1e-9)
        return cls(box, apix, render, 2 * int(render * window / 2 + 1e-9))

    @property
    def render_apix(self) -> float:
        """Pixel size of the render and crop boxes, Å."""
        return self.apix * self.box / self.render

    @property
    def centre(self) -> float:
        """Position of voxel Dc/2, the centre of rotation, on a grid whose end voxels are at -1 and 1."""
        return 1.0 / (self.crop - 1)

    @property
    def grid_per_pixel(self) -> float:
        """Grid units of the crop per pixel of the input box."""
        return 2.0 * self.render / (self.box * (self.crop - 1))


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
