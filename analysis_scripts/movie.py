"""Play a series of volumes in ChimeraX: ``ChimeraX --script "movie.py reference 0.985"``.

ChimeraX runs this file with its own Python interpreter, so it does not import opustomo. The script plays the volumes
``reference0.mrc``, ``reference1.mrc``, … in the working directory of ChimeraX, or those of a prefix with a path such
as ``run/analyze.29/pc1/reference``, at the given contour level.

The contour level is a density, or a number of standard deviations above the mean such as ``3sd``.
"""

from __future__ import annotations

import glob
import os
import re
import sys

USAGE = 'usage: ChimeraX --script "movie.py PREFIX LEVEL", for example "movie.py reference 0.985"'


def series(prefix: str) -> list[str]:
    """Return the existing paths ``{prefix}{number}.mrc``, sorted by number."""
    pattern = re.compile(re.escape(os.path.basename(prefix)) + r"(\d+)\.mrc")
    numbered_paths = []
    for path in glob.glob(glob.escape(prefix) + "*.mrc"):
        match = pattern.fullmatch(os.path.basename(path))
        if match:
            numbered_paths.append((int(match[1]), path))
    return [path for _, path in sorted(numbered_paths)]


def level_words(text: str) -> str:
    """Return the option of the ChimeraX command ``volume`` for a contour level such as ``0.985`` or ``3sd``.

    Raises
    ------
    ValueError
        If `text` is not a contour level.
    """
    if text.endswith("sd"):
        return f"sdLevel {float(text[:-2]):g}"
    return f"level {float(text):g}"


def commands(paths: list[str], level: str, number: int = 1) -> list[str]:
    """Return the ChimeraX commands that open the volumes as model `number` and play them."""
    model = f"#{number}"
    names = " ".join(f'"{path}"' for path in paths)
    return [
        f"open {names} vseries true id {number}",
        f"volume {model} style surface step 1 {level_words(level)}",
        f"view {model}",
        f"vseries play {model} direction oscillate loop true maxFrameRate 5",
    ]


def main(session: object, words: list[str]) -> None:
    """Play the series given by the arguments `words` in a ChimeraX session.

    Raises
    ------
    chimerax.core.errors.UserError
        If the arguments are invalid or there are no such volumes.
    """
    from chimerax.core.commands import run  # type: ignore[import-not-found]
    from chimerax.core.errors import UserError  # type: ignore[import-not-found]

    if len(words) != 2:
        raise UserError(USAGE)
    prefix, level = words
    paths = series(prefix)
    if not paths:
        raise UserError(
            f"There are no volumes {prefix}0.mrc, {prefix}1.mrc, … in {os.getcwd()}. Start ChimeraX in their folder."
        )
    try:
        level_words(level)
    except ValueError:
        raise UserError(f"{level!r} is not a contour level. Give a density such as 0.985, or 3sd. {USAGE}") from None
    used_numbers = [model.id[0] for model in session.models.list() if model.id]  # type: ignore[attr-defined]
    for line in commands(paths, level, max(used_numbers, default=0) + 1):
        run(session, line)


if "session" in globals():  # ChimeraX passes its session to scripts under this name
    main(globals()["session"], sys.argv[1:])
