"""Tomograms by name, as different programs write them: with folders of either kind and chains of suffixes."""

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from opustomo.errors import UserError

# WARP appends _{pixel size}Apx, and .mrc again, to the name of what it reconstructs
_SUFFIX = re.compile(
    r"(?:\.(?:tomostar|mrcs?|rec|map|em|st|ali|hdf|xml)|_\d+(?:\.\d+)?Apx|_\d+\.\d\dA)$", re.IGNORECASE
)


def base_name(text: str) -> str:
    """Last part of a path of Unix or Windows."""
    return re.split(r"[\\/]", text.rstrip("\\/"))[-1]


def tomogram_stem(text: str) -> str:
    """Name without folders and known suffixes: `F:\\x\\TS_01.mrc_15.00Apx.mrc` gives `TS_01`."""
    name = base_name(text)
    while (shorter := _SUFFIX.sub("", name)) not in (name, ""):
        name = shorter
    return name


def rows_of_tomogram(names: Sequence[str], wanted: str, source: object) -> npt.NDArray[np.int64]:
    """Rows that belong to exactly one tomogram.

    A row matches when its whole name is the one wanted; if none does, when the name without folders is; if none
    does, when the name without folders and suffixes is. `TS_1` never matches `TS_10`.

    Raises
    ------
    UserError
        No row matches, or tomograms of several folders do.
    """
    distinct = list(dict.fromkeys(names))
    for shorten in (str, base_name, tomogram_stem):
        target = shorten(wanted)
        found = [name for name in distinct if shorten(name) == target]
        if len({name[: len(name) - len(base_name(name))] for name in found}) > 1:
            raise UserError(
                f"{source}: {wanted!r} fits several tomograms, {', '.join(found[:3])}; give the whole name of one."
            )
        if found:
            chosen = set(found)
            return np.flatnonzero([name in chosen for name in names])
    some = ", ".join(distinct[:5]) + (" …" if len(distinct) > 5 else "")
    raise UserError(f"{source}: no particle is of the tomogram {wanted!r}; it holds {len(distinct)}: {some}.")
