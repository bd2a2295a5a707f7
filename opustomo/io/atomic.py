"""Atomic writing: files, folders, tables and figures appear complete or not at all."""

from __future__ import annotations

import csv
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Provide a temporary path to write to, which is renamed to `path` when the block succeeds.

    The temporary path is in the folder of `path`, so that the file system stays the same, and has the same suffix,
    because some writers depend on it. Missing parent folders are created. The block may create a file or a folder at
    the temporary path. An existing file at `path` is replaced, an existing folder only if it is empty.

    Parameters
    ----------
    path
        Final path.

    Yields
    ------
    Path
        Temporary path. Its content is removed if the block raises.

    Raises
    ------
    OSError
        The error of the block, which always names the final path (errors of a full disk name no file).
    """
    final = Path(path)
    if not final.name:  # for example an empty string
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(final))
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.stem[:60]}.{secrets.token_hex(6)}.tmp{final.suffix}")
    try:
        yield temporary
        os.replace(temporary, final)
    except BaseException as error:
        if temporary.is_dir() and not temporary.is_symlink():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            _name_final(error, temporary, final)
        raise


def _name_final(error: OSError, temporary: Path, final: Path) -> None:
    """Replace the temporary path in an error by the final one, also for files in a temporary folder."""
    if error.errno is None:
        # Some writers, such as NumPy's, only report how much they have written.
        message = " ".join(str(error).split())
        error.errno, error.strerror = errno.EIO, f"it cannot be written completely ({message})"
        error.filename = None
    for field in ("filename", "filename2"):
        named = getattr(error, field)
        if isinstance(named, (str, os.PathLike)) and (Path(named) == temporary or temporary in Path(named).parents):
            setattr(error, field, str(final / Path(named).relative_to(temporary)))
    if error.filename is None:
        error.filename = str(final)


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove temporary files of interrupted writes from a folder (not from its subfolders).

    Use this function only if no other program is writing to the folder.

    Returns
    -------
    list of Path
        Removed files.
    """
    pattern = re.compile(r"\..+\.[0-9a-f]{12}\.tmp(\.\w+)?")
    found = [path for path in folder.iterdir() if pattern.fullmatch(path.name) and path.is_file()]
    for path in found:
        path.unlink(missing_ok=True)
    return found


def write_csv(path: str | os.PathLike[str], rows: Iterable[Sequence[object]]) -> None:
    """Write rows as comma-separated values; the first row contains the names of the columns."""
    with atomic_path(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def write_figure(path: Path, figure: Figure, dpi: float) -> None:
    """Write a Matplotlib figure in the format of the suffix of `path`."""
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=dpi)
