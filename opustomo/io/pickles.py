"""Pickles and torch files from strangers, read without running anything in them.

A pickle is a program. Only the few constructors that arrays, tensors, dates and plain containers need are
admitted; a file that names anything else is refused before the name is looked up.
"""

import collections
import contextlib
import datetime
import io
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy._core import multiarray, numeric

from opustomo.errors import UserError
from opustomo.io.atomic import atomic_path
from opustomo.io.checksum import seal, verify

_TORCH_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


class _Constructors:
    """Python functions that pickles may call, handed out as bound methods.

    Pickles can set attributes on whatever they are given; on a bound method they cannot.
    """

    def array_from_buffer(self, *args: Any) -> Any:
        return numeric._frombuffer(*args)  # type: ignore[attr-defined]

    def storage_from_bytes(self, data: bytes) -> Any:
        import torch

        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)

    def tensor(self, *args: Any) -> Any:
        import torch

        return torch._utils._rebuild_tensor_v2(*args)

    def parameter(self, *args: Any) -> Any:
        import torch

        return torch._utils._rebuild_parameter(*args)

    def encode(self, text: str, encoding: str = "latin1") -> bytes:
        if encoding not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError(f"encoding {encoding}")
        return text.encode("latin1")


_CONSTRUCTORS = _Constructors()


def _allowed() -> dict[tuple[str, str], Any]:
    names: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("datetime", "datetime"): datetime.datetime,
        ("datetime", "date"): datetime.date,
        ("datetime", "time"): datetime.time,
        ("datetime", "timedelta"): datetime.timedelta,
        ("datetime", "timezone"): datetime.timezone,
        ("collections", "OrderedDict"): collections.OrderedDict,
        # protocols 0 to 2 write bytes as text to be encoded again
        ("_codecs", "encode"): _CONSTRUCTORS.encode,
        ("torch._utils", "_rebuild_tensor_v2"): _CONSTRUCTORS.tensor,
        ("torch._utils", "_rebuild_parameter"): _CONSTRUCTORS.parameter,
        ("torch.storage", "_load_from_bytes"): _CONSTRUCTORS.storage_from_bytes,
    }
    for module in ("numpy.core", "numpy._core"):
        names[f"{module}.multiarray", "_reconstruct"] = multiarray._reconstruct
        names[f"{module}.multiarray", "scalar"] = multiarray.scalar
        names[f"{module}.numeric", "_frombuffer"] = _CONSTRUCTORS.array_from_buffer
    names["__builtin__", "xrange"] = range
    for module in ("builtins", "__builtin__"):
        for kind in (set, frozenset, complex, bytearray, slice, range, bytes, list, tuple, dict):
            names[module, kind.__name__] = kind
    return names


_ALLOWED = _allowed()


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is neither array nor container") from None


def _unpickle(path: Path, handle: BinaryIO) -> Any:
    try:
        return _RestrictedUnpickler(handle).load()
    except Exception as error:  # a crafted or damaged pickle may raise anything
        reason = " ".join(str(error).split())  # some span several lines
        raise UserError(
            f"{path}: refused as a pickle of arrays and plain containers ({reason}); use another file."
        ) from error


def _existing(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; check the path.")
    return path


def load_pickle(path: str | os.PathLike[str]) -> Any:
    """Read the first object of a pickle file.

    Admitted are numpy arrays and scalars, torch tensors, dates and times, and plain containers.

    Raises
    ------
    UserError
        The file is missing, damaged or holds anything else; nothing in it was run.
    """
    path = _existing(path)
    verify(path)
    with path.open("rb") as handle:
        return _unpickle(path, handle)


def load_pickles(path: str | os.PathLike[str]) -> list[Any]:
    """Read all objects of a file that holds several pickles in a row, as `config.pkl` does.

    Raises
    ------
    UserError
        As `load_pickle`.
    """
    path = _existing(path)
    objects: list[Any] = []
    size = verify(path)
    with path.open("rb") as handle:
        while handle.tell() < size or not objects:
            objects.append(_unpickle(path, handle))
    return objects


def dump_pickle(path: str | os.PathLike[str], obj: Any) -> None:
    """Write one object as a pickle with a checksum, atomically."""
    dump_pickles(path, obj)


def dump_pickles(path: str | os.PathLike[str], *objects: Any) -> None:
    """Write several objects as pickles in a row, followed by a checksum, atomically."""
    with atomic_path(path) as temporary:
        with temporary.open("wb") as handle:
            for obj in objects:
                pickle.dump(obj, handle, protocol=4)
        seal(temporary)


@contextlib.contextmanager
def _numpy_in_torch_files() -> Iterator[None]:
    """Let `torch.load(weights_only=True)` admit numpy arrays and dates as well."""
    import torch

    arrays: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        np.ndarray,
        np.dtype,
        datetime.datetime,
        datetime.date,
        datetime.timedelta,
    ]
    arrays += [kind for kind in vars(np.dtypes).values() if isinstance(kind, type)]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        arrays.append((multiarray._reconstruct, f"{module}._reconstruct"))
        arrays.append((multiarray.scalar, f"{module}.scalar"))
    with torch.serialization.safe_globals(arrays):
        yield


def load_torch(path: str | os.PathLike[str]) -> Any:
    """Read a file written by `torch.save`, onto the CPU; plain pickles are read as by `load_pickle`.

    Raises
    ------
    UserError
        The file is missing, damaged or holds more than tensors, arrays, dates and plain containers.
    """
    path = _existing(path)
    archive = _is_archive(path)
    if not archive and not _is_legacy_torch(path):
        return load_pickle(path)
    verify(path, archive)
    import torch

    try:
        with _numpy_in_torch_files():
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # its own message advises to switch the protection off
        raise UserError(
            f"{path}: refused as a torch file, it is damaged or holds more than tensors, arrays and plain "
            "containers; use another file."
        ) from error


def _is_archive(path: Path) -> bool:
    """Return whether a file is a zip archive, be it a damaged one."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return True


def _is_legacy_torch(path: Path) -> bool:
    """Tell whether torch wrote the file before its zip format: it begins with a pickled magic number."""
    with path.open("rb") as handle:
        try:
            return bool(_RestrictedUnpickler(handle).load() == _TORCH_LEGACY_MAGIC)
        except Exception:
            return False


def dump_torch(path: str | os.PathLike[str], obj: Any) -> None:
    """Write one object with `torch.save` and a checksum, atomically.

    Raises
    ------
    OSError
        The disk is full or fails; what was at `path` before is still there.
    """
    import torch

    with atomic_path(path) as temporary:
        with temporary.open("wb") as handle:
            try:
                torch.save(obj, handle)
            except RuntimeError as error:  # torch hides what the system said
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
        seal(temporary, archive=True)
        with temporary.open("rb") as handle:
            # network file systems tell of a full disk or quota only here, and the old file must not go before
            os.fsync(handle.fileno())
