"""Particle tables in STAR files of any RELION version, WARP and M.

The particle table is recognised by its columns, not by its block's name. All values stay the strings of the
file, so that a subset or a table with new poses keeps every other value to the character;
`ParticleStar.numbers` converts a column.

Pixel size of a row, the first that is present: `rlnImagePixelSize` (of the row, else of its optics group),
`rlnPixelSize` (likewise), `rlnDetectorPixelSize / rlnMagnification · 10⁴` (likewise; without a magnification, as
pytom-match-pick writes it, `rlnDetectorPixelSize` is in Å), `rlnTomoTiltSeriesPixelSize · rlnTomoSubtomogramBinning`
of the optics group.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from opustomo.errors import UserError
from opustomo.io.poses import require_angles
from opustomo.io.star import describe, group_key, has_particles, read_blocks, remedy, to_numbers, write_blocks

if TYPE_CHECKING:
    import pandas as pd

EULER_COLUMNS = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
ORIGIN_COLUMNS = ("rlnOriginX", "rlnOriginY", "rlnOriginZ")
ORIGIN_ANGST_COLUMNS = ("rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst")
_PARTICLE_COLUMNS = (
    *EULER_COLUMNS,
    *ORIGIN_COLUMNS,
    *ORIGIN_ANGST_COLUMNS,
    "rlnImageName",
    "rlnCtfImage",
    "rlnMicrographName",
    "rlnTomoName",
    "rlnTomoParticleName",
    *(f"rlnCoordinate{axis}" for axis in "XYZ"),
    *(f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ"),
)
MICROSCOPE_COLUMNS = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
"""Optics that RELION 3.1 and later read from the optics table alone."""


@dataclass(frozen=True, eq=False)
class ParticleStar:
    """A STAR file with a particle table.

    Attributes
    ----------
    path
        The file it was read from; None for one made in memory.
    blocks
        All blocks in the order of the file: tables (loops) and dictionaries (single values), all values
        strings.
    particle_block
        Name of the block that holds the particles.
    """

    path: Path | None
    blocks: "dict[str, pd.DataFrame | dict[str, str]]"
    particle_block: str

    @property
    def particles(self) -> "pd.DataFrame":
        """The particle table; its values are strings, see `numbers`."""
        table = self.blocks[self.particle_block]
        if isinstance(table, dict):
            raise ValueError(f"the block data_{self.particle_block} is not a table")
        return table

    def __len__(self) -> int:
        return len(self.particles)

    def __contains__(self, column: str) -> bool:
        return column in self.particles.columns

    def strings(self, column: str) -> list[str]:
        """Values of one column of the particle table.

        Raises
        ------
        UserError
            There is no such column.
        """
        if column not in self:
            raise UserError(f"{self._name()}: the particle table has no column {column}; export it with this column.")
        return [str(value) for value in self.particles[column].to_numpy(dtype=object)]

    def numbers(self, column: str) -> npt.NDArray[np.float64]:
        """Values of one column of the particle table as float64 (N,).

        Raises
        ------
        UserError
            There is no such column, or a value is no finite number.
        """
        return to_numbers(self.strings(column), column, self._name())

    def subset(self, indices: npt.ArrayLike) -> "ParticleStar":
        """Keep the particles at `indices` (integers or a mask), in that order, and all blocks and columns."""
        chosen = np.asarray(indices)
        if chosen.dtype == bool:
            if chosen.shape != (len(self),):
                raise ValueError(f"a mask of {chosen.shape} values does not fit {len(self)} particles")
            chosen = np.flatnonzero(chosen)
        chosen = chosen.astype(np.int64).reshape(-1)
        if chosen.size and (chosen.min() < 0 or chosen.max() >= len(self)):
            raise ValueError(f"particle {int(chosen.max())} does not exist among {len(self)}")
        return self._with_particles(self.particles.iloc[chosen].reset_index(drop=True))

    def eulers_deg(self) -> npt.NDArray[np.float64]:
        """RELION rot, tilt, psi in degrees, float64 (N, 3).

        Raises
        ------
        UserError
            A column is missing, or a value is no finite number or too large for an angle in degrees.
        """
        eulers = np.stack([self.numbers(column) for column in EULER_COLUMNS], axis=1)
        require_angles(eulers, self._name())
        return eulers

    def origins_px(self, apix: float | None = None) -> npt.NDArray[np.float64]:
        """Origins x, y, z in pixels of the subtomogram, float64 (N, 3).

        Columns in pixels are taken as they are. Columns in Å are divided by `apix`, or by the row's own pixel
        size when `apix` is None. With both kinds, those in Å count when the file has an optics table (RELION
        ≥ 3.1), else those in pixels. A component without column is 0.

        Raises
        ------
        UserError
            Origins in Å without any pixel size, or a value that is no finite number.
        """
        in_angst = self.origins_in_angst
        columns = ORIGIN_ANGST_COLUMNS if in_angst else ORIGIN_COLUMNS
        origins = np.zeros((len(self), 3))
        for axis, column in enumerate(columns):
            if column in self:
                origins[:, axis] = self.numbers(column)
        if in_angst and origins.any():
            origins /= self._sizes(apix)[:, None]
        return origins

    def pixel_sizes(self) -> npt.NDArray[np.float64] | None:
        """Pixel size of each row in Å, float64 (N,), by the rule of this module; None when the file holds
        none.

        Raises
        ------
        UserError
            A size is not positive, or a row's optics group is not in the optics table.
        """
        sizes = self.value_per_particle("rlnImagePixelSize")
        if sizes is None:
            sizes = self.value_per_particle("rlnPixelSize")
        if sizes is None:
            detector, magnification = (
                self.value_per_particle("rlnDetectorPixelSize"),
                self.value_per_particle("rlnMagnification"),
            )
            if detector is not None:
                with np.errstate(divide="ignore", invalid="ignore"):
                    sizes = detector if magnification is None else detector / magnification * 1e4
        if sizes is None:
            unbinned, binning = (
                self.value_per_particle("rlnTomoTiltSeriesPixelSize"),
                self.value_per_particle("rlnTomoSubtomogramBinning"),
            )
            if unbinned is not None and binning is not None:
                sizes = unbinned * binning
        if sizes is not None and not (np.isfinite(sizes) & (sizes > 0)).all():
            row = int(np.flatnonzero(~(np.isfinite(sizes) & (sizes > 0)))[0])
            raise UserError(
                f"{self._name()}: row {row + 1} has the pixel size {sizes[row]:g}; a positive one is needed."
            )
        return sizes

    def optics_rows(self) -> npt.NDArray[np.int64]:
        """Row of the optics table for each particle, (N,); 0 for all when there is one group and no column.

        Raises
        ------
        UserError
            A row's optics group is not in the optics table, or there is no optics table.
        """
        optics = self._optics()
        if optics is None:
            raise UserError(f"{self._name()}: there is no optics table; export the particles with it.")
        if len(optics) == 1 and "rlnOpticsGroup" not in self:
            return np.zeros(len(self), dtype=np.int64)
        place = {group_key(group): index for index, group in enumerate(optics["rlnOpticsGroup"])}
        groups = self.strings("rlnOpticsGroup")
        keys = {group: group_key(group) for group in set(groups)}
        unknown = next((row for row, group in enumerate(groups) if keys[group] not in place), None)
        if unknown is not None:
            raise UserError(
                f"{self._name()}: row {unknown + 1} is of optics group {groups[unknown]}, "
                "which the optics table lacks; add it there."
            )
        return np.array([place[keys[group]] for group in groups], dtype=np.int64)

    def with_poses(
        self,
        eulers_deg: npt.NDArray[np.float64],
        origins_px: npt.NDArray[np.float64],
        apix: float | None = None,
    ) -> "ParticleStar":
        """Put poses in; origins go back in the unit of the columns that are there.

        Columns that are missing are added: origins in Å when the file has an optics table, else in pixels.

        Parameters
        ----------
        eulers_deg
            RELION rot, tilt, psi in degrees, (N, 3).
        origins_px
            Origins x, y, z in pixels, (N, 3).
        apix
            Pixel size in Å for columns in Å; None takes the row's own.

        Raises
        ------
        UserError
            Origins in Å without any pixel size.
        """
        if np.shape(eulers_deg) != (len(self), 3) or np.shape(origins_px) != (len(self), 3):
            shapes = f"{np.shape(eulers_deg)} and {np.shape(origins_px)}"
            raise ValueError(f"angles and origins of shapes {shapes} do not fit {len(self)} particles")
        table = self.particles.copy()
        in_pixels, in_angst = self._has_any(ORIGIN_COLUMNS), self._has_any(ORIGIN_ANGST_COLUMNS)
        if not in_pixels and not in_angst:
            in_angst = self._optics() is not None
            in_pixels = not in_angst
        values = {column: eulers_deg[:, axis] for axis, column in enumerate(EULER_COLUMNS)}
        if in_pixels:
            values |= {column: origins_px[:, axis] for axis, column in enumerate(ORIGIN_COLUMNS)}
        if in_angst:
            angst = np.asarray(origins_px) * self._sizes(apix)[:, None]
            values |= {column: angst[:, axis] for axis, column in enumerate(ORIGIN_ANGST_COLUMNS)}
        for column, numbers in values.items():
            table[column] = np.array([f"{number:.6f}" for number in numbers], dtype=object)
        return self._with_particles(table)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write all blocks, atomically."""
        write_blocks(path, self.blocks)

    def _with_particles(self, table: "pd.DataFrame") -> "ParticleStar":
        return replace(self, blocks={**self.blocks, self.particle_block: table})

    def _name(self) -> str:
        return str(self.path) if self.path is not None else "the particle table"

    def _has_any(self, columns: Iterable[str]) -> bool:
        return any(column in self for column in columns)

    @property
    def origins_in_angst(self) -> bool:
        """Whether origins in Å count, see `origins_px`."""
        in_angst = self._has_any(ORIGIN_ANGST_COLUMNS)
        return in_angst and (not self._has_any(ORIGIN_COLUMNS) or self.optics_block is not None)

    @property
    def optics_block(self) -> str | None:
        """Name of the block with the optics groups, whatever it is called; None without one."""
        return next(
            (name for name, block in self.blocks.items() if name != self.particle_block and "rlnOpticsGroup" in block),
            None,
        )

    def _optics(self) -> "pd.DataFrame | None":
        name = self.optics_block
        return None if name is None else _as_table(self.blocks[name])

    def _sizes(self, apix: float | None) -> npt.NDArray[np.float64]:
        if apix is not None:
            if not apix > 0:
                raise ValueError(f"the pixel size must be positive, not {apix}")
            return np.full(len(self), float(apix))
        sizes = self.pixel_sizes()
        if sizes is None:
            raise UserError(
                f"{self._name()}: origins are in Å but no column gives the pixel size; "
                "give it in Å (--Apix or --angpix)."
            )
        return sizes

    def value_per_particle(self, column: str) -> npt.NDArray[np.float64] | None:
        """Return the value of each row, from its own column or its optics group; None when neither has it.

        Voltage, spherical aberration and amplitude contrast of the optics table come first, as in RELION.
        """
        optics = self._optics()
        in_optics = optics is not None and column in optics.columns
        if column in self and not (in_optics and column in MICROSCOPE_COLUMNS):
            return self.numbers(column)
        if optics is None or not in_optics:
            return None
        values = to_numbers(optics[column], column, f"{self._name()}, optics table")
        return values[self.optics_rows()]


def read_particles(path: str | os.PathLike[str]) -> ParticleStar:
    """Read a STAR file and find its particle table.

    The table is the block with most of the columns that particles have (Euler angles, origins, image name,
    coordinates, …), whatever its name; a block of single values counts as a table of one row.

    Raises
    ------
    UserError
        The file is missing or damaged, has no particle table, or an empty one.
    """
    path = Path(path)
    blocks = dict(read_blocks(path))
    scores = {
        name: sum(column in block for column in _PARTICLE_COLUMNS)
        for name, block in blocks.items()
        if has_particles(block)
    }
    if not scores:
        raise UserError(
            f"{path}: holds {describe(blocks)}; no block has particle columns (rlnAngleRot, rlnImageName or "
            f"rlnCoordinateX, Y and Z), {remedy(blocks)}."
        )
    name = max(scores, key=lambda block: scores[block])
    twin = next((other for other in scores if other != name and list(blocks[other]) == list(blocks[name])), None)
    if twin is not None and len(_as_table(blocks[name])) and len(_as_table(blocks[twin])):
        raise UserError(
            f"{path}: holds two particle tables, data_{name} and data_{twin}; "
            "split the file, then combine the tables with dsdsh combine_star."
        )
    blocks[name] = _as_table(blocks[name])
    if not len(blocks[name]):
        raise UserError(f"{path}: the particle table data_{name} has no rows; give one with particles.")
    return ParticleStar(path, blocks, name)


def read_table(path: str | os.PathLike[str], columns: Sequence[str] = ()) -> "pd.DataFrame":
    """Read one table of a STAR file.

    Parameters
    ----------
    path
        The file.
    columns
        Columns the table must have. The first block that has all of them is taken; without any, the first
        table.

    Returns
    -------
    DataFrame
        All columns of that block; those in which every value is a number are numeric, the others strings.

    Raises
    ------
    UserError
        The file is missing or damaged, or no block has the columns; the first missing one is named.
    """
    import pandas as pd

    blocks = read_blocks(path)
    tables = {name: _as_table(block) for name, block in blocks.items()}
    loops = [table for name, table in tables.items() if not isinstance(blocks[name], dict)]
    for table in loops + list(tables.values()):
        if all(column in table.columns for column in columns):
            table = table.copy()
            for column in table.columns:
                try:
                    table[column] = pd.to_numeric(table[column])
                except ValueError:
                    continue
            return table
    nearest = max(tables.values(), key=lambda table: sum(column in table.columns for column in columns))
    lacking = next(column for column in columns if column not in nearest.columns)
    raise UserError(f"{path}: no block has the column {lacking} with the others needed; export the table with it.")


def _as_table(block: "pd.DataFrame | dict[str, str]") -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame([block], dtype=object) if isinstance(block, dict) else block
