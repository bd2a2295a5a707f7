"""Columns put into particle tables, and particles of a block by name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from opustomo.errors import UserError
from opustomo.io.star import ParticleStar, read_particles
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
