"""Images of a tilt series, and central slices of particles cut from them.

Slices are centered to a fraction of a pixel, rotated and resampled."""

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
"""Rows that mean and deviation of an image are measured on."""


@dataclass(frozen=True, eq=False)
class TiltImages:
    """Images of the tilts of a series.

    Attributes
    ----------
    headers, sections
        File and section (from 0) of each tilt; tilts that have no image are not in `tilts`.
    tilts
        Indices of the tilts that the entries belong to.
    apix
        Pixel size of the images, Å.
    """

    headers: tuple[MrcHeader, ...]
    sections: tuple[int, ...]
    tilts: np.ndarray
    apix: float

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.headers[0].shape[2], self.headers[0].shape[1]

    def open(self, entry: int) -> np.ndarray:
        """One image, mapped; (height, width) in the type of the file."""
        header = self.headers[entry]
        return np.memmap(header.path, header.dtype, "r", header.offset, header.shape)[self.sections[entry]]


def find_images(series: TiltSeries, folder: Path | None = None, apix: float | None = None) -> TiltImages:
    """Find the images of a series.

    Looked for are, in this order: a stack named for the series in `folder`; the images that the metadata name, beside
    them or in folders above; for WARP's movies the averages of the same name, in `folder` or in `average`; WARP's
    stacks in `tiltstack`.

    Parameters
    ----------
    series
        The series.
    folder
        Where images are.
    apix
        Their pixel size, Å; None takes the headers', or the series' where these tell none.

    Raises
    ------
    UserError
        Nothing is found, or what is found has other sections or sizes.
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
                f"{stack}: has {count} sections, but {series.source} tells of {len(series)} tilts, {len(used)} of them "
                "used; give the stack that belongs to it."
            )
        places = used.tolist() if count == len(series) else list(range(count))
        return TiltImages((header,) * len(used), tuple(places), used, _apix(series, header, apix))
    if not series.images:
        raise UserError(f"{series.source}: names no images of {series.name}; give their folder with --images.")
    headers: list[MrcHeader] = []
    sections: list[int] = []
    for tilt in used:
        image = series.images[tilt]
        header = read_header(_single(series, image.name, folder))
        if image.section >= header.shape[0]:
            raise UserError(
                f"{header.path}: has {header.shape[0]} sections, but tilt {tilt + 1} is {image.section + 1}."
            )
        headers.append(header)
        sections.append(image.section)
        if header.shape[1:] != headers[0].shape[1:]:
            raise UserError(f"{header.path}: has another size than {headers[0].path}; give images of one size.")
    return TiltImages(tuple(headers), tuple(sections), used, _apix(series, headers[0], apix))


def _sections(series: TiltSeries, raw: RawStack, header: MrcHeader) -> np.ndarray:
    """Return the sections of all tilts in the raw stack.

    Raises
    ------
    UserError
        The stack is another one.
    """
    wanted = int(raw.sections.max()) + 1 if raw.size is None else raw.size[2]
    count = header.shape[0]
    if count < wanted or (raw.size is not None and count != wanted):
        raise UserError(
            f"{header.path}: has {count} sections, but {series.source} counts those of a raw stack of {wanted}; give "
            "the folder of that stack with --images."
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
        raise UserError(f"{str(error).split(';')[0]}; give the folder of the images with --images.") from error


def _apix(series: TiltSeries, header: MrcHeader, asked: float | None) -> float:
    told = header.apix
    if told is not None and abs(told - 1.0) < 1e-6 and series.apix is not None:
        # many programs write 1 Å where they do not know
        told = None
    apix = asked or told or series.apix
    if apix is None:
        raise UserError(f"{header.path}: its header tells no pixel size; give it with --image-apix.")
    return apix


def image_statistics(image: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of the finite values of evenly spaced rows; a deviation of 0 becomes 1."""
    step = max(1, image.shape[0] // STATISTICS_ROWS)
    rows = np.asarray(image[::step], dtype=np.float32)
    rows = rows[np.isfinite(rows)]
    if not rows.size:
        return 0.0, 1.0
    return float(rows.mean(dtype=np.float64)), float(rows.std(dtype=np.float64)) or 1.0


def cut_patches(image: np.ndarray, corners: np.ndarray, side: int, *, keep_scale: bool) -> Iterator[np.ndarray]:
    """Square parts of an image, less its mean and divided by its deviation; 0 outside of it and where not finite.

    Parameters
    ----------
    image
        (height, width).
    corners
        (N, 2) first pixel x, y of each part; may lie outside.
    side
        Pixels.
    keep_scale
        Do not divide.

    Yields
    ------
    (side, side) float32.
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
