"""Pickles and torch files, read without executing code in them and protected by checksums.

Files end with a checksum, so a file that was damaged after writing is refused. A small pickle can request gigabytes;
constructors therefore allocate no more than the file can fill (:mod:`opustomo.io.pickle_constructors`).
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import io
import os
import pickle
import secrets
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from opustomo.errors import UserError
from opustomo.io.atomic import atomic_path
from opustomo.io.host_memory import available_bytes, memory_error_message
from opustomo.io.pickle_constructors import HELD_BY_PICKLES, Constructors, TooLargeError, tensor_bytes

_START, _END = b"\nopustomo-sha256:", b":opustomo\n"
SEAL_LENGTH = len(_START) + 64 + len(_END)
"""Length of a checksum in bytes."""
_BLOCK = 2**20


def seal(path: Path, archive: bool = False) -> None:
    """Append a checksum to a file that has none. In a zip archive, which must have no comment, it is the comment."""
    with path.open("r+b") as handle:
        if archive:  # its last bytes are the length of the comment
            handle.seek(-2, os.SEEK_END)
            handle.write(SEAL_LENGTH.to_bytes(2, "little"))
        size = handle.seek(0, os.SEEK_END)
        digest = _digest(handle, size)
        handle.seek(0, os.SEEK_END)
        handle.write(_START + digest + _END)


def verify(path: Path, archive: bool = False) -> int:
    """Verify the checksum of a file and return the number of bytes before it.

    A file without a checksum consists of content only. The members of a zip archive without a checksum are compared
    with their check values.

    Raises
    ------
    UserError
        The content does not match the checksum.
    """
    size = path.stat().st_size
    with path.open("rb") as handle:
        handle.seek(max(0, size - SEAL_LENGTH))
        last = handle.read()
        if not last.startswith(_START) and not last.endswith(_END):  # a single damaged byte cannot change both
            if archive and not _members_are_intact(path):
                raise _damaged(path)
            return size
        digest = _digest(handle, size - SEAL_LENGTH)
    if last != _START + digest + _END:
        raise _damaged(path)
    return size - SEAL_LENGTH


def _digest(handle: BinaryIO, size: int) -> bytes:
    """Return the SHA-256 digest of the first ``size`` bytes as hexadecimal digits."""
    handle.seek(0)
    digest = hashlib.sha256()
    while size > 0 and (block := handle.read(min(size, _BLOCK))):
        digest.update(block)
        size -= len(block)
    return digest.hexdigest().encode()


def _members_are_intact(path: Path) -> bool:
    """Return whether the members of a zip archive match their check values; compressed members are not read."""
    try:
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                return True
            return archive.testzip() is None
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, RuntimeError, ValueError):
        return False


def _damaged(path: Path) -> UserError:
    return UserError(
        f"{path}: the content does not match its checksum, so the file was damaged after it was written. "
        "Restore it from a copy, or use the file of another epoch."
    )


_TORCH_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


class _RestrictedUnpickler(pickle.Unpickler):
    def __init__(self, handle: BinaryIO, size: int) -> None:
        super().__init__(handle)
        self._allowed = Constructors(size, _torch_from_bytes).allowed()

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._allowed[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it contains {module}.{name}, which is neither an array nor a container"
            ) from None


def _unpickle(path: Path, handle: BinaryIO) -> Any:
    size = os.fstat(handle.fileno()).st_size
    try:
        return _RestrictedUnpickler(handle, size).load()
    except Exception as error:  # a crafted or damaged pickle may raise any exception
        if isinstance(error, MemoryError):
            free = available_bytes()
            if free is not None and free < HELD_BY_PICKLES * size:
                raise  # the file is really that large
            error = TooLargeError("it requests more memory than the file can fill")
        reason = " ".join(str(error).split()) or type(error).__name__  # some messages span several lines
        raise UserError(
            f"{path}: refused as a pickle of arrays and plain containers ({reason}). Use another file."
        ) from error


def _existing(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: the file does not exist. Check the path.")
    return path


def load_pickle(path: str | os.PathLike[str]) -> Any:
    """Read the first object of a pickle file.

    NumPy arrays and scalars, torch tensors, dates, times and plain containers are accepted.

    Raises
    ------
    UserError
        The file is missing, damaged or contains anything else; no code in it was executed.
    """
    path = _existing(path)
    verify(path)
    with path.open("rb") as handle:
        return _unpickle(path, handle)


def load_pickles(path: str | os.PathLike[str]) -> list[Any]:
    """Read all objects of a file of several consecutive pickles, such as `config.pkl`.

    Raises
    ------
    UserError
        As in `load_pickle`.
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
    """Write several objects as consecutive pickles, followed by a checksum, atomically."""
    with atomic_path(path) as temporary:
        with temporary.open("wb") as handle:
            for obj in objects:
                pickle.dump(obj, handle, protocol=4)
        seal(temporary)


@contextlib.contextmanager
def _numpy_in_torch_files(size: int) -> Iterator[None]:
    """Let `torch.load(weights_only=True)` accept NumPy arrays and dates too."""
    import torch

    makers = Constructors(size, _torch_from_bytes)
    arrays: list[Any] = [
        # The reader of torch needs the array type to fill arrays, but files must not call it under its own name.
        (np.ndarray, secrets.token_hex()),
        (makers.array_type, "numpy.ndarray"),
        np.dtype,
        datetime.datetime,
        datetime.date,
        datetime.timedelta,
    ]
    arrays += [kind for kind in vars(np.dtypes).values() if isinstance(kind, type)]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        arrays.append((makers.empty_array, f"{module}._reconstruct"))
        arrays.append((makers.scalar, f"{module}.scalar"))
    with torch.serialization.safe_globals(arrays):
        yield


def _torch_from_bytes(data: bytes) -> Any:
    return _load_torch(io.BytesIO(data), len(data))


def _load_torch(source: Path | BinaryIO, size: int) -> Any:
    """Read a torch file of ``size`` bytes whose objects are not larger than its content."""
    import torch

    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            if sum(record.file_size for record in archive.infolist()) > size:
                raise TooLargeError("its records are larger than the file")
    if not isinstance(source, Path):
        source.seek(0)
    with _numpy_in_torch_files(size):
        content = torch.load(source, map_location="cpu", weights_only=True)
    if tensor_bytes(content) > HELD_BY_PICKLES * size:
        raise TooLargeError("its tensors are larger than the file")
    return content


def load_torch(path: str | os.PathLike[str]) -> Any:
    """Read a file written by `torch.save` to the CPU; other pickles are read as by `load_pickle`.

    Raises
    ------
    UserError
        The file is missing, damaged or contains anything but tensors, arrays, dates and plain containers.
    """
    path = _existing(path)
    archive = _is_archive(path)
    if not archive and not _is_legacy_torch(path):
        return load_pickle(path)
    verify(path, archive)
    size = path.stat().st_size
    try:
        return _load_torch(path, size)
    except Exception as error:  # the message of torch advises to disable the protection
        free = available_bytes()
        if memory_error_message(error) is not None and free is not None and free < HELD_BY_PICKLES * size:
            raise  # the file is really that large
        if isinstance(error, TooLargeError) or memory_error_message(error) is not None:
            reason = error if isinstance(error, TooLargeError) else "it requests more memory than it can fill"
            raise UserError(f"{path}: refused as a torch file, because {reason}. Use another file.") from None
        raise UserError(
            f"{path}: refused as a torch file, because it is damaged or contains more than tensors, arrays and plain "
            "containers. Use another file."
        ) from error


def _is_archive(path: Path) -> bool:
    """Return whether a file is a zip archive, possibly a damaged one."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return True


def _is_legacy_torch(path: Path) -> bool:
    """Return whether a file has the format of torch before its zip format, which begins with a pickled number."""
    with path.open("rb") as handle:
        try:
            return bool(_RestrictedUnpickler(handle, path.stat().st_size).load() == _TORCH_LEGACY_MAGIC)
        except Exception:
            return False


def dump_torch(path: str | os.PathLike[str], obj: Any) -> None:
    """Write one object with `torch.save` and a checksum, atomically.

    Raises
    ------
    OSError
        The disk is full or fails; an existing file at `path` is unchanged.
    """
    import torch

    with atomic_path(path) as temporary:
        with temporary.open("wb") as handle:
            try:
                torch.save(obj, handle)
            except RuntimeError as error:  # torch hides the error of the system
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
        seal(temporary, archive=True)
        with temporary.open("rb") as handle:
            # Network file systems report a full disk or quota only here, before the old file is replaced.
            os.fsync(handle.fileno())
