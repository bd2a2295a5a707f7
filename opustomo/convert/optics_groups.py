"""Optics groups: merging and renumbering of groups of several tables, and groups for tables without any."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from opustomo.errors import UserError
from opustomo.io.image_paths import find_images
from opustomo.io.mrc import read_header
from opustomo.io.star import as_table
from opustomo.io.star_conventions import (
    SERIES_APIX,
    Numbers,
    Texts,
    make_table,
    with_columns,
    without_columns,
    xyz_columns,
)
from opustomo.io.star_tables import MICROSCOPE_COLUMNS, ORIGIN_ANGST_COLUMNS, ORIGIN_COLUMNS, ParticleStar

NUMBER, NAME, IMAGE_PIXEL_SIZE = "rlnOpticsGroup", "rlnOpticsGroupName", "rlnImagePixelSize"
IMAGE_SIZE, DIMENSIONALITY = "rlnImageSize", "rlnImageDimensionality"
PREMULTIPLIED = "rlnCtfDataAreCtfPremultiplied"
BINNING = "rlnTomoSubtomogramBinning"
# Columns that RELION 3.0 has in every row and later versions in the optics table.
_ROW_OPTICS = (*MICROSCOPE_COLUMNS, SERIES_APIX)


@dataclass
class _Group:
    name: str | None
    """Name of the group; None for a group made from rows."""
    values: dict[str, str] = field(default_factory=dict)
    source: object = None
    """File of the group."""

    def fits(self, other: "_Group") -> bool:
        """Return whether both can be the same group: common values and the multiplication by the CTF are equal."""
        named = self.name is None or other.name is None or self.name == other.name
        multiplied = _same(self.values.get(PREMULTIPLIED, "0"), other.values.get(PREMULTIPLIED, "0"))
        return (
            named
            and multiplied
            and all(_same(value, other.values.get(key, value)) for key, value in self.values.items())
        )


def merge_optics(stars: Sequence[ParticleStar]) -> tuple[list[ParticleStar], dict[str, list[str]], list[str]]:
    """Merge the optics groups of several tables.

    Groups of the same name become one group if their common values are equal. Groups without a name, made from the
    rows of a RELION 3.0 table, join the first group with equal values. Groups are numbered from 1 in the order of
    appearance.

    Returns
    -------
    list of ParticleStar
        The tables, with `rlnOpticsGroup` renumbered.
    dict
        Columns of the merged optics table.
    list of str
        Notes on values that were filled in.
    """
    groups: list[_Group] = []
    numbered = []
    notes = []
    for star in stars:
        own = _groups_of(star)
        places = []
        for group in own:
            place = next((index for index, known in enumerate(groups) if known.fits(group)), None)
            if place is None:
                place = len(groups)
                groups.append(_Group(group.name, dict(group.values), group.source))
            else:
                notes += _borrowed(group, groups[place])
                groups[place].values = {**group.values, **groups[place].values}
                groups[place].name = groups[place].name or group.name
            places.append(place + 1)
        rows = np.array(places)[star.optics_rows()]
        numbered.append(with_columns(star, {NUMBER: rows.astype(str).astype(object)}))
    columns, filled = _columns(groups)
    return numbered, columns, notes + filled


def _borrowed(group: _Group, known: _Group) -> list[str]:
    """Describe the values that a group and the equal group of another file receive from each other."""
    notes = []
    for lacking, other in ((group, known), (known, group)):
        values = {key: value for key, value in other.values.items() if key not in lacking.values}
        if values:
            used = ", ".join(f"{key} {value}" for key, value in values.items())
            notes.append(
                f"{lacking.source} has no {', '.join(values)} for the optics group "
                f"{lacking.name or 'of its particles'}; {used} of {other.source} is used"
            )
    return notes


def with_optics(star: ParticleStar) -> ParticleStar:
    """Return the table with an optics table of pixel size, voltage, aberration and amplitude contrast.

    A table without optics groups gets one group per combination of these values, and origins in Å. In a table with
    optics groups, values in the rows are copied to the groups.

    Raises
    ------
    UserError
        The pixel size is missing, or particles of one optics group have different values.
    """
    if star.optics_block is not None:
        return _with_row_optics(star)
    sizes = star.pixel_sizes()
    if sizes is None:
        raise UserError(
            f"{star.path}: the pixel size is missing, but a table with optics groups requires it. Add "
            "rlnDetectorPixelSize and rlnMagnification."
        )
    # Rounding makes 1.7005 and 1.70049999 equal.
    keys = {IMAGE_PIXEL_SIZE: [f"{round(size, 5):g}" if size < 10 else f"{size:.6g}" for size in sizes.tolist()]}
    keys |= {column: star.strings(column) for column in _ROW_OPTICS if column in star}
    rows = list(zip(*keys.values(), strict=True))
    place = {row: index for index, row in enumerate(dict.fromkeys(rows), 1)}
    values = dict(zip(keys, zip(*place, strict=True), strict=True))
    optics = make_table({NUMBER: [str(index) for index in place.values()], NAME: [""] * len(place), **values})
    if any(column in star for column in ORIGIN_COLUMNS):
        angst = star.origins_px() * sizes[:, None]
        star = with_columns(star, xyz_columns(ORIGIN_ANGST_COLUMNS, angst))
        star = without_columns(star, set(ORIGIN_COLUMNS))
    star = with_columns(star, {NUMBER: np.array([str(place[row]) for row in rows], dtype=object)})
    blocks = {"optics": optics, **{name: block for name, block in star.blocks.items() if name != "optics"}}
    return ParticleStar(star.path, blocks, star.particle_block)


def with_image_sizes(star: ParticleStar, sizes: Numbers) -> ParticleStar:
    """Return the table with `rlnImagePixelSize` in its optics table.

    Parameters
    ----------
    star : ParticleStar
        Particles with optics groups.
    sizes : ndarray, (N,)
        Pixel size of the image of each particle in Å.

    Raises
    ------
    UserError
        Particles of one optics group have different pixel sizes.
    """
    if IMAGE_PIXEL_SIZE in _optics_columns(star):
        return star
    return _with_group_values(star, IMAGE_PIXEL_SIZE, [f"{size:.6f}" for size in sizes.tolist()])


def with_image_boxes(star: ParticleStar) -> ParticleStar:
    """Return the table with the box of its first subtomogram in the optics table, if the file exists and is a cube."""
    if IMAGE_SIZE in _optics_columns(star) or "rlnImageName" not in star:
        return star
    path = find_images(star.subset([0]), None)[0]
    try:
        shape = None if path is None else read_header(path).shape
    except UserError:
        return star
    if shape is None or len(set(shape)) != 1:
        return star
    star = _with_group_values(star, IMAGE_SIZE, [str(shape[0])] * len(star))
    if DIMENSIONALITY in _optics_columns(star):
        return star
    return _with_group_values(star, DIMENSIONALITY, ["3"] * len(star))


def with_series_sizes(star: ParticleStar) -> ParticleStar:
    """Return a table of RELION 3 with the pixel size of its coordinates, which is that of the images, in the groups.

    Beside a table of RELION 4, coordinates would otherwise be understood as pixels of the tilt series.
    """
    sizes = star.pixel_sizes()
    if sizes is None or star.value_per_particle(SERIES_APIX) is not None:
        return star
    star = _with_group_values(star, SERIES_APIX, [f"{size:.6f}" for size in sizes.tolist()])
    return _with_group_values(star, BINNING, ["1.000000"] * len(star))


def _with_row_optics(star: ParticleStar) -> ParticleStar:
    """Copy values in the rows to the optics groups, unless the groups have them."""
    for column in _ROW_OPTICS:
        if column in star and column not in _optics_columns(star):
            star = _with_group_values(star, column, star.strings(column))
    return star


def _with_group_values(star: ParticleStar, column: str, texts: list[str]) -> ParticleStar:
    """Add a column to the optics table from one text per particle."""
    name = str(star.optics_block)
    columns = _optics_columns(star)
    groups = star.optics_rows().tolist()
    # A group without particles may have any value.
    values = [texts[0]] * len(columns[NUMBER])
    first: dict[int, int] = {}
    for row, group in enumerate(groups):
        earlier = first.setdefault(group, row)
        if not _same(texts[row], texts[earlier]):
            raise UserError(
                f"{star.path}: rows {earlier + 1} and {row + 1} belong to the optics group {columns[NUMBER][group]}, "
                f"but their {column} is {texts[earlier]} and {texts[row]}. Give each value its own optics group."
            )
        values[group] = texts[earlier]
    columns[column] = values
    return ParticleStar(star.path, {**star.blocks, name: make_table(columns)}, star.particle_block)


def _optics_columns(star: ParticleStar) -> dict[str, list[str]]:
    return {str(key): list(column) for key, column in as_table(star.blocks[str(star.optics_block)]).items()}


def _groups_of(star: ParticleStar) -> list[_Group]:
    table = as_table(star.blocks[str(star.optics_block)])
    groups = []
    for row in table.to_dict("records"):
        name = row.pop(NAME, "") or None
        row.pop(NUMBER)
        groups.append(_Group(name, {str(key): str(value) for key, value in row.items()}, star.path))
    return groups


def _columns(groups: list[_Group]) -> tuple[dict[str, list[str]], list[str]]:
    names: list[str] = []
    for index, group in enumerate(groups, 1):
        name = wanted = group.name or f"opticsGroup{index}"
        while name in names:
            name = f"{wanted}_{index}" if name == wanted else f"{name}_"
        names.append(name)
    columns = {NUMBER: [str(index) for index in range(1, len(groups) + 1)], NAME: names}
    filled: dict[str, list[str]] = {}
    for key in dict.fromkeys(key for group in groups for key in group.values):
        given = [group.values[key] for group in groups if key in group.values]
        columns[key] = []
        for group, name in zip(groups, names, strict=True):
            if key not in group.values:
                filler = _own_size(key, group) or _neutral(key, given, group.source)
                filled.setdefault(name, []).append(f"{key} {filler}")
            columns[key].append(group.values[key] if key in group.values else filler)
    return columns, [f"{', '.join(values)} is filled into the optics group {name}" for name, values in filled.items()]


def _own_size(column: str, group: _Group) -> str | None:
    """Compute a pixel size or the binning of a group from its other values, or return None."""
    image, series = group.values.get(IMAGE_PIXEL_SIZE), group.values.get(SERIES_APIX)
    if column == BINNING and image is not None:
        return f"{float(image) / float(image if series is None else series):.6f}"
    # Without coordinates, the pixel size of the tilt series is not used.
    return image if column == SERIES_APIX else None


def _neutral(column: str, given: list[str], source: object) -> str:
    """Return the value of a missing column: no aberration, no multiplication by the CTF, else that of other groups.

    Raises
    ------
    UserError
        The other groups have different microscopes.
    """
    if column == PREMULTIPLIED:
        return "0"
    if column.startswith("rlnMagMat"):
        return "1.000000" if column in ("rlnMagMat00", "rlnMagMat11") else "0.000000"
    if column.startswith("rlnBeamTilt"):
        return "0.000000"
    if column.endswith("Zernike"):
        return f"[{','.join('0' for _ in given[0].split(','))}]"
    return microscope_value(column, given, source) if column in MICROSCOPE_COLUMNS else given[0]


def follow_optics(rows: Texts, optics: Texts) -> tuple[Texts, int]:
    """Replace values in the rows that contradict the optics table, because RELION 3.1 and later ignore the rows.

    Parameters
    ----------
    rows, optics : ndarray of str, (N,)
        Value of each particle in its row and in its optics group.

    Returns
    -------
    ndarray of str, (N,)
        Values of the rows, or those of the optics table where they differ.
    int
        Number of replaced values.
    """
    pairs = {pair: _same(*pair) for pair in dict.fromkeys(zip(rows.tolist(), optics.tolist(), strict=True))}
    kept = np.array([pairs[pair] for pair in zip(rows.tolist(), optics.tolist(), strict=True)], dtype=bool)
    return np.where(kept, rows, optics), int((~kept).sum())


def optics_note(star: ParticleStar, column: str, count: int) -> str:
    """Describe rows whose values were replaced by `follow_optics`."""
    return (
        f"{column} of {count} rows of {star.path or 'the table'} contradicts the optics table; the optics table is "
        "used, as in RELION 3.1 and later"
    )


def voltage_note(star: ParticleStar) -> str | None:
    """Describe rows whose voltage is not positive, or return None."""
    voltages = star.value_per_particle("rlnVoltage")
    if voltages is None or (voltages > 0).all():
        return None
    row = int(np.flatnonzero(voltages <= 0)[0])
    return (
        f"rlnVoltage is {voltages[row]:g} in {int((voltages <= 0).sum())} rows, the first is row {row + 1}; correct "
        "it, because no CTF can be computed from it"
    )


def microscope_value(column: str, given: list[str], source: object) -> str:
    """Return the common value of all other tables.

    Raises
    ------
    UserError
        The other tables have different values.
    """
    other = next((value for value in given if not _same(value, given[0])), None)
    if other is not None:
        raise UserError(
            f"{source}: {column} is missing, and it is {given[0]} and {other} in the other tables. Add {column} to "
            "this table."
        )
    return given[0]


def _same(one: str, other: str) -> bool:
    try:
        return bool(np.isclose(float(one), float(other), rtol=1e-5, atol=1e-9))
    except ValueError:
        return one == other
