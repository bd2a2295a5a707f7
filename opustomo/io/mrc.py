"""Volumes in MRC files."""

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

_MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_HEADERS = {order: HEADER_DTYPE.newbyteorder(order) for order in "<>"}
_WRITABLE = {np.dtype(code) for code in _MODES.values()}


@dataclass(frozen=True)
class MrcHeader:
    """What a reader needs to know before it touches the voxels.

    Attributes
    ----------
    path
        The file.
    shape
        Number of voxels along (z, y, x).
    apix
        Voxel size along x in Å; None when the header holds none.
    dtype
        Type of a voxel in the file, byte order included.
    offset
        Bytes before the first voxel.
    """

    path: Path
    shape: tuple[int, int, int]
    apix: float | None
    dtype: np.dtype
    offset: int


def read_header(path: str | os.PathLike[str]) -> MrcHeader:
    """Read the header of an MRC volume and check that the file is complete.

    Modes 0, 1, 2, 6 and 12 in either byte order are read; a missing machine stamp or "MAP " identifier, as
    older programs leave it, is tolerated.

    Raises
    ------
    UserError
        The file is missing, no MRC file, truncated, of complex or packed mode, or its axes are permuted.
    """
    path = Path(path)
    try:
        with path.open("rb") as handle:
            raw = handle.read(HEADER_DTYPE.itemsize)
            size = os.fstat(handle.fileno()).st_size
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError(f"{path}: no such MRC file; check the path.") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions.") from error
    if raw[:2] in (b"\x1f\x8b", b"BZ"):
        raise UserError(f"{path}: compressed; unpack it with gunzip or bunzip2.")
    if len(raw) < HEADER_DTYPE.itemsize:
        raise UserError(f"{path}: not a readable MRC file ({len(raw)} bytes are no header); export it again.")
    byte_order = _byte_order(raw)
    header = np.frombuffer(raw, dtype=_HEADERS[byte_order])[0]
    mode = int(header["mode"])
    if mode not in _MODES:
        raise UserError(f"{path}: MRC mode {mode} is not supported; convert it to mode 2 (float32) or 12 (float16).")
    shape = (int(header["nz"]), int(header["ny"]), int(header["nx"]))
    axes = (int(header["mapc"]), int(header["mapr"]), int(header["maps"]))
    if axes not in ((1, 2, 3), (0, 0, 0)):
        raise UserError(
            f"{path}: its axes are stored in the order {axes}; convert it to the order (1, 2, 3) = x, y, z."
        )
    dtype = np.dtype(byte_order + _MODES[mode])
    offset = 1024 + int(header["nsymbt"])
    needed = offset + math.prod(shape) * dtype.itemsize
    if min(shape) < 1 or int(header["nsymbt"]) < 0:
        raise UserError(f"{path}: its header gives an impossible size {shape}; export it again.")
    if size < needed:
        raise UserError(f"{path}: truncated, {size} bytes instead of {needed}; copy or export it again.")
    intervals = int(header["mx"]) or shape[2]
    apix = float(header["cella"]["x"]) / intervals
    return MrcHeader(path, shape, apix if math.isfinite(apix) and apix > 0 else None, dtype, offset)


def read_volume(path: str | os.PathLike[str]) -> tuple[npt.NDArray[np.float32], float | None]:
    """Read a volume.

    Returns
    -------
    volume
        float32 array (z, y, x).
    apix
        Voxel size in Å; None when the header holds none.

    Raises
    ------
    UserError
        As `read_header`.
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
    """Write a volume as MRC2014.

    Parameters
    ----------
    path
        The file; it appears complete or not at all.
    array
        Volume (z, y, x). int8, int16, uint16, float16 and float32 keep their type, all others become float32.
    apix
        Voxel size in Å.
    origin_A
        Place x, y, z of the first voxel in Å, where viewers such as ChimeraX draw it.
    """
    volume = np.asarray(array)
    if volume.ndim != 3 or not volume.size:
        raise ValueError(f"a volume has three axes and at least one voxel, not the shape {volume.shape}")
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
        # mrcfile.validate takes the deviation of float16 in float16, where squares overflow or vanish; in
        # MRC2014 a negative one means "not determined"
        if not np.isclose(checked, handle.header.rms, rtol=0.01):
            handle.header.rms = -1


def _byte_order(header: bytes) -> str:
    """Tell the byte order by the axis sizes, which no sensible file has above 65535.

    The machine stamp may be zero or wrong; sizes and mode read in the wrong order are huge.
    """
    little, big = struct.unpack_from("<4I", header), struct.unpack_from(">4I", header)
    return "<" if max(little) <= max(big) else ">"
