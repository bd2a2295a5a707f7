"""MRC files: headers, and reading and writing of volumes."""

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
import numpy.typing as npt
from mrcfile.dtypes import HEADER_DTYPE

from opustomo.errors import UserError
from opustomo.io.atomic import atomic_path
from opustomo.io.host_memory import require_memory

APIX_TOLERANCE = 0.01
"""Maximum relative difference of pixel sizes."""

_MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_FIELDS = {order: struct.Struct(order + "4i12xi8xf20x3i16xi") for order in "<>"}
"""Fields nx, ny, nz, mode, mx, cella.x, mapc, mapr, maps and nsymbt of a header; NumPy takes five times as long."""
_DTYPES = {(order, mode): np.dtype(order + code) for order in "<>" for mode, code in _MODES.items()}
_WRITABLE = {np.dtype(code) for code in _MODES.values()}


@dataclass(frozen=True)
class MrcHeader:
    """Header of an MRC file.

    Attributes
    ----------
    path
        The file.
    shape
        Number of voxels along (z, y, x).
    apix
        Voxel size along x in Å; None if the header has none.
    dtype
        Data type of a voxel in the file, including the byte order.
    offset
        Number of bytes before the first voxel.
    """

    path: Path
    shape: tuple[int, int, int]
    apix: float | None
    dtype: np.dtype
    offset: int


def read_header(path: str | os.PathLike[str]) -> MrcHeader:
    """Read the header of an MRC volume and check that the file is complete.

    Modes 0, 1, 2, 6 and 12 in either byte order are supported. Files of older programs without a machine stamp or
    "MAP " identifier are accepted.

    Raises
    ------
    UserError
        The file is missing, not an MRC file, truncated or of a complex or packed mode, or its axes are permuted.
    """
    path = path if isinstance(path, Path) else Path(path)
    try:
        with open(path, "rb", buffering=0) as handle:
            raw = handle.read(HEADER_DTYPE.itemsize)
            size = os.fstat(handle.fileno()).st_size
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError(f"{path}: the MRC file does not exist. Check the path.") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Check its permissions.") from error
    if raw[:2] in (b"\x1f\x8b", b"BZ"):
        raise UserError(f"{path}: the file is compressed. Unpack it with gunzip or bunzip2.")
    if len(raw) < HEADER_DTYPE.itemsize:
        raise UserError(f"{path}: not an MRC file ({len(raw)} bytes are shorter than a header). Export it again.")
    byte_order = _byte_order(raw)
    nx, ny, nz, mode, mx, cell_x, mapc, mapr, maps, extended = _FIELDS[byte_order].unpack_from(raw)
    if mode not in _MODES:
        raise UserError(f"{path}: MRC mode {mode} is not supported. Convert it to mode 2 (float32) or 12 (float16).")
    shape, axes = (nz, ny, nx), (mapc, mapr, maps)
    if axes not in ((1, 2, 3), (0, 0, 0)):
        raise UserError(
            f"{path}: the axes are stored in the order {axes}. Convert the file to the order (1, 2, 3) = x, y, z."
        )
    dtype = _DTYPES[byte_order, mode]
    offset = 1024 + extended
    needed = offset + math.prod(shape) * dtype.itemsize
    if min(shape) < 1 or extended < 0:
        raise UserError(f"{path}: the header has an impossible size {shape}. Export the file again.")
    if size < needed:
        raise UserError(
            f"{path}: the file is truncated, it has {size} bytes instead of {needed}. Copy or export it again."
        )
    apix = cell_x / (mx or nx)
    return MrcHeader(path, shape, apix if math.isfinite(apix) and apix > 0 else None, dtype, offset)


def read_volume(path: str | os.PathLike[str]) -> tuple[npt.NDArray[np.float32], float | None]:
    """Read a volume.

    Returns
    -------
    volume
        float32 array (z, y, x).
    apix
        Voxel size in Å; None if the header has none.

    Raises
    ------
    UserError
        As in `read_header`, or the memory does not suffice.
    """
    header = read_header(path)
    count = math.prod(header.shape)
    size = "×".join(str(n) for n in reversed(header.shape))
    require_memory(count * (header.dtype.itemsize + 4), f"{path}: a volume of {size} voxels", "bin or crop it first")
    voxels = np.fromfile(header.path, dtype=header.dtype, count=count, offset=header.offset)
    return voxels.reshape(header.shape).astype(np.float32), header.apix


def write_volume(
    path: str | os.PathLike[str],
    array: npt.ArrayLike,
    apix: float,
    origin_A: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> None:
    """Write a volume in MRC2014 format, atomically.

    Parameters
    ----------
    path
        Output file.
    array
        Volume (z, y, x). int8, int16, uint16, float16 and float32 keep their type, all others become float32.
    apix
        Voxel size in Å.
    origin_A
        Position x, y, z in Å at which viewers such as ChimeraX draw the first voxel.
    """
    volume = np.asarray(array)
    if volume.ndim != 3 or not volume.size:
        raise ValueError(f"a volume must have three axes and at least one voxel, not the shape {volume.shape}")
    if not (np.isfinite(apix) and apix > 0):
        raise ValueError(f"the voxel size must be positive, not {apix}")
    native = volume.dtype.newbyteorder("=")
    volume = np.ascontiguousarray(volume, dtype=native if native in _WRITABLE else np.float32)
    with atomic_path(path) as temporary, mrcfile.new(temporary) as handle:
        handle.set_data(volume)
        handle.set_volume()
        handle.voxel_size = float(apix)
        handle.header.origin.x, handle.header.origin.y, handle.header.origin.z = origin_A
        with np.errstate(all="ignore"):
            checked = volume.std()
        # mrcfile.validate computes the standard deviation of float16 data in float16, where squares overflow or
        # vanish. In MRC2014 a negative value means "not determined".
        if not np.isclose(checked, handle.header.rms, rtol=0.01):
            handle.header.rms = -1


def _byte_order(header: bytes) -> str:
    """Return the byte order for which the axis sizes are plausible.

    The machine stamp may be zero or wrong, but sizes that are read in the wrong byte order exceed 65535.
    """
    little, big = struct.unpack_from("<4I", header), struct.unpack_from(">4I", header)
    return "<" if max(little) <= max(big) else ">"


def pixel_sizes_differ(stated: float | None, used: float) -> bool:
    """Return whether the pixel size stated in a file differs from the one used by more than 1 %."""
    return stated is not None and abs(stated / used - 1.0) > APIX_TOLERANCE
