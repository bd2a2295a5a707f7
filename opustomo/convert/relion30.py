"""Conversion of particle tables of RELION 3.1 and later to RELION 3.0: origins in pixels, optics in rows, one block.

Half sets (`rlnRandomSubset`) are unchanged.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from opustomo.convert import Converted
from opustomo.convert.optics_groups import follow_optics, optics_note, voltage_note
from opustomo.errors import UserError
from opustomo.io.star import as_table, format_pixel_sizes, group_key
from opustomo.io.star_conventions import (
    COORDINATES,
    OWN_APIX,
    constant_column,
    counts_in_image_pixels,
    make_table,
    xyz,
    xyz_columns,
)
from opustomo.io.star_tables import MICROSCOPE_COLUMNS, ORIGIN_ANGST_COLUMNS, ORIGIN_COLUMNS, ParticleStar

PIXEL_SIZE_COLUMNS = ("rlnImagePixelSize", "rlnPixelSize")


def to_relion30(star: ParticleStar, apix: float, rescale_apix: float | None = None) -> Converted:
    """Convert a table to RELION 3.0, with origins in pixels and optics in the rows.

    Parameters
    ----------
    star
        Particles of any RELION version.
    apix
        Pixel size of the subtomograms in Å, which divides origins in Å and is the unit of coordinates in pixels.
    rescale_apix
        Pixel size in Å to which coordinates and origins are converted. Coordinates are in pixels of `apix` before, or
        of the tilt series if the file states its pixel size (RELION 4 and 5, but not 2D stacks of WarpTools).

    Returns
    -------
    Converted
        All particles. The particle block comes first and is called `data_`, as RELION 3.0 requires. The columns of the
        optics table are in the rows, and `rlnTomoName` is also written as `rlnMicrographName`. Unknown columns and
        other blocks are kept.
    """
    target = apix if rescale_apix is None else rescale_apix
    notes = []
    known = star.pixel_sizes()
    if known is not None and not np.allclose(known, apix, rtol=1e-3):
        notes.append(f"the file states a pixel size of {format_pixel_sizes(known)}, not {apix:g} Å")
    table = star.particles
    columns = {name: table[name].to_numpy(dtype=object) for name in table.columns}
    places = tuple(column for column in COORDINATES if column in star)
    series = star.value_per_particle("rlnTomoTiltSeriesPixelSize")
    if counts_in_image_pixels(star):
        series = None
    elif OWN_APIX in star:
        series = star.numbers(OWN_APIX)
    if rescale_apix is not None and places:
        # In RELION 4 and 5, coordinates are in pixels of the tilt series.
        before = np.full(len(star), apix) if series is None else series
        columns |= xyz_columns(places, xyz(star, places) * (before / target)[:, None])
    elif rescale_apix is not None:
        notes.append("there are no coordinates in pixels to rescale")
    elif places and series is not None and not np.allclose(series, apix, rtol=1e-3):
        notes.append(
            f"coordinates remain in pixels of the tilt series, {format_pixel_sizes(series)}; --rescale-angpix converts "
            "coordinates and origins to one pixel size"
        )
    if any(column in star for column in (*ORIGIN_ANGST_COLUMNS, *ORIGIN_COLUMNS)):
        in_angst = any(column in star for column in ORIGIN_ANGST_COLUMNS)
        if in_angst or target != apix:
            columns = _replaced(columns, xyz_columns(ORIGIN_COLUMNS, star.origins_px(apix) * (apix / target)))
    optics = _optics_in_rows(star)
    for name in MICROSCOPE_COLUMNS:
        if name in columns and name in optics:
            columns[name], count = follow_optics(columns[name], optics[name])
            notes += [optics_note(star, name, count)] if count else []
    columns = _replaced(columns, optics, keep=True)
    if "rlnTomoName" in columns and "rlnMicrographName" not in columns:
        columns["rlnMicrographName"] = columns["rlnTomoName"]
    size = constant_column(f"{target:g}", len(star))
    columns |= {column: size for column in PIXEL_SIZE_COLUMNS if column in columns}
    if rescale_apix is not None and "rlnTomoTiltSeriesPixelSize" in columns:
        one = constant_column("1.000000", len(star))
        columns |= {"rlnTomoTiltSeriesPixelSize": size, "rlnTomoSubtomogramBinning": one}
    if rescale_apix is not None and OWN_APIX in columns:
        columns[OWN_APIX] = size
    columns |= {"rlnMagnification": constant_column("10000.0", len(star)), "rlnDetectorPixelSize": size}
    left_out = {star.particle_block, star.optics_block}
    others = {name: block for name, block in star.blocks.items() if name not in left_out and name != ""}
    result = replace(star, blocks={"": make_table(columns), **others}, particle_block="")
    voltage = voltage_note(result)
    return Converted(result, len(star), (*notes, *([] if voltage is None else [voltage])))


def first_copies(star: ParticleStar) -> npt.NDArray[np.int64]:
    """Return the rows of the first copy of every particle of a symmetry-expanded table.

    Copies of a particle have the same `rlnImageName`, or, without this column, the same name or position.

    Raises
    ------
    UserError
        The table has none of these columns.
    """
    keys = particle_keys(star)
    if keys is None:
        raise UserError(
            f"{star.path}: without rlnImageName, rlnTomoParticleName or coordinates, copies of a particle cannot be "
            "recognized. Omit --remove-symexp."
        )
    first = dict[object, int]()
    for row, key in enumerate(keys):
        first.setdefault(key, row)
    return np.array(list(first.values()), dtype=np.int64)


def particle_keys(star: ParticleStar) -> list[object] | None:
    """Return a key for each particle: image, else RELION 5 name, else tomogram and position; None without these."""
    for column in ("rlnImageName", "rlnTomoParticleName"):
        if column in star:
            return list(star.strings(column))
    for places in (COORDINATES, tuple(f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ")):
        if all(column in star for column in places):
            names = next((name for name in ("rlnMicrographName", "rlnTomoName") if name in star), None)
            tomograms = star.strings(names) if names else [""] * len(star)
            numbers = np.round(xyz(star, places), 3).tolist()
            return [(tomogram, *place) for tomogram, place in zip(tomograms, numbers, strict=True)]
    return None


def rows_with_label(star: ParticleStar, label: str) -> npt.NDArray[np.int64]:
    """Return the rows with a label: `1` means `rlnRandomSubset` 1, `rlnClassNumber=3` selects by another column.

    Raises
    ------
    UserError
        The column is missing, or no row has the label.
    """
    column, equals, value = label.rpartition("=")
    column = column.lstrip("_") if equals else "rlnRandomSubset"
    texts = star.strings(column)
    rows = np.flatnonzero([group_key(text) == group_key(value) for text in texts])
    if not rows.size:
        some = ", ".join(sorted(set(texts))[:8])
        raise UserError(f"{star.path}: no particle has {column} {value}, only {some}. Give one of these values.")
    return rows


def _optics_in_rows(star: ParticleStar) -> dict[str, npt.NDArray[np.object_]]:
    name = star.optics_block
    if name is None:
        return {}
    optics = as_table(star.blocks[name])
    rows = star.optics_rows()
    return {column: optics[column].to_numpy(dtype=object)[rows] for column in optics.columns}


def _replaced(columns: dict, new: dict, keep: bool = False) -> dict:
    """Return the columns with new ones; origins in pixels replace those in Å in the same place."""
    if keep:
        return {**columns, **{name: values for name, values in new.items() if name not in columns}}
    renamed = dict(zip(ORIGIN_ANGST_COLUMNS, ORIGIN_COLUMNS, strict=True))
    kept = {}
    for name, values in columns.items():
        target = renamed.get(name, name)
        kept[target] = new.get(target, values)
    return {**kept, **new}
