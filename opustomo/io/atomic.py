"""Files and folders that appear complete or not at all."""

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name to write to; it becomes `path` when the block ends well.

    The temporary name lies in the folder of `path`, so that the renaming stays within one file system, and
    keeps its suffix, because some writers look at it. Missing parent folders are made. The block may make a
    file or a folder under the temporary name; an existing file at `path` is replaced, a folder only if it is
    empty.

    Parameters
    ----------
    path
        The final name.

    Yields
    ------
    Path
        The temporary name. Whatever lies there is removed when the block raises.

    Raises
    ------
    OSError
        As the block raises it, but always with the final name (a write to a full disk names no file).
    """
    final = Path(path)
    if not final.name:  # such as an empty text
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
    """Let an error name the file that was asked for, also where it names one inside a temporary folder."""
    if error.errno is None:
        # some writers, such as numpy's, only say how much they have written
        said = " ".join(str(error).split())
        error.errno, error.strerror = errno.EIO, f"it cannot be written completely ({said})"
        error.filename = None
    for field in ("filename", "filename2"):
        named = getattr(error, field)
        if isinstance(named, (str, os.PathLike)) and (Path(named) == temporary or temporary in Path(named).parents):
            setattr(error, field, str(final / Path(named).relative_to(temporary)))
    if error.filename is None:
        error.filename = str(final)


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove what programs that were killed in the middle of a write left in a folder (not below it).

    Only for a folder that no other program writes to at the moment.

    Returns
    -------
    list of Path
        What was removed.
    """
    pattern = re.compile(r"\..+\.[0-9a-f]{12}\.tmp(\.\w+)?")
    found = [path for path in folder.iterdir() if pattern.fullmatch(path.name) and path.is_file()]
    for path in found:
        path.unlink(missing_ok=True)
    return found
