"""Shell script that lets RELION reconstruct the CTF volumes of subtomograms from their CTF tables."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from opustomo.errors import UserError
from opustomo.io.atomic import atomic_path
from opustomo.io.star import ParticleStar

SCRIPT_NAME = "do_all_reconstruct_ctfs.sh"
"""The name that RELION's own preparation script uses."""

_HEAD = f"""\
#!/bin/sh
# Usage: sh {SCRIPT_NAME} BOX
# RELION reconstructs the CTF volume of every subtomogram; BOX is the box of the subtomograms in pixels.
case "$1" in '' | *[!0-9]*) echo "usage: sh {SCRIPT_NAME} BOX (box of the subtomograms in pixels)" >&2; exit 2 ;; esac
cd "$(dirname "$0")" || exit 1
set -e
"""


def write_ctf_script(star: ParticleStar, folder: Path, apix: float | None) -> Path | None:
    """Write `do_all_reconstruct_ctfs.sh`, one call of `relion_reconstruct` per CTF table.

    Parameters
    ----------
    star
        Particle table whose `rlnCtfImage` names the CTF volumes, relative to the table; each CTF table has the name of
        its volume with the suffix .star.
    folder
        Where the script goes. It changes to this folder before it calls RELION.
    apix
        Pixel size of the subtomograms in Å where the table holds none.

    Returns
    -------
    Path or None
        The script; None when the pixel size is unknown.

    Raises
    ------
    UserError
        A name holds a line break or a quotation mark.
    """
    told = star.pixel_sizes()
    if told is None and apix is None:
        return None
    sizes = [apix] * len(star) if told is None else told.tolist()
    home = star.path.parent if star.path is not None else Path()
    lines: dict[str, None] = {}
    for name, size in zip(star.strings("rlnCtfImage"), sizes, strict=True):
        if any(sign in name for sign in "\n\r'\""):
            raise UserError(f"{name!r}: RELION reads no file whose name holds quotation marks; rename it.")
        volume = Path(os.path.relpath(home / name, folder))
        table = volume.with_suffix(".star")
        call = f"relion_reconstruct --i {shlex.quote(str(table))} --o {shlex.quote(str(volume))}"
        lines[f"{call} --reconstruct_ctf $1 --angpix {size:.6g}"] = None  # particles may share a table
    path = folder / SCRIPT_NAME
    with atomic_path(path) as temporary:
        temporary.write_text(_HEAD + "\n".join(lines) + "\n", encoding="utf-8")
    return path
