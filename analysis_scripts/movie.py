"""Play a series of volumes in ChimeraX: ``ChimeraX --script "movie.py reference 0.985"``.

ChimeraX runs this file with its own Python, so it needs nothing of opustomo. It takes all volumes named
``reference0.mrc``, ``reference1.mrc``, … in the folder where ChimeraX was started (or give a path such as
``run/analyze.29/pc1/reference``), and plays them at the contour level given.

LEVEL is a density, or a number followed by ``sd``, such as ``3sd``, for standard deviations above the mean.
"""

from __future__ import annotations

import glob
import os
import re
import sys

USAGE = 'usage: ChimeraX --script "movie.py PREFIX LEVEL", for example "movie.py reference 0.985"'


def series(prefix: str) -> list[str]:
    """Paths ``{prefix}{number}.mrc`` by number; empty when there are none."""
    pattern = re.compile(re.escape(os.path.basename(prefix)) + r"(\d+)\.mrc")
    found = []
    for path in glob.glob(glob.escape(prefix) + "*.mrc"):
        match = pattern.fullmatch(os.path.basename(path))
        if match:
            found.append((int(match[1]), path))
    return [path for _, path in sorted(found)]


def level_words(text: str) -> str:
    """Option of ChimeraX's ``volume`` command for a level such as ``0.985`` or ``3sd`` (``ValueError`` otherwise)."""
    if text.endswith("sd"):
        return f"sdLevel {float(text[:-2]):g}"
    return f"level {float(text):g}"


def commands(paths: list[str], level: str, number: int = 1) -> list[str]:
    """ChimeraX commands that open the volumes as the model of that number and play them."""
    model = f"#{number}"
    names = " ".join(f'"{path}"' for path in paths)
    return [
        f"open {names} vseries true id {number}",
        f"volume {model} style surface step 1 {level_words(level)}",
        f"view {model}",
        f"vseries play {model} direction oscillate loop true maxFrameRate 5",
    ]


def main(session: object, words: list[str]) -> None:
    """Run the commands for the words of the command line in a ChimeraX session.

    Raises
    ------
    chimerax.core.errors.UserError
        The words are not understood, or there are no such volumes.
    """
    from chimerax.core.commands import run  # type: ignore[import-not-found]
    from chimerax.core.errors import UserError  # type: ignore[import-not-found]

    if len(words) != 2:
        raise UserError(USAGE)
    prefix, level = words
    paths = series(prefix)
    if not paths:
        raise UserError(f"no volume {prefix}0.mrc, {prefix}1.mrc, … in {os.getcwd()}; start ChimeraX in their folder")
    try:
        level_words(level)
    except ValueError:
        raise UserError(f"{level!r} is no contour level; give a density such as 0.985, or 3sd. {USAGE}") from None
    used = [model.id[0] for model in session.models.list() if model.id]  # type: ignore[attr-defined]
    for line in commands(paths, level, max(used, default=0) + 1):
        run(session, line)


if "session" in globals():  # ChimeraX hands its session to scripts under this name
    main(globals()["session"], sys.argv[1:])
