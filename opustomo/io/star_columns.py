"""Columns of particle tables: conversion of numbers to text and back, replacement and removal of columns."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from opustomo.io.star import to_numbers
from opustomo.io.star_tables import ParticleStar

if TYPE_CHECKING:
    import pandas as pd

Numbers = npt.NDArray[np.float64]
Texts = npt.NDArray[np.object_]


def fixed(numbers: npt.ArrayLike, decimals: int = 6) -> Texts:
    """Format numbers with a fixed number of decimals as strings, (N,)."""
    pattern = f"%.{decimals}f"
    texts = [pattern % number for number in np.asarray(numbers, np.float64).tolist()]
    return np.array(texts, dtype=object)


def repeated(text: object, count: int) -> Texts:
    """Return a column with the same text in every row."""
    return np.full(count, str(text), dtype=object)


def make_table(columns: Mapping[str, Any]) -> "pd.DataFrame":
    """Return a table of strings, in the order of `columns`."""
    import pandas as pd

    return pd.DataFrame({name: np.asarray(values, dtype=object) for name, values in columns.items()}, dtype=object)


def with_columns(star: ParticleStar, columns: Mapping[str, Sequence[str] | Texts]) -> ParticleStar:
    """Return the table with columns of text replaced, or appended if they do not exist."""
    table = {name: star.particles[name].to_numpy(dtype=object) for name in star.particles.columns}
    return with_table(star, make_table({**table, **columns}))


def with_columns_renamed(star: ParticleStar, names: tuple[str, ...], columns: Mapping[str, Texts]) -> ParticleStar:
    """Return the table with the columns `names` replaced one by one by `columns`; further ones are appended."""
    places = dict(zip(names, columns, strict=False))
    table = {}
    for name in star.particles.columns:
        if name not in columns or name in places:
            target = places.get(name, name)
            table[target] = columns[target] if name in places else star.particles[name].to_numpy(dtype=object)
    return with_table(star, make_table({**table, **columns}))


def without_columns(star: ParticleStar, names: set[str]) -> ParticleStar:
    """Return the table without the given columns, which need not exist."""
    return with_table(star, star.particles[[name for name in star.particles.columns if name not in names]])


def with_table(star: ParticleStar, table: "pd.DataFrame") -> ParticleStar:
    """Return the STAR file with another particle table; all other blocks are unchanged."""
    return replace(star, blocks={**star.blocks, star.particle_block: table})


def xyz(star: ParticleStar, columns: tuple[str, ...]) -> Numbers:
    """Return the numbers of several columns, (N, len(columns)).

    Raises
    ------
    UserError
        A column is missing or not numeric.
    """
    return np.stack([star.numbers(column) for column in columns], axis=1)


def xyz_columns(columns: tuple[str, ...], numbers: Numbers, decimals: int = 6) -> dict[str, Texts]:
    """Convert numbers (N, 3) to columns of text."""
    return {column: fixed(numbers[:, index], decimals) for index, column in enumerate(columns)}


def table_numbers(table: "pd.DataFrame", column: str, source: object) -> Numbers:
    """Return the values of a column of any table as float64 (N,).

    Raises
    ------
    UserError
        A value is not a finite number.
    """
    return to_numbers(table[column].to_numpy(dtype=object).tolist(), column, str(source))
