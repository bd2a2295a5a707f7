"""Paths of the subtomograms and CTF tables of a particle table."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from opustomo.errors import UserError
from opustomo.io.star_tables import ParticleStar

_PROJECT_DEPTH = 3
"""Number of folders above a table that are tried as the folder of a RELION project, as for Refine3D/job010/."""


def resolve_images(star: ParticleStar, datadir: str | os.PathLike[str] | None) -> list[Path]:
    """Find the subtomogram of every particle.

    Files are searched for as `{datadir}/{rlnImageName}`, `{datadir}/{basename}`, relative to the STAR file, and
    relative to the folders above it, in this order; the first two only with `datadir`. The last ones are for tables of
    RELION, whose names are relative to the folder of the project. Windows paths are accepted.

    Parameters
    ----------
    star
        The particles.
    datadir
        Folder of the subtomograms.

    Returns
    -------
    list of Path
        One existing file per particle.

    Raises
    ------
    UserError
        There is no `rlnImageName`, or files are missing; the message states the first and their number.
    """
    return _resolve(star, star.strings("rlnImageName"), datadir, "subtomograms")


def resolve_ctf_tables(star: ParticleStar, datadir: str | os.PathLike[str] | None, warp: bool) -> list[Path] | None:
    """Find the CTF table of every particle: `rlnCtfImage` with another suffix, searched for as in `resolve_images`.

    Parameters
    ----------
    star
        The particles.
    datadir
        Folder of the subtomograms.
    warp
        True for WARP's `.csv`, False for RELION's `.star`.

    Returns
    -------
    list of Path, or None
        One existing file per particle; None if the STAR file has no `rlnCtfImage`.

    Raises
    ------
    UserError
        Files are missing; the message states the first and their number.
    """
    if "rlnCtfImage" not in star:
        return None
    try:
        return _resolve(star, _ctf_names(star, warp), datadir, "CTF tables")
    except UserError:
        volume = find_ctf_volume(star, datadir, warp)
        if volume is None:
            raise
        table = volume.with_suffix(".csv" if warp else ".star").name
        raise UserError(
            f"{volume}: a 3D CTF volume of RELION contains no tilt angles. Put a table of tilts {table} beside each "
            "volume, or model the missing wedge alone with --no-ctf and --tilt-range."
        ) from None


def find_ctf_volume(star: ParticleStar, datadir: str | os.PathLike[str] | None, warp: bool) -> Path | None:
    """Find the file ``rlnCtfImage`` of the first particle without a table; None if it does not exist."""
    row = find_ctf_tables(star, datadir, warp).index(None)
    return _find(star, [star.strings("rlnCtfImage")[row]], datadir)[0]


def find_images(star: ParticleStar, datadir: str | os.PathLike[str] | None) -> list[Path | None]:
    """Find existing subtomograms as in `resolve_images`; None for each missing one."""
    return _find(star, star.strings("rlnImageName"), datadir)


def find_ctf_tables(star: ParticleStar, datadir: str | os.PathLike[str] | None, warp: bool) -> list[Path | None]:
    """Find existing CTF tables as in `resolve_ctf_tables`; None for each missing one."""
    return _find(star, _ctf_names(star, warp), datadir)


def _ctf_names(star: ParticleStar, warp: bool) -> list[str]:
    suffix = ".csv" if warp else ".star"
    return [_with_suffix(name, suffix) for name in star.strings("rlnCtfImage")]


def _with_suffix(name: str, suffix: str) -> str:
    old = PureWindowsPath(name).suffix
    return (name[: -len(old)] if old else name) + suffix


def _find(star: ParticleStar, names: list[str], datadir: str | os.PathLike[str] | None) -> list[Path | None]:
    # Many particles may share one table.
    places: dict[str, Path | None] = {}
    folder = str(_folder(star) if datadir is None else datadir)
    for name in names:
        if name in places:
            continue
        first = os.path.join(folder, name)  # the usual place; pathlib is slower
        if os.path.isfile(first) and not name.startswith("/"):
            places[name] = Path(first)
        else:
            candidates = _candidates(name, None if datadir is None else Path(datadir), _folder(star))
            places[name] = next((path for path in candidates if path.is_file()), None)
    return [places[name] for name in names]


def _resolve(star: ParticleStar, names: list[str], datadir: str | os.PathLike[str] | None, kind: str) -> list[Path]:
    found = _find(star, names, datadir)
    paths = [path for path in found if path is not None]
    if len(paths) < len(names):
        row = found.index(None)
        beside_star = _folder(star)
        searched = f"{datadir} and {beside_star}" if datadir is not None else f"{beside_star}"
        source = star.path if star.path is not None else "the particle table"
        raise UserError(
            f"{source}: {len(names) - len(paths)} of {len(names)} {kind} are missing, the first is "
            f"{names[row]} (row {row + 1}), which is not in {searched}. Give their folder with --datadir."
        )
    return paths


def folders_above(folder: Path) -> list[Path]:
    """Return the folders above a folder that may be that of a RELION project, the nearest first."""
    parents = list(folder.resolve().parents)[:_PROJECT_DEPTH]
    here = Path.cwd()
    return [parent.relative_to(here) if parent.is_relative_to(here) else parent for parent in parents]


def _folder(star: ParticleStar) -> Path:
    return star.path.parent if star.path is not None else Path()


def _candidates(name: str, datadir: Path | None, beside_star: Path) -> Iterator[Path]:
    relative = PurePosixPath(name)
    windows = PureWindowsPath(name)
    if datadir is not None:
        # An absolute path would replace the folder when joined.
        yield datadir / str(relative).lstrip("/")
        yield datadir / relative.name
        yield datadir / windows.name
    yield beside_star / relative
    if not windows.is_absolute():
        yield beside_star / windows.as_posix()
        yield from (folder / relative for folder in folders_above(beside_star))
