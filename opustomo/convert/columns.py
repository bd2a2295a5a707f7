"""Columns of particle tables: numbers to text, places, pixel sizes, and what a conversion hands back."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from opustomo.errors import UserError
from opustomo.io.star import to_numbers
from opustomo.io.star_tables import ParticleStar

if TYPE_CHECKING:
    import pandas as pd

Numbers = npt.NDArray[np.float64]
Texts = npt.NDArray[np.object_]

COORDINATES = ("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ")
CENTERED_COORDINATES = tuple(f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ")


@dataclass(frozen=True, eq=False)
class Converted:
    """Result of a conversion.

    Attributes
    ----------
    star
        The new table.
    count_in
        Particles that were read.
    notes
        What the user should know, a sentence each.
    """

    star: ParticleStar
    count_in: int
    notes: tuple[str, ...] = field(default=())


def fixed(numbers: npt.ArrayLike, decimals: int = 6) -> Texts:
    """Write numbers with a fixed number of decimals, (N,) of strings."""
    pattern = f"%.{decimals}f"
    texts = [pattern % number for number in np.asarray(numbers, np.float64).tolist()]
    return np.array(texts, dtype=object)


def repeated(text: object, count: int) -> Texts:
    """Put the same text into every row."""
    return np.full(count, str(text), dtype=object)


def make_table(columns: Mapping[str, Any]) -> "pd.DataFrame":
    """Make a table of strings, in the order of `columns`."""
    import pandas as pd

    return pd.DataFrame({name: np.asarray(values, dtype=object) for name, values in columns.items()}, dtype=object)


def with_columns(star: ParticleStar, columns: Mapping[str, Texts]) -> ParticleStar:
    """Replace columns of the particle table, or add them at its end."""
    table = {name: star.particles[name].to_numpy(dtype=object) for name in star.particles.columns}
    return with_table(star, make_table({**table, **columns}))


def with_columns_renamed(star: ParticleStar, names: tuple[str, ...], columns: Mapping[str, Texts]) -> ParticleStar:
    """Put `columns` where the columns called `names` stand, one for one; further ones go to the end."""
    places = dict(zip(names, columns, strict=False))
    table = {}
    for name in star.particles.columns:
        if name not in columns or name in places:
            target = places.get(name, name)
            table[target] = columns[target] if name in places else star.particles[name].to_numpy(dtype=object)
    return with_table(star, make_table({**table, **columns}))


def without_columns(star: ParticleStar, names: set[str]) -> ParticleStar:
    """Take columns out of the particle table; those it lacks do not matter."""
    return with_table(star, star.particles[[name for name in star.particles.columns if name not in names]])


def with_table(star: ParticleStar, table: "pd.DataFrame") -> ParticleStar:
    """Replace the particle table; all other blocks stay."""
    return replace(star, blocks={**star.blocks, star.particle_block: table})


def xyz(star: ParticleStar, columns: tuple[str, ...]) -> Numbers:
    """Numbers of several columns, (N, len(columns)).

    Raises
    ------
    UserError
        A column is missing or not numeric.
    """
    return np.stack([star.numbers(column) for column in columns], axis=1)


def require_pixels(star: ParticleStar) -> None:
    """Make sure that there are coordinates in pixels.

    Raises
    ------
    UserError
        There are none, or they are those of RELION 5.
    """
    if COORDINATES[0] not in star and CENTERED_COORDINATES[0] in star:
        raise UserError(
            f"{star.path}: holds a RELION 5 particle set with places in Å from the centre, where coordinates in pixels "
            "are expected; convert it with dsdsh convert_relion5 first."
        )
    xyz(star, COORDINATES)


def xyz_columns(columns: tuple[str, ...], numbers: Numbers, decimals: int = 6) -> dict[str, Texts]:
    """Turn (N, 3) numbers into columns of text."""
    return {column: fixed(numbers[:, index], decimals) for index, column in enumerate(columns)}


def table_numbers(table: "pd.DataFrame", column: str, source: object) -> Numbers:
    """Values of a column of any table as float64 (N,).

    Raises
    ------
    UserError
        A value is no finite number.
    """
    return to_numbers(table[column].to_numpy(dtype=object).tolist(), column, str(source))
