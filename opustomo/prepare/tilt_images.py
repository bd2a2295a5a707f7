"""Images of a tilt series, and central slices of particles that are cut from them.

Slices are centered to a fraction of a pixel, rotated and resampled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import numpy as np
from scipy import fft, ndimage

from opustomo.errors import UserError
from opustomo.io.mrc import MrcHeader, read_header
from opustomo.io.tilt_series.relion import find_beside
from opustomo.io.tilt_series.series import RawStack, TiltSeries

STACK_SUFFIXES = (".st", ".ali", ".mrcs", ".mrc", "_aligned.mrc", "_ali.mrc")
RAW_STACK_SUFFIXES = (".st", ".mrcs", ".mrc", "_st.mrc")
STATISTICS_ROWS = 512
"""Number of rows of an image from which mean and standard deviation are computed."""


@dataclass(frozen=True, eq=False)
class TiltImages:
    """Images of the tilts of a series.

    Attributes
    ----------
    headers, sections
        File and section (from 0) of each image.
    tilts
        Index of the tilt of each image.
    apix
        Pixel size of the images, Å.
    """

    headers: tuple[MrcHeader, ...]
    sections: tuple[int, ...]
    tilts: np.ndarray
    apix: float

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.headers[0].shape[2], self.headers[0].shape[1]

    def open(self, entry: int) -> np.ndarray:
        """Return a memory-mapped image (height, width) in the type of the file."""
        header = self.headers[entry]
        return np.memmap(header.path, header.dtype, "r", header.offset, header.shape)[self.sections[entry]]


def find_images(series: TiltSeries, folder: Path | None = None, apix: float | None = None) -> TiltImages:
    """Find the images of a series.

    The images are a stack with the name of the series in `folder` or in `tiltstack` of WARP, or else the images in the
    metadata, which are searched for beside them and in folders above. For movies of WARP, these are the averages of the
    same name in `folder` or in `average`.

    Parameters
    ----------
    series
        The series.
    folder
        Folder of images.
    apix
        Pixel size of the images, Å; None uses that of the headers, or else that of the series.

    Raises
    ------
    UserError
        Images are missing, or their number or size is wrong.
    """
    stack = _stack(series, folder)
    used = np.flatnonzero(series.used)
    if stack is not None:
        header = read_header(stack)
        count = header.shape[0]
        if series.raw_stack is not None:
            there = _sections(series, series.raw_stack, header)
            return TiltImages((header,) * len(used), tuple(there[used].tolist()), used, _apix(series, header, apix))
        if count not in (len(series), len(used)):
            raise UserError(
                f"{stack}: the stack has {count} sections, but {series.source} has {len(series)} tilts, of which "
                f"{len(used)} are used. Give the stack that belongs to it."
            )
        places = used.tolist() if count == len(series) else list(range(count))
        return TiltImages((header,) * len(used), tuple(places), used, _apix(series, header, apix))
    if not series.images:
        raise UserError(
            f"{series.source}: the file does not list the images of {series.name}. Give their folder with --images."
        )
    headers: list[MrcHeader] = []
    sections: list[int] = []
    for tilt in used:
        image = series.images[tilt]
        header = read_header(_single(series, image.name, folder))
        if image.section >= header.shape[0]:
            raise UserError(
                f"{header.path}: the stack has {header.shape[0]} sections, but tilt {tilt + 1} is section "
                f"{image.section + 1}. Give the stack that belongs to {series.source}."
            )
        headers.append(header)
        sections.append(image.section)
        if header.shape[1:] != headers[0].shape[1:]:
            raise UserError(f"{header.path}: the size differs from that of {headers[0].path}. Give images of one size.")
    return TiltImages(tuple(headers), tuple(sections), used, _apix(series, headers[0], apix))


def _sections(series: TiltSeries, raw: RawStack, header: MrcHeader) -> np.ndarray:
    """Return the sections of all tilts in the raw stack.

    Raises
    ------
    UserError
        The number of sections is wrong.
    """
    wanted = int(raw.sections.max()) + 1 if raw.size is None else raw.size[2]
    count = header.shape[0]
    if count < wanted or (raw.size is not None and count != wanted):
        raise UserError(
            f"{header.path}: the stack has {count} sections, but {series.source} refers to a raw stack of {wanted} "
            "sections. Give the folder of that stack with --images."
        )
    return raw.sections


def _stack(series: TiltSeries, folder: Path | None) -> Path | None:
    suffixes = STACK_SUFFIXES if series.raw_stack is None else RAW_STACK_SUFFIXES
    names = [name for suffix in suffixes for name in (f"{series.name}{suffix}", f"{series.name}/{series.name}{suffix}")]
    places = [] if folder is None else [folder]
    if series.source.suffix == ".xml":
        places.append(series.source.parent / "tiltstack")
    return next((place / name for place in places for name in names if (place / name).is_file()), None)


def _single(series: TiltSeries, name: str, folder: Path | None) -> Path:
    base = PureWindowsPath(name).name
    stem = base.rpartition(".")[0] or base
    if folder is not None:
        for candidate in (folder / base, folder / f"{stem}.mrc", folder / series.name / base):
            if candidate.is_file() and candidate.suffix in (".mrc", ".mrcs", ".st", ".ali"):
                return candidate
    if series.source.suffix == ".xml":
        home = series.source.parent
        for place in (home / "average", home / name.rpartition("/")[0] / "average"):
            if (place / f"{stem}.mrc").is_file():
                return place / f"{stem}.mrc"
        raise UserError(
            f"{series.source}: neither a stack nor {stem}.mrc is in {home / 'average'}; "
            "give the folder of the averages or stacks with --images."
        )
    if Path(name).is_file():
        return Path(name)
    try:
        return find_beside(name, series.source)
    except UserError as error:
        raise UserError(f"{str(error).split(';')[0]}. Give the folder of the images with --images.") from error


def _apix(series: TiltSeries, header: MrcHeader, asked: float | None) -> float:
    stated = header.apix
    if stated is not None and abs(stated - 1.0) < 1e-6 and series.apix is not None:
        # Many programs write 1 Å if the pixel size is unknown.
        stated = None
    apix = asked or stated or series.apix
    if apix is None:
        raise UserError(f"{header.path}: the MRC header has no pixel size. Give it with --image-apix.")
    return apix


def image_statistics(image: np.ndarray) -> tuple[float, float]:
    """Return mean and standard deviation of the finite values of evenly spaced rows; 0 is replaced by 1."""
    step = max(1, image.shape[0] // STATISTICS_ROWS)
    rows = np.asarray(image[::step], dtype=np.float32)
    rows = rows[np.isfinite(rows)]
    if not rows.size:
        return 0.0, 1.0
    return float(rows.mean(dtype=np.float64)), float(rows.std(dtype=np.float64)) or 1.0


def cut_patches(image: np.ndarray, corners: np.ndarray, side: int, *, keep_scale: bool) -> Iterator[np.ndarray]:
    """Yield square patches of an image, standardized by its mean and standard deviation.

    Parameters
    ----------
    image
        (height, width).
    corners
        (N, 2) first pixel x, y of each patch, which may be outside the image.
    side
        Side of the patches in pixels.
    keep_scale
        Whether patches are not divided by the standard deviation.

    Yields
    ------
    ndarray, (side, side)
        Patch as float32; pixels outside the image and non-finite pixels are 0.
    """
    mean, deviation = image_statistics(image)
    if keep_scale:
        deviation = 1.0
    height, width = image.shape
    for x, y in corners:
        patch = np.zeros((side, side), dtype=np.float32)
        left, right = max(int(x), 0), min(int(x) + side, width)
        low, high = max(int(y), 0), min(int(y) + side, height)
        if left < right and low < high:
            part = np.asarray(image[low:high, left:right], dtype=np.float32)
            part = np.where(np.isfinite(part), (part - mean) / deviation, 0.0)
            patch[low - y : high - y, left - x : right - x] = part
        yield patch


OVERSAMPLING = 2
"""Factor by which the grid for the rotation of patches is finer than the slices, which makes cubic splines accurate."""
MARGIN_PX = 8
BATCH_SAMPLES = 4_000_000


@dataclass(frozen=True)
class SliceGrid:
    """Size and sampling of slices.

    Attributes
    ----------
    box
        Side in pixels, even.
    apix
        Pixel size, Å; not smaller than that of the images.
    keep_scale
        Whether images keep their scale; otherwise each is divided by its standard deviation.
    """

    box: int
    apix: float
    keep_scale: bool = False


def cut_slices(
    image: np.ndarray, image_apix: float, centers_px: np.ndarray, in_plane: np.ndarray, grid: SliceGrid
) -> np.ndarray:
    """Compute the Fourier transforms of the parts of one tilt image around particles.

    The part around each particle is centered by a phase shift, cropped in Fourier space to about twice the requested
    sampling, interpolated along the axes of the slice with cubic splines, and cropped in Fourier space again.

    Parameters
    ----------
    image
        (height, width).
    image_apix
        Pixel size of the image, Å.
    centers_px
        (N, 2) x, y of the particles in pixels of the image.
    in_plane
        (2, 2) matrix whose columns are the x and y axes of the slice in the image.
    grid
        Size and sampling of the slices.

    Returns
    -------
    ndarray, (N, box, box//2 + 1)
        Spectra as complex64 in native FFT order, with phases relative to the center of the box.
    """
    side, cropped = _sides(image_apix, in_plane, grid)
    coordinates = _reading_points(side, cropped, image_apix, in_plane, grid)
    nearest = np.round(centers_px).astype(np.int64)
    corners, moved = nearest - side // 2, centers_px - nearest
    patches = cut_patches(image, corners, side, keep_scale=grid.keep_scale)
    slices = np.empty((len(nearest), grid.box, grid.box // 2 + 1), dtype=np.complex64)
    batch = max(1, BATCH_SAMPLES // side**2)
    for start in range(0, len(nearest), batch):
        stop = min(start + batch, len(nearest))
        block = np.stack([next(patches) for _ in range(start, stop)])
        centered = _centered(block, moved[start:stop], cropped)
        fine = np.stack([ndimage.map_coordinates(part, coordinates, order=3, mode="grid-wrap") for part in centered])
        slices[start:stop] = _transform(fine, grid.box)
    return slices


def _sides(image_apix: float, in_plane: np.ndarray, grid: SliceGrid) -> tuple[int, int]:
    """Return the side of the patches in the image, and after cropping in Fourier space."""
    reach = float(np.abs(in_plane).sum(axis=1).max())  # 1 for axes along those of the image, √2 at 45°
    wanted = grid.box * grid.apix / image_apix * reach + MARGIN_PX
    side = 2 * fft.next_fast_len(int(np.ceil(wanted / 2)), real=True)
    finer = 2 * int(np.ceil(side * image_apix * OVERSAMPLING / grid.apix / 2))
    return side, min(side, finer)


def _reading_points(side: int, cropped: int, image_apix: float, in_plane: np.ndarray, grid: SliceGrid) -> np.ndarray:
    """Return the rows and columns of cropped patches at the points of the fine grid of the slice, (2, fine, fine)."""
    fine = OVERSAMPLING * grid.box
    at = (np.arange(fine) - fine // 2) * (grid.apix / OVERSAMPLING)
    pixel = side * image_apix / cropped
    x = in_plane[0, 0] * at[None, :] + in_plane[0, 1] * at[:, None]
    y = in_plane[1, 0] * at[None, :] + in_plane[1, 1] * at[:, None]
    return np.stack([y, x]) / pixel + cropped // 2


def _centered(patches: np.ndarray, moved: np.ndarray, size: int) -> np.ndarray:
    """Shift points that are `moved` (x, y) off the centers of patches to the centers, and crop spectra to `size`."""
    side = patches.shape[-1]
    spectra = _crop(fft.rfft2(patches), size)
    y, x = np.fft.fftfreq(size, 1 / size), np.arange(size // 2 + 1)
    turns = (2j * np.pi / side) * (moved[:, 0, None, None] * x + moved[:, 1, None, None] * y[:, None])
    # Index side//2 becomes index size//2, because both are the center of the box.
    return fft.irfft2(spectra * np.exp(turns), s=(size, size)).astype(np.float32)


def _transform(fine: np.ndarray, box: int) -> np.ndarray:
    return _crop(fft.rfft2(np.fft.ifftshift(fine, axes=(-2, -1))), box).astype(np.complex64)


def _crop(spectra: np.ndarray, size: int) -> np.ndarray:
    """Crop half spectra to low frequencies; values in real space are unchanged."""
    full = spectra.shape[-2]
    if size == full:
        return spectra
    half = size // 2
    rows = np.r_[0:half, full - half : full]
    return spectra[..., rows, : half + 1] * (size / full) ** 2
