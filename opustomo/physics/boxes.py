"""Nested boxes of a run (input box D, render box Dr, crop Dc) and the solvent mask that determines the crop."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from opustomo.physics.sampling import resample_cube


@dataclass(frozen=True)
class Boxes:
    """Sizes in voxels and pixel size in Å of the boxes in which a subtomogram is processed.

    Attributes
    ----------
    box
        Box size D of the input subtomogram.
    apix
        Pixel size of the input in Å.
    render
        Size Dr of the Fourier-cropped box, in which CTF and envelopes are applied.
    crop
        Size Dc of the central cube, on which the networks operate.
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
            raise ValueError(f"expected crop <= render <= box, got {self.crop}, {self.render}, {self.box}")
        if not self.apix > 0:
            raise ValueError(f"pixel size must be positive, got {self.apix}")

    @classmethod
    def from_window(cls, box: int, apix: float, downfrac: float = 1.0, window: float = 0.85) -> Boxes:
        """Return the boxes for a downsampling fraction and a crop window (fraction of the render box)."""
        if not 0 < downfrac <= 1:
            raise ValueError(f"downfrac must lie in (0, 1], got {downfrac}")
        render = 2 * int(box * downfrac / 2 + 1e-9)
        return cls(box, apix, render, 2 * int(render * window / 2 + 1e-9))

    @property
    def render_apix(self) -> float:
        """Pixel size of the render box and the crop in Å."""
        return self.apix * self.box / self.render

    @property
    def center(self) -> float:
        """Coordinate of voxel Dc/2, the center of rotation, on a grid with end voxels at -1 and 1."""
        return 1.0 / (self.crop - 1)

    @property
    def grid_per_pixel(self) -> float:
        """Length of a pixel of the input box in grid units of the crop."""
        return 2.0 * self.render / (self.box * (self.crop - 1))


DEFAULT_WINDOW = 0.85
"""Fraction of the box that the crop keeps without a mask, as in OPUS-TOMO."""
MAX_WINDOW, MAX_WINDOW_AT_256 = 0.98, 0.9
"""Largest fraction with a mask, and with a template of 256 voxels, as in OPUS-TOMO."""


def crop_window(mask: np.ndarray | None, templateres: int) -> float:
    """Return the fraction of the box that the crop keeps.

    The crop is the smallest central cube that contains all non-zero voxels of ``mask`` (N, N, N) with a margin of two
    voxels, within the limits of OPUS-TOMO.
    """
    if mask is None:
        return DEFAULT_WINDOW
    if not mask.any():
        raise ValueError("the mask is empty")
    size = mask.shape[0]
    margin = size
    for axis in range(3):
        used = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        margin = min(margin, int(used[0]), size - int(used[-1]))
    window = min((size - 2 * margin + 4) / size, MAX_WINDOW)
    return min(window, MAX_WINDOW_AT_256) if templateres == 256 else window


def mask_on_crop(mask: np.ndarray | None, boxes: Boxes) -> Tensor:
    """Return the mask resampled to the crop and clipped at 0, (Dc, Dc, Dc); without mask, the inscribed ball."""
    if mask is None:
        at = torch.linspace(-1.0, 1.0, boxes.crop) - boxes.center
        z, y, x = torch.meshgrid(at, at, at, indexing="ij")
        return ((x**2 + y**2 + z**2) <= 1.0).float()
    full = torch.from_numpy(np.ascontiguousarray(mask, dtype=np.float32))[None]
    return resample_cube(full, mask.shape[0] / boxes.render, boxes.crop)[0].clamp(min=0.0)


def mask_norm(mask: Tensor) -> float:
    """Return the normalization of the loss N_norm: number of mask voxels above zero, at least 0.05·π·Dc³."""
    return max(float((mask > 0).sum()), 0.05 * math.pi * mask.shape[-1] ** 3)


def bounding_box(mask: Tensor, templateres: int) -> tuple[slice, slice, slice]:
    """Return slices (z, y, x) that bound the non-zero voxels of the mask in a template of ``templateres`` voxels."""
    crop = mask.shape[-1]
    scale = (templateres - 1) / (crop - 1)
    slices = []
    for others in ((1, 2), (0, 2), (0, 1)):
        used = torch.nonzero((mask > 0).any(dim=others)).flatten()
        if not len(used):
            raise ValueError("the mask has no voxel above zero inside the crop")
        slices.append(slice(math.floor(int(used[0]) * scale), math.ceil(int(used[-1]) * scale) + 1))
    return slices[0], slices[1], slices[2]
