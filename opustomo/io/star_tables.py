"""Particle tables in STAR files of any RELION version, WARP and M.

The particle table is recognized by its columns, not by the name of its block. Values remain the strings of the file, so
a subset or a table with new poses preserves every other value character by character. `ParticleStar.numbers` converts a
column.

The pixel size of a row is the first of these that exists, in the row or else in its optics group:

1. `rlnImagePixelSize`;
2. `rlnPixelSize`;
3. `rlnDetectorPixelSize / rlnMagnification · 10⁴`, or without a magnification, as in pytom-match-pick,
   `rlnDetectorPixelSize` in Å;
4. `rlnTomoTiltSeriesPixelSize · rlnTomoSubtomogramBinning`.
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
from opustomo.io.star import (
    as_table,
    conversion_advice,
    describe_blocks,
    group_key,
    has_particles,
    read_blocks,
    to_numbers,
    write_blocks,
)

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
"""Columns that RELION 3.1 and later read from the optics table alone."""


@dataclass(frozen=True, eq=False)
class ParticleStar:
    """A STAR file with a particle table.

    Attributes
    ----------
    path
        The file; None if the table was created in memory.
    blocks
        All blocks in the order of the file: tables (loops) and dictionaries (single values) of strings.
    particle_block
        Name of the block with the particles.
    """

    path: Path | None
    blocks: "dict[str, pd.DataFrame | dict[str, str]]"
    particle_block: str

    @property
    def particles(self) -> "pd.DataFrame":
        """Particle table of strings, see `numbers`."""
        table = self.blocks[self.particle_block]
        if isinstance(table, dict):
            raise ValueError(f"the block data_{self.particle_block} is not a table")
        return table

    def __len__(self) -> int:
        return len(self.particles)

    def __contains__(self, column: str) -> bool:
        return column in self.particles.columns

    def strings(self, column: str) -> list[str]:
        """Return the values of a column of the particle table.

        Raises
        ------
        UserError
            The column does not exist.
        """
        if column not in self:
            raise UserError(f"{self._name()}: the particle table has no column {column}. Export it with this column.")
        return [str(value) for value in self.particles[column].to_numpy(dtype=object)]

    def numbers(self, column: str) -> npt.NDArray[np.float64]:
        """Return the values of a column of the particle table as float64 (N,).

        Raises
        ------
        UserError
            The column does not exist, or a value is not a finite number.
        """
        return to_numbers(self.strings(column), column, self._name())

    def subset(self, indices: npt.ArrayLike) -> "ParticleStar":
        """Return the particles at `indices` (integers or a mask), in that order, with all blocks and columns."""
        chosen = np.asarray(indices)
        if chosen.dtype == bool:
            if chosen.shape != (len(self),):
                raise ValueError(f"the mask has the shape {chosen.shape}, but there are {len(self)} particles")
            chosen = np.flatnonzero(chosen)
        chosen = chosen.astype(np.int64).reshape(-1)
        if chosen.size and (chosen.min() < 0 or chosen.max() >= len(self)):
            raise ValueError(f"particle {int(chosen.max())} does not exist among {len(self)}")
        return self._with_particles(self.particles.iloc[chosen].reset_index(drop=True))

    def eulers_deg(self) -> npt.NDArray[np.float64]:
        """Return RELION's rot, tilt and psi in degrees, float64 (N, 3).

        Raises
        ------
        UserError
            A column is missing, or a value is not finite or too large for an angle in degrees.
        """
        eulers = np.stack([self.numbers(column) for column in EULER_COLUMNS], axis=1)
        require_angles(eulers, self._name())
        return eulers

    def origins_px(self, apix: float | None = None) -> npt.NDArray[np.float64]:
        """Return origins x, y, z in pixels of the subtomogram, float64 (N, 3).

        Columns in Å are divided by `apix`, or by the pixel size of each row if `apix` is None. If the table has
        columns in pixels and in Å, those in Å are used if there is an optics table (RELION ≥ 3.1), otherwise those in
        pixels. Missing components are 0.

        Raises
        ------
        UserError
            Origins are in Å but the pixel size is unknown, or a value is not a finite number.
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
        """Return the pixel size of each row in Å, float64 (N,), by the rule of this module; None if there is none.

        Raises
        ------
        UserError
            A size is not positive, or the optics group of a row is not in the optics table.
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
                f"{self._name()}: the pixel size of row {row + 1} is {sizes[row]:g}, but it must be positive."
            )
        return sizes

    def optics_rows(self) -> npt.NDArray[np.int64]:
        """Return the row of the optics table for each particle, (N,); 0 if there is one group and no column.

        Raises
        ------
        UserError
            The optics group of a row is not in the optics table, or there is no optics table.
        """
        optics = self._optics()
        if optics is None:
            raise UserError(f"{self._name()}: there is no optics table. Export the particles with it.")
        if len(optics) == 1 and "rlnOpticsGroup" not in self:
            return np.zeros(len(self), dtype=np.int64)
        place = {group_key(group): index for index, group in enumerate(optics["rlnOpticsGroup"])}
        groups = self.strings("rlnOpticsGroup")
        keys = {group: group_key(group) for group in set(groups)}
        unknown = next((row for row, group in enumerate(groups) if keys[group] not in place), None)
        if unknown is not None:
            raise UserError(
                f"{self._name()}: the optics group {groups[unknown]} of row {unknown + 1} is not in the optics table; "
                "add it there."
            )
        return np.array([place[keys[group]] for group in groups], dtype=np.int64)

    def with_poses(
        self,
        eulers_deg: npt.NDArray[np.float64],
        origins_px: npt.NDArray[np.float64],
        apix: float | None = None,
    ) -> "ParticleStar":
        """Return a table with new poses, with origins in the unit of the existing columns.

        Missing columns are added; origins are then in Å if the file has an optics table, otherwise in pixels.

        Parameters
        ----------
        eulers_deg
            RELION rot, tilt, psi in degrees, (N, 3).
        origins_px
            Origins x, y, z in pixels, (N, 3).
        apix
            Pixel size in Å for columns in Å; None uses the value of each row.

        Raises
        ------
        UserError
            Origins are in Å but the pixel size is unknown.
        """
        if np.shape(eulers_deg) != (len(self), 3) or np.shape(origins_px) != (len(self), 3):
            shapes = f"{np.shape(eulers_deg)} and {np.shape(origins_px)}"
            raise ValueError(f"angles and origins have the shapes {shapes}, but there are {len(self)} particles")
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
        """Whether the origins in Å are used, see `origins_px`."""
        in_angst = self._has_any(ORIGIN_ANGST_COLUMNS)
        return in_angst and (not self._has_any(ORIGIN_COLUMNS) or self.optics_block is not None)

    @property
    def optics_block(self) -> str | None:
        """Name of the block with the optics groups; None if there is none."""
        return next(
            (name for name, block in self.blocks.items() if name != self.particle_block and "rlnOpticsGroup" in block),
            None,
        )

    def _optics(self) -> "pd.DataFrame | None":
        name = self.optics_block
        return None if name is None else as_table(self.blocks[name])

    def _sizes(self, apix: float | None) -> npt.NDArray[np.float64]:
        if apix is not None:
            if not apix > 0:
                raise ValueError(f"the pixel size must be positive, not {apix}")
            return np.full(len(self), float(apix))
        sizes = self.pixel_sizes()
        if sizes is None:
            raise UserError(
                f"{self._name()}: origins are in Å, but no column states the pixel size; "
                "give it in Å (--Apix or --angpix)."
            )
        return sizes

    def value_per_particle(self, column: str) -> npt.NDArray[np.float64] | None:
        """Return a value for each row, from its own column or its optics group; None if neither has it.

        Voltage, spherical aberration and amplitude contrast of the optics table have precedence, as in RELION.
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

    The particle table is the block with the most columns of particles (Euler angles, origins, image name,
    coordinates, …). A block of single values is a table of one row.

    Raises
    ------
    UserError
        The file is missing or damaged, or has no particle table or an empty one.
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
            f"{path}: the file contains {describe_blocks(blocks)}, but no block has particle columns (rlnAngleRot, "
            f"rlnImageName or rlnCoordinateX, Y and Z); {conversion_advice(blocks)}."
        )
    name = max(scores, key=lambda block: scores[block])
    twin = next((other for other in scores if other != name and list(blocks[other]) == list(blocks[name])), None)
    if twin is not None and len(as_table(blocks[name])) and len(as_table(blocks[twin])):
        raise UserError(
            f"{path}: the file contains two particle tables, data_{name} and data_{twin}; "
            "split it, then combine the tables with dsdsh combine_star."
        )
    blocks[name] = as_table(blocks[name])
    if not len(blocks[name]):
        raise UserError(f"{path}: the particle table data_{name} has no rows. Give a table with particles.")
    return ParticleStar(path, blocks, name)


def read_table(path: str | os.PathLike[str], columns: Sequence[str] = ()) -> "pd.DataFrame":
    """Read one table of a STAR file.

    Parameters
    ----------
    path
        The file.
    columns
        Required columns. The first block that has all of them is read; without required columns, the first table.

    Returns
    -------
    DataFrame
        All columns of that block. Columns in which every value is a number are numeric, the others are strings.

    Raises
    ------
    UserError
        The file is missing or damaged, or no block has the columns; the message names the first missing one.
    """
    import pandas as pd

    blocks = read_blocks(path)
    tables = {name: as_table(block) for name, block in blocks.items()}
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
    raise UserError(
        f"{path}: no block has the column {lacking} together with the other required columns. Export the table with it."
    )
