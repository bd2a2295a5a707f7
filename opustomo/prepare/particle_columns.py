"""Columns of particle tables, put in and read out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from opustomo.errors import UserError
from opustomo.io.star import ParticleStar, read_particles, to_numbers
from opustomo.io.star_text import read_blocks


def with_columns(star: ParticleStar, values: Mapping[str, Sequence[str]]) -> ParticleStar:
    """Replace or add columns of the particle table; each has one string per particle."""
    table = star.particles.copy()
    for column, strings in values.items():
        table[column] = np.array(strings, dtype=object)
    return replace(star, blocks={**star.blocks, star.particle_block: table})


def particles_of_block(path: str | os.PathLike[str], block: str | None) -> ParticleStar:
    """Particles of a named block, with or without "data_", whatever its columns; None finds the block by them.

    Raises
    ------
    UserError
        As `read_particles`, or there is no such block, or it has no rows.
    """
    import pandas as pd

    if block is None:
        return read_particles(path)
    blocks = dict(read_blocks(path))
    name = block if block in blocks else block.removeprefix("data_")
    if name not in blocks:
        names = ", ".join(f"data_{other}" for other in blocks)
        raise UserError(f"{path}: has no block data_{name}, only {names}; name one of them.")
    found = blocks[name]
    table = pd.DataFrame([found], dtype=object) if isinstance(found, dict) else found
    if not len(table):
        raise UserError(f"{path}: the block data_{name} has no rows; name one with particles.")
    return ParticleStar(Path(path), {**blocks, name: table}, name)


def values_of_rows(star: ParticleStar, column: str, default: float | None = None) -> np.ndarray:
    """(N,) values of a column of the particle table or of the rows' optics groups.

    Raises
    ------
    UserError
        Neither has the column and there is no default, or a group is not in the optics table.
    """
    if column in star:
        return star.numbers(column)
    optics = next((b for b in star.blocks.values() if b is not star.particles and "rlnOpticsGroup" in b), None)
    if optics is None or column not in optics:
        if default is None:
            raise UserError(f"{star.path}: neither particles nor optics table have {column}; export them with it.")
        return np.full(len(star), default)
    told = [optics[column]] if isinstance(optics, dict) else list(optics[column])
    groups = [optics["rlnOpticsGroup"]] if isinstance(optics, dict) else list(optics["rlnOpticsGroup"])
    values = to_numbers(told, column, f"{star.path}, optics table")
    if len(values) == 1 and "rlnOpticsGroup" not in star:
        return np.full(len(star), values[0])
    place = {str(group): index for index, group in enumerate(groups)}
    mine = star.strings("rlnOpticsGroup")
    unknown = next((row for row, group in enumerate(mine) if group not in place), None)
    if unknown is not None:
        raise UserError(f"{star.path}: row {unknown + 1} is of optics group {mine[unknown]}, not told; add it.")
    return values[[place[group] for group in mine]]
