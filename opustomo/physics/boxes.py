"""The three nested boxes of a run: input box D, render box Dr, crop Dc."""

from __future__ import annotations

from dataclasses import dataclass


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
