"""Conversion of RELION 5 particle sets and their tomograms to and from tables with coordinates in pixels.

RELION 5 stores the position of a particle in Å from the center of its tomogram, `rlnCenteredCoordinate…Angst`. In
pixels of the tilt series, as in RELION 4 and other programs (`rlnCoordinate…`), it is `centered / p + size / 2`, where
p is `rlnTomoTiltSeriesPixelSize` and size is `rlnTomoSize…`.
"""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from opustomo.convert import Converted
from opustomo.convert.conventions import FRAME_COLUMNS, compose_frames
from opustomo.convert.optics_groups import NAME, NUMBER, SERIES_APIX, with_optics
from opustomo.errors import UserError
from opustomo.io.star import find_table, format_pixel_sizes, read_blocks
from opustomo.io.star_conventions import (
    CENTERED_COORDINATES,
    COORDINATES,
    OWN_APIX,
    Numbers,
    coordinate_sizes,
    counts_in_image_pixels,
    make_table,
    table_numbers,
    with_columns,
    with_columns_renamed,
    without_columns,
    xyz,
    xyz_columns,
)
from opustomo.io.star_tables import MICROSCOPE_COLUMNS, ORIGIN_ANGST_COLUMNS, ORIGIN_COLUMNS, ParticleStar
from opustomo.io.tomograms import base_name, tomogram_column, tomogram_stem

SIZES = tuple(f"rlnTomoSize{axis}" for axis in "XYZ")
# Columns that particles receive from their tomogram.


@dataclass(frozen=True, eq=False)
class Tomograms:
    """The tomograms of a RELION 4 or 5 project.

    Attributes
    ----------
    path
        STAR file of the tomograms.
    names
        Names of the tomograms, `rlnTomoName`.
    sizes_px
        Sizes x, y, z in pixels of the tilt series, (T, 3).
    apix
        Pixel size of the tilt series in Å, (T,).
    optics
        Voltage, aberration and amplitude contrast, if available: text per tomogram by column.
    """

    path: Path
    names: list[str]
    sizes_px: Numbers
    apix: Numbers
    optics: dict[str, list[str]]

    def rows(self, names: list[str], source: object) -> np.ndarray:
        """Find the tomogram of each particle by its full name, else without folders, else without suffixes, (N,).

        Raises
        ------
        UserError
            The tomogram of a particle is not in this set.
        """
        found: dict[str, int] = {}
        for shorten in (str, base_name, tomogram_stem):
            known: dict[str, int] = {}
            for index, name in enumerate(self.names):
                known.setdefault(shorten(name), index)
            for name in set(names) - found.keys():
                if shorten(name) in known:
                    found[name] = known[shorten(name)]
        missing = next((name for name in names if name not in found), None)
        if missing is not None:
            some = ", ".join(self.names[:5]) + (" …" if len(self.names) > 5 else "")
            raise UserError(f"{source}: the tomogram {missing} is not in {self.path} ({some}). Add it there.")
        return np.array([found[name] for name in names], dtype=np.int64)

    def rows_of(self, star: ParticleStar, column: str) -> np.ndarray:
        """Find the tomogram of each particle, (N,), and compare the pixel sizes of the tilt series.

        Raises
        ------
        UserError
            The tomogram of a particle is not in this set or has another pixel size.
        """
        rows = self.rows(star.strings(column), star.path)
        sizes = star.value_per_particle(SERIES_APIX)
        if sizes is not None and not np.allclose(sizes, self.apix[rows], rtol=1e-3):
            row = int(np.flatnonzero(~np.isclose(sizes, self.apix[rows], rtol=1e-3))[0])
            raise UserError(
                f"{star.path}: the pixel size of the tilt series is {sizes[row]:g} Å in row {row + 1}, but {self.path} "
                f"states {self.apix[rows[row]]:g} Å for {self.names[rows[row]]}. Give the tomograms of these particles."
            )
        return rows


def read_tomograms(path: str | os.PathLike[str]) -> Tomograms:
    """Read a tomograms.star.

    Raises
    ------
    UserError
        The file has no tomograms or no sizes, or a value is not a positive number.
    """
    path = Path(path)
    blocks = read_blocks(path)
    needed = ("rlnTomoName", SERIES_APIX, *SIZES)
    _, table = find_table(
        blocks,
        needed,
        path,
        "a RELION tomogram set with rlnTomoName, rlnTomoTiltSeriesPixelSize and rlnTomoSizeX, Y, Z",
        "give the tomograms.star of the reconstruction job",
    )
    for column in (*SIZES, SERIES_APIX):
        values = table_numbers(table, column, path)
        if (values <= 0).any():
            row = int(np.flatnonzero(values <= 0)[0])
            tomogram = table["rlnTomoName"].iloc[row]
            raise UserError(
                f"{path}: {column} of row {row + 1} ({tomogram}) is {values[row]:g}, but it must be positive; "
                "reconstruct the tomogram in RELION, which writes its size, or correct the row."
            )
    return Tomograms(
        path,
        [str(text) for text in table["rlnTomoName"]],
        np.stack([table_numbers(table, column, path) for column in SIZES], axis=1),
        table_numbers(table, SERIES_APIX, path),
        {column: [str(text) for text in table[column]] for column in MICROSCOPE_COLUMNS if column in table.columns},
    )


def to_pixels(star: ParticleStar, tomograms: Tomograms, keep_frames: bool = False) -> Converted:
    """Convert a RELION 5 set to coordinates in pixels of the tilt series.

    Parameters
    ----------
    star
        Particles with `rlnCenteredCoordinate…Angst` and `rlnTomoName`.
    tomograms
        Tomograms of the particles.
    keep_frames
        Whether `rlnTomoSubtomogram…` are unchanged, as required for RELION's own pseudo-subtomograms. Otherwise angles
        and origins are rotated into the frame of the tomogram, as required to extract subtomograms again.

    Raises
    ------
    UserError
        A column is missing, or a tomogram is not in the set.
    """
    rows = tomograms.rows_of(star, "rlnTomoName")
    places = xyz(star, CENTERED_COORDINATES) / tomograms.apix[rows, None] + tomograms.sizes_px[rows] / 2
    notes = _outside_note(places, tomograms.sizes_px[rows])
    star = with_columns_renamed(star, CENTERED_COORDINATES, xyz_columns(COORDINATES, places))
    if counts_in_image_pixels(star):
        star = with_columns(star, xyz_columns((OWN_APIX,), tomograms.apix[rows, None]))
        notes.append(
            f"the particles are 2D stacks, for which WARP uses coordinates in pixels of the images; {OWN_APIX} "
            "records that they are in pixels of the tilt series"
        )
    if any(column in star for column in FRAME_COLUMNS):
        if keep_frames:
            notes.append("angles and origins are in the frames of rlnTomoSubtomogramRot, Tilt, Psi")
        else:
            star = compose_frames(star)
            notes.append(
                "angles and origins were rotated by rlnTomoSubtomogramRot, Tilt, Psi into the frame of the tomogram; "
                "use --keep-frames to train on RELION's own subtomograms"
            )
    if star.value_per_particle(SERIES_APIX) is None:
        star = with_columns(star, {SERIES_APIX: xyz_columns(("p",), tomograms.apix[rows, None])["p"]})
    return Converted(star, len(rows), tuple(notes))


def to_relion5(star: ParticleStar, tomograms: Tomograms, apix: float | None = None) -> Converted:
    """Convert a particle table of any RELION version, or of WARP, to a RELION 5 particle set.

    Coordinates are converted to Å from the center of the tomogram and origins to Å. Each particle gets a name and an
    optics group with the pixel size of the tilt series. All other columns and blocks are unchanged.

    Parameters
    ----------
    star
        Particles with coordinates in pixels.
    tomograms
        Tomograms of the particles.
    apix
        Pixel size in Å of the coordinates, and of the images if the table does not state it; None uses that of the
        table.

    Raises
    ------
    UserError
        Coordinates in pixels or the pixel size are missing, or a tomogram is not in the set.
    """
    count = len(star)
    column = tomogram_column(star)
    if column is None:
        raise UserError(f"{star.path}: the particle table has neither rlnTomoName nor rlnMicrographName. Add one.")
    rows = tomograms.rows_of(star, column)
    sizes = coordinate_sizes(star, apix)
    if sizes is None:
        raise UserError(f"{star.path}: the pixel size is missing. Give it with --angpix.")
    centers = tomograms.sizes_px[rows] / 2 * tomograms.apix[rows, None]
    places = xyz(star, COORDINATES) * sizes[:, None] - centers
    notes = _outside_note((places + centers) / tomograms.apix[rows, None], tomograms.sizes_px[rows])
    if apix is None and counts_in_image_pixels(star):
        notes.append(f"coordinates of these 2D stacks are read in pixels of the images, {format_pixel_sizes(sizes)}")
    star = without_columns(star, {OWN_APIX})
    if apix is not None and star.pixel_sizes() is None:
        star = with_columns(star, xyz_columns(("rlnPixelSize",), np.full((count, 1), apix)))
    star = _optics_with_series(star, tomograms, rows)
    if any(name in star for name in ORIGIN_COLUMNS):
        images = star.pixel_sizes()
        angst = star.origins_px() * (sizes if images is None else images)[:, None]
        star = with_columns_renamed(
            without_columns(star, set(ORIGIN_ANGST_COLUMNS)), ORIGIN_COLUMNS, xyz_columns(ORIGIN_ANGST_COLUMNS, angst)
        )
    star = with_columns_renamed(star, COORDINATES, xyz_columns(CENTERED_COORDINATES, places))
    names = [tomograms.names[row] for row in rows.tolist()]
    columns = {"rlnTomoName": np.array(names, dtype=object)}
    if "rlnTomoParticleName" not in star:
        seen = Counter[str]()
        numbered = []
        for name in names:
            seen[name] += 1
            numbered.append(f"{name}/{seen[name]}")
        columns["rlnTomoParticleName"] = np.array(numbered, dtype=object)
    star = with_columns(star, columns)
    blocks = {("particles" if name == star.particle_block else name): block for name, block in star.blocks.items()}
    optics = star.optics_block or ""
    ordered = {"optics": blocks.pop(optics), **{name: block for name, block in blocks.items() if name != "optics"}}
    return Converted(ParticleStar(star.path, ordered, "particles"), count, tuple(notes))


def _outside_note(places_px: Numbers, sizes_px: Numbers) -> list[str]:
    """Describe particles (N, 3) outside their tomograms (N, 3), both in pixels of the tilt series."""
    outside = np.flatnonzero(((places_px < 0) | (places_px > sizes_px)).any(axis=1))
    if not outside.size:
        return []
    row = int(outside[0])
    place, size = ("×".join(f"{value:.0f}" for value in values[row]) for values in (places_px, sizes_px))
    return [
        f"{outside.size} of {len(places_px)} particles lie outside their tomograms, the first in row {row + 1} at "
        f"{place.replace('×', ', ')} in {size} pixels; check that tomograms and pixel sizes belong to the particles"
    ]


def write_optimization_set(path: str | os.PathLike[str], particles: Path, tomograms: Path) -> None:
    """Write an optimization set, the input file of RELION 5 jobs."""
    from opustomo.io.star import write_blocks

    write_blocks(path, {"": {"rlnTomoParticlesFile": str(particles), "rlnTomoTomogramsFile": str(tomograms)}})


def read_optimization_set(path: str | os.PathLike[str]) -> tuple[Path, Path] | None:
    """Read the paths of particles and tomograms of an optimization set; None if the file is not such a set.

    Paths are relative to the project folder, which is the working folder or a folder above the file.

    Raises
    ------
    UserError
        One of the files does not exist.
    """
    path = Path(path)
    columns = ("rlnTomoParticlesFile", "rlnTomoTomogramsFile")
    block = next((block for block in read_blocks(path).values() if all(column in block for column in columns)), None)
    if block is None:
        return None
    found = []
    for column in columns:
        value = block[column]
        text = str(value if isinstance(value, str) else value.iloc[0])
        candidates = [folder / text for folder in (Path(), *path.absolute().parents)]
        place = next((candidate for candidate in candidates if candidate.is_file()), None)
        if place is None:
            raise UserError(
                f"{path}: the file {text} of {column} does not exist. Run the command in the folder of the RELION "
                "project."
            )
        found.append(place)
    return found[0], found[1]


def _optics_with_series(star: ParticleStar, tomograms: Tomograms, rows: np.ndarray) -> ParticleStar:
    """Return the table with the pixel size of the tilt series and the microscope in each optics group."""
    if star.optics_block is None:
        bare = set(star.particles.columns)
        known = {name: np.array(values, dtype=object)[rows] for name, values in tomograms.optics.items()}
        known |= xyz_columns((SERIES_APIX,), tomograms.apix[rows, None])
        star = with_optics(with_columns(star, {name: values for name, values in known.items() if name not in bare}))
        star = without_columns(star, set(known) - bare)
    block = str(star.optics_block)
    optics = star.blocks[block]
    table = make_table({key: [value] for key, value in optics.items()}) if isinstance(optics, dict) else optics
    columns = {name: table[name].to_numpy(dtype=object) for name in table.columns}
    groups = star.optics_rows()
    first = np.array([rows[groups == group][0] if (groups == group).any() else 0 for group in range(len(table))])
    if SERIES_APIX not in columns:
        for group in range(len(table)):
            different = np.unique(tomograms.apix[rows[groups == group]])
            if len(different) > 1:
                raise UserError(
                    f"{star.path}: the optics group {columns[NUMBER][group]} has tilt series with pixel sizes "
                    f"{different[0]:g} and {different[1]:g} Å. Give each its own group."
                )
        columns |= xyz_columns((SERIES_APIX,), tomograms.apix[first, None])
    for name, values in tomograms.optics.items():
        if name not in columns:
            columns[name] = np.array(values, dtype=object)[first]
    names = [str(text) or f"opticsGroup{index}" for index, text in enumerate(columns.get(NAME, [""] * len(table)), 1)]
    columns[NAME] = np.array(names, dtype=object)
    blocks = {**star.blocks, block: make_table(columns)}
    return ParticleStar(star.path, blocks, star.particle_block)
