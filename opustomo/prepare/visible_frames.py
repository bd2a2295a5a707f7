"""Tilts that a particle is seen in: rlnTomoVisibleFrames of RELION 5 and WarpTools."""

from __future__ import annotations

import re

import numpy as np

from opustomo.errors import UserError
from opustomo.io.star import ParticleStar
from opustomo.io.tilt_series import TiltSeries

COLUMN = "rlnTomoVisibleFrames"
"""One number per tilt, 1 where the particle is visible: `[0,1,1]`."""


def visible_tilts(star: ParticleStar, rows: np.ndarray, series: TiltSeries) -> np.ndarray:
    """Return which tilts of its series show each particle, (N, T).

    Tilts that the series leaves out (`TiltSeries.used`) show none. Lists may tell of all tilts or of those used.

    Parameters
    ----------
    star
        The particles.
    rows
        (N,) rows of the particles in this tomogram.
    series
        The tilt series, of T tilts.

    Raises
    ------
    UserError
        A list is damaged, of another length, or shows nothing.
    """
    used = np.asarray(series.used, dtype=bool)
    visible = np.broadcast_to(used, (len(rows), len(used))).copy()
    if COLUMN not in star:
        return visible
    texts = star.strings(COLUMN)
    known: dict[str, np.ndarray] = {}
    for index, row in enumerate(rows.tolist()):
        text = texts[row]
        if text not in known:
            known[text] = _listed(text, star, row, series)
        visible[index] &= known[text]
        if not visible[index].any():
            raise UserError(
                f"{star.path}: {COLUMN} of row {row + 1} shows the particle in none of the tilts of {series.name} that "
                "are used; remove the particle."
            )
    return visible


def visible_note(visible: list[np.ndarray], star: ParticleStar) -> str | None:
    """Return what to say of the tilts that rlnTomoVisibleFrames hides; None when it hides none."""
    if COLUMN not in star:
        return None
    counts = np.concatenate([tilts.sum(axis=1) for tilts in visible])
    totals = np.concatenate([np.full(len(tilts), tilts.shape[1]) for tilts in visible])
    hidden = counts < totals
    if not hidden.any():
        return None
    least, most = counts[hidden].min(), counts[hidden].max()
    kept = f"{least}" if least == most else f"{least} to {most}"
    return f"{COLUMN} hides tilts of {hidden.sum()} of {len(counts)} particles, which keep {kept} tilts"


def _listed(text: str, star: ParticleStar, row: int, series: TiltSeries) -> np.ndarray:
    if re.fullmatch(r"\[\s*[01](\s*,\s*[01])*\s*\]", text) is None:
        raise UserError(
            f"{star.path}: {COLUMN} of row {row + 1} is {text[:40]}, where a list of 0 and 1 such as [0,1,1] is needed"
            "; correct it."
        )
    listed = np.array([word.strip() == "1" for word in text.strip("[]").split(",")])
    used = np.asarray(series.used, dtype=bool)
    if len(listed) == len(used):
        return listed
    if len(listed) == used.sum():
        every = np.zeros(len(used), dtype=bool)
        every[used] = listed
        return every
    raise UserError(
        f"{star.path}: {COLUMN} of row {row + 1} tells of {len(listed)} tilts, but {series.source} of {len(used)} for "
        f"{series.name}; give the tilt series that belong to these particles."
    )
