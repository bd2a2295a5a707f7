"""Checksums at the end of files: a file that was damaged after it was written is refused.

The last bytes of a file hold the SHA-256 digest of all bytes before them. Readers of pickles and of torch files stop
before these bytes (in a torch file, which is a zip archive, they are the comment of the archive), so that other
programs read the files as before.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path
from typing import BinaryIO

from opustomo.errors import UserError

_START, _END = b"\nopustomo-sha256:", b":opustomo\n"
SEAL_LENGTH = len(_START) + 64 + len(_END)
"""Bytes that a checksum adds to a file."""
_BLOCK = 2**20


def seal(path: Path, archive: bool = False) -> None:
    """Append a checksum to a file that has none; as a comment if the file is a zip archive without one."""
    with path.open("r+b") as handle:
        if archive:  # its last bytes are the length of the comment
            handle.seek(-2, os.SEEK_END)
            handle.write(SEAL_LENGTH.to_bytes(2, "little"))
        size = handle.seek(0, os.SEEK_END)
        digest = _digest(handle, size)
        handle.seek(0, os.SEEK_END)
        handle.write(_START + digest + _END)


def verify(path: Path, archive: bool = False) -> int:
    """Return the number of bytes before the checksum; a file without a checksum is content to its end.

    A zip archive without a checksum is compared with the check values of its members.

    Raises
    ------
    UserError
        The content is not what was written.
    """
    size = path.stat().st_size
    with path.open("rb") as handle:
        handle.seek(max(0, size - SEAL_LENGTH))
        last = handle.read()
        if not last.startswith(_START) and not last.endswith(_END):  # one flipped bit cannot hide both
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
    """Return whether the members of a zip archive have their check values; compressed ones are not read."""
    try:
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                return True
            return archive.testzip() is None
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, RuntimeError, ValueError):
        return False


def _damaged(path: Path) -> UserError:
    return UserError(
        f"{path}: the content does not match its checksum, so the file was damaged after it was written; "
        "restore it from a copy or use the file of another epoch"
    )
