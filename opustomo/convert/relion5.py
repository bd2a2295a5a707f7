"""RELION 5 particle sets, with their tomograms, to and from tables with coordinates in pixels.

RELION 5 keeps a particle's place in Å from the centre of its tomogram, `rlnCenteredCoordinate…Angst`; in pixels of
the tilt series that is `centred / p + size / 2` with p `rlnTomoTiltSeriesPixelSize` and size `rlnTomoSize…`, as
RELION 4 and others count (`rlnCoordinate…`).
"""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from opustomo.convert.columns import (
    CENTERED_COORDINATES,
    COORDINATES,
    Converted,
    Numbers,
    make_table,
    table_numbers,
    with_columns,
    with_columns_renamed,
    without_columns,
    xyz,
    xyz_columns,
)
from opustomo.convert.frames import FRAME_COLUMNS, compose_frames, coordinate_sizes
from opustomo.convert.optics_groups import NAME, NUMBER, SERIES_APIX, with_optics
from opustomo.convert.template_matching import TOMOGRAM_COLUMNS
from opustomo.errors import UserError
from opustomo.io.star import find_block, listed_sizes, read_blocks
from opustomo.io.star_conventions import OWN_APIX, counts_in_image_pixels
from opustomo.io.star_tables import ORIGIN_ANGST_COLUMNS, ORIGIN_COLUMNS, ParticleStar
from opustomo.io.tomograms import base_name, tomogram_stem

SIZES = tuple(f"rlnTomoSize{axis}" for axis in "XYZ")
# what particles take over from their tomogram
_OPTICS = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")


@dataclass(frozen=True, eq=False)
class Tomograms:
    """The tomograms of a RELION 4 or 5 project.

    Attributes
    ----------
    path
        Their STAR file.
    names
        `rlnTomoName`.
    sizes_px
        Lengths x, y, z in pixels of the tilt series, (T, 3).
    apix
        Pixel size of the tilt series in Å, (T,).
    optics
        Voltage, aberration and amplitude contrast as far as they are told: column → text per tomogram.
    """

    path: Path
    names: list[str]
    sizes_px: Numbers
    apix: Numbers
    optics: dict[str, list[str]]

    def rows(self, names: list[str], source: object) -> np.ndarray:
        """Find the tomogram of each particle by its whole name, else without folders, else without suffixes, (N,).

        Raises
        ------
        UserError
            A particle's tomogram is not among them.
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
            raise UserError(f"{source}: the tomogram {missing} is not in {self.path} ({some}); add it there.")
        return np.array([found[name] for name in names], dtype=np.int64)

    def rows_of(self, star: ParticleStar, column: str) -> np.ndarray:
        """Find the tomogram of each particle, and compare the pixel sizes of the tilt series that both tell, (N,).

        Raises
        ------
        UserError
            A particle's tomogram is not among them, or has another pixel size.
        """
        rows = self.rows(star.strings(column), star.path)
        sizes = star.value_per_particle(SERIES_APIX)
        if sizes is not None and not np.allclose(sizes, self.apix[rows], rtol=1e-3):
            row = int(np.flatnonzero(~np.isclose(sizes, self.apix[rows], rtol=1e-3))[0])
            raise UserError(
                f"{star.path}: row {row + 1} is of a tilt series of {sizes[row]:g} Å/pixel, but {self.path} gives "
                f"{self.apix[rows[row]]:g} for {self.names[rows[row]]}; give the tomograms of these particles."
            )
        return rows


def read_tomograms(path: str | os.PathLike[str]) -> Tomograms:
    """Read a tomograms.star.

    Raises
    ------
    UserError
        The file holds no tomograms, no sizes, or a value that is no positive number.
    """
    path = Path(path)
    blocks = read_blocks(path)
    needed = ("rlnTomoName", SERIES_APIX, *SIZES)
    name = find_block(
        blocks,
        needed,
        path,
        "a RELION tomogram set with rlnTomoName, rlnTomoTiltSeriesPixelSize and rlnTomoSizeX, Y, Z",
        "give the tomograms.star of the reconstruction job",
    )
    block = blocks[name]
    table = make_table({key: [value] for key, value in block.items()}) if isinstance(block, dict) else block
    if not len(table):
        raise UserError(f"{path}: the table data_{name} has no rows; give a set with tomograms.")
    for column in (*SIZES, SERIES_APIX):
        values = table_numbers(table, column, path)
        if (values <= 0).any():
            row = int(np.flatnonzero(values <= 0)[0])
            tomogram = table["rlnTomoName"].iloc[row]
            raise UserError(
                f"{path}: {column} of row {row + 1} ({tomogram}) is {values[row]:g}, where a positive number is needed"
                "; reconstruct the tomogram in RELION, which writes its size, or correct the row."
            )
    return Tomograms(
        path,
        [str(text) for text in table["rlnTomoName"]],
        np.stack([table_numbers(table, column, path) for column in SIZES], axis=1),
        table_numbers(table, SERIES_APIX, path),
        {column: [str(text) for text in table[column]] for column in _OPTICS if column in table.columns},
    )


def to_pixels(star: ParticleStar, tomograms: Tomograms, keep_frames: bool = False) -> Converted:
    """Give the particles of a RELION 5 set coordinates in pixels of the tilt series.

    Parameters
    ----------
    star
        Particles with `rlnCenteredCoordinate…Angst` and `rlnTomoName`.
    tomograms
        Their tomograms.
    keep_frames
        Leave `rlnTomoSubtomogram…` as they are. Otherwise angles and origins are turned into the frame of the
        tomogram, as needed by whoever extracts anew; RELION's own pseudo-subtomograms stand in the frames.

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
            f"the particles are 2D stacks, so that WARP would take coordinates for pixels of the images; {OWN_APIX} "
            "records that they count in pixels of the tilt series"
        )
    if any(column in star for column in FRAME_COLUMNS):
        if keep_frames:
            notes.append("angles and origins are in the frames of rlnTomoSubtomogramRot, Tilt, Psi")
        else:
            star = compose_frames(star)
            notes.append(
                "angles and origins were turned by rlnTomoSubtomogramRot, Tilt, Psi into the tomogram's frame; "
                "use --keep-frames to train on RELION's own subtomograms"
            )
    if star.value_per_particle(SERIES_APIX) is None:
        star = with_columns(star, {SERIES_APIX: xyz_columns(("p",), tomograms.apix[rows, None])["p"]})
    return Converted(star, len(rows), tuple(notes))


def to_relion5(star: ParticleStar, tomograms: Tomograms, apix: float | None = None) -> Converted:
    """Turn a particle table of any RELION version, or WARP, into a RELION 5 particle set.

    Places become Å from the tomogram's centre, origins Å, and each particle gets a name and an optics group that
    tells the pixel size of the tilt series. All other columns and blocks stay.

    Parameters
    ----------
    star
        Particles with coordinates in pixels.
    tomograms
        Their tomograms.
    apix
        Å per pixel of the coordinates, and of the images where the table does not tell it; None takes the table's.

    Raises
    ------
    UserError
        No coordinates in pixels, no pixel size, or a tomogram that is not in the set.
    """
    count = len(star)
    column = next((name for name in reversed(TOMOGRAM_COLUMNS) if name in star), None)
    if column is None:
        raise UserError(f"{star.path}: the particle table has neither {' nor '.join(TOMOGRAM_COLUMNS)}; add one.")
    rows = tomograms.rows_of(star, column)
    sizes = coordinate_sizes(star, apix)
    if sizes is None:
        raise UserError(f"{star.path}: tells no pixel size; give it with --angpix.")
    centres = tomograms.sizes_px[rows] / 2 * tomograms.apix[rows, None]
    places = xyz(star, COORDINATES) * sizes[:, None] - centres
    notes = _outside_note((places + centres) / tomograms.apix[rows, None], tomograms.sizes_px[rows])
    if apix is None and counts_in_image_pixels(star):
        notes.append(f"coordinates of these 2D stacks were taken for pixels of the images, {listed_sizes(sizes)}")
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
    """Describe particles (N, 3) that lie outside of their tomograms, both in pixels of the tilt series."""
    outside = np.flatnonzero(((places_px < 0) | (places_px > sizes_px)).any(axis=1))
    if not outside.size:
        return []
    row = int(outside[0])
    place, size = ("×".join(f"{value:.0f}" for value in values[row]) for values in (places_px, sizes_px))
    return [
        f"{outside.size} of {len(places_px)} particles lie outside of their tomograms, the first in row {row + 1} at "
        f"{place.replace('×', ', ')} in {size} pixels; check that tomograms and pixel sizes belong to the particles"
    ]


def write_optimisation_set(path: str | os.PathLike[str], particles: Path, tomograms: Path) -> None:
    """Write the file that RELION 5 jobs take as input."""
    from opustomo.io.star import write_blocks

    write_blocks(path, {"": {"rlnTomoParticlesFile": str(particles), "rlnTomoTomogramsFile": str(tomograms)}})


def read_optimisation_set(path: str | os.PathLike[str]) -> tuple[Path, Path] | None:
    """Find particles and tomograms of an optimisation set; None when the file is something else.

    Paths count from the project's folder: the current one, or a folder above the file.

    Raises
    ------
    UserError
        A file named there does not exist.
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
            raise UserError(f"{path}: {column} names {text}, which is not there; run in the RELION project's folder.")
        found.append(place)
    return found[0], found[1]


def _optics_with_series(star: ParticleStar, tomograms: Tomograms, rows: np.ndarray) -> ParticleStar:
    """Make sure that each optics group tells the pixel size of its tilt series and the microscope."""
    if star.optics_block is None:
        bare = set(star.particles.columns)
        told = {name: np.array(values, dtype=object)[rows] for name, values in tomograms.optics.items()}
        told |= xyz_columns((SERIES_APIX,), tomograms.apix[rows, None])
        star = with_optics(with_columns(star, {name: values for name, values in told.items() if name not in bare}))
        star = without_columns(star, set(told) - bare)
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
                    f"{star.path}: particles of optics group {columns[NUMBER][group]} are of tilt series with pixel "
                    f"sizes {different[0]:g} and {different[1]:g} Å; give each its own group."
                )
        columns |= xyz_columns((SERIES_APIX,), tomograms.apix[first, None])
    for name, values in tomograms.optics.items():
        if name not in columns:
            columns[name] = np.array(values, dtype=object)[first]
    names = [str(text) or f"opticsGroup{index}" for index, text in enumerate(columns.get(NAME, [""] * len(table)), 1)]
    columns[NAME] = np.array(names, dtype=object)
    blocks = {**star.blocks, block: make_table(columns)}
    return ParticleStar(star.path, blocks, star.particle_block)
