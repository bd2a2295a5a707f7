"""Central slices of particles, cut from tilt images: centred to a fraction of a pixel, turned, and resampled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from opustomo.prepare.tilt_images import cut_patches

OVERSAMPLING = 2
"""Patches are turned on a grid this much finer than the slices, where cubic splines lose next to nothing."""
MARGIN_PX = 8
BATCH_SAMPLES = 4_000_000


@dataclass(frozen=True)
class SliceGrid:
    """What slices are brought to.

    Attributes
    ----------
    box
        Side in pixels, even.
    apix
        Pixel size, Å; not smaller than that of the images.
    keep_scale
        Images keep their scale; otherwise each is divided by its standard deviation.
    """

    box: int
    apix: float
    keep_scale: bool = False


def cut_slices(
    image: np.ndarray, image_apix: float, centres_px: np.ndarray, in_plane: np.ndarray, grid: SliceGrid
) -> np.ndarray:
    """Transforms of the parts of one tilt image around particles.

    The part around each particle is centred by a phase shift, cropped in Fourier space to about twice the wanted
    sampling, read along the slice's axes with cubic splines, and cropped in Fourier space again.

    Parameters
    ----------
    image
        (height, width).
    image_apix
        Its pixel size, Å.
    centres_px
        (N, 2) x, y of the particles in pixels of the image.
    in_plane
        (2, 2): columns are the slice's x and y axis in the image.
    grid
        Size and sampling of the slices.

    Returns
    -------
    complex64 (N, box, box//2 + 1), native FFT order, phases counted from the centre of the box.
    """
    side, cropped = _sides(image_apix, in_plane, grid)
    coordinates = _reading_points(side, cropped, image_apix, in_plane, grid)
    nearest = np.round(centres_px).astype(np.int64)
    corners, moved = nearest - side // 2, centres_px - nearest
    patches = cut_patches(image, corners, side, keep_scale=grid.keep_scale)
    slices = np.empty((len(nearest), grid.box, grid.box // 2 + 1), dtype=np.complex64)
    batch = max(1, BATCH_SAMPLES // side**2)
    for start in range(0, len(nearest), batch):
        stop = min(start + batch, len(nearest))
        block = np.stack([next(patches) for _ in range(start, stop)])
        centred = _centred(block, moved[start:stop], cropped)
        fine = np.stack([ndimage.map_coordinates(part, coordinates, order=3, mode="grid-wrap") for part in centred])
        slices[start:stop] = _transform(fine, grid.box)
    return slices


def _sides(image_apix: float, in_plane: np.ndarray, grid: SliceGrid) -> tuple[int, int]:
    """Side of the patches in the image, and after their Fourier crop."""
    reach = float(np.abs(in_plane).sum(axis=1).max())  # 1 for axes along the image's, √2 at 45°
    wanted = grid.box * grid.apix / image_apix * reach + MARGIN_PX
    side = 2 * fft.next_fast_len(int(np.ceil(wanted / 2)), real=True)
    finer = 2 * int(np.ceil(side * image_apix * OVERSAMPLING / grid.apix / 2))
    return side, min(side, finer)


def _reading_points(side: int, cropped: int, image_apix: float, in_plane: np.ndarray, grid: SliceGrid) -> np.ndarray:
    """(2, fine, fine) rows and columns of cropped patches where the fine grid of the slice lies."""
    fine = OVERSAMPLING * grid.box
    at = (np.arange(fine) - fine // 2) * (grid.apix / OVERSAMPLING)
    pixel = side * image_apix / cropped
    x = in_plane[0, 0] * at[None, :] + in_plane[0, 1] * at[:, None]
    y = in_plane[1, 0] * at[None, :] + in_plane[1, 1] * at[:, None]
    return np.stack([y, x]) / pixel + cropped // 2


def _centred(patches: np.ndarray, moved: np.ndarray, size: int) -> np.ndarray:
    """Patches whose point `moved` (x, y) off their centre is brought to it, Fourier-cropped to `size`."""
    side = patches.shape[-1]
    spectra = _crop(fft.rfft2(patches), size)
    y, x = np.fft.fftfreq(size, 1 / size), np.arange(size // 2 + 1)
    turns = (2j * np.pi / side) * (moved[:, 0, None, None] * x + moved[:, 1, None, None] * y[:, None])
    # index side//2 becomes index size//2 by itself: both are the middle of the box
    return fft.irfft2(spectra * np.exp(turns), s=(size, size)).astype(np.float32)


def _transform(fine: np.ndarray, box: int) -> np.ndarray:
    return _crop(fft.rfft2(np.fft.ifftshift(fine, axes=(-2, -1))), box).astype(np.complex64)


def _crop(spectra: np.ndarray, size: int) -> np.ndarray:
    """Low frequencies of half spectra; values in real space stay."""
    full = spectra.shape[-2]
    if size == full:
        return spectra
    half = size // 2
    rows = np.r_[0:half, full - half : full]
    return spectra[..., rows, : half + 1] * (size / full) ** 2
