"""Optics groups of several tables merged and renumbered; a group made for tables without any."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from opustomo.convert.columns import make_table, with_columns, without_columns, xyz_columns
from opustomo.errors import UserError
from opustomo.io.star import ORIGIN_ANGST_COLUMNS, ORIGIN_COLUMNS, ParticleStar

NUMBER, NAME, IMAGE_PIXEL_SIZE = "rlnOpticsGroup", "rlnOpticsGroupName", "rlnImagePixelSize"
PREMULTIPLIED = "rlnCtfDataAreCtfPremultiplied"
SERIES_APIX, BINNING = "rlnTomoTiltSeriesPixelSize", "rlnTomoSubtomogramBinning"
# what RELION 3.0 keeps in every row and later versions in the optics table
_ROW_OPTICS = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", SERIES_APIX)


@dataclass
class _Group:
    name: str | None
    """None for a group that was made up."""
    values: dict[str, str] = field(default_factory=dict)

    def fits(self, other: "_Group") -> bool:
        """Tell whether both may be the same: no value that both have differs, and none alone is multiplied."""
        named = self.name is None or other.name is None or self.name == other.name
        multiplied = _same(self.values.get(PREMULTIPLIED, "0"), other.values.get(PREMULTIPLIED, "0"))
        return (
            named
            and multiplied
            and all(_same(value, other.values.get(key, value)) for key, value in self.values.items())
        )


def merge_optics(stars: Sequence[ParticleStar]) -> tuple[list[ParticleStar], dict[str, list[str]], list[str]]:
    """Give the particles of several tables one numbering of optics groups.

    Groups of the same name are one group when no value that both have differs; groups without name, made from the
    rows of a RELION 3.0 table, join the first group they fit. Numbers count from 1 in the order of appearance.

    Returns
    -------
    list of ParticleStar
        The tables, with `rlnOpticsGroup` renumbered.
    dict
        Columns of the merged optics table.
    list of str
        Notes on values that had to be filled in.
    """
    groups: list[_Group] = []
    numbered = []
    for star in stars:
        own = _groups_of(star)
        places = []
        for group in own:
            place = next((index for index, known in enumerate(groups) if known.fits(group)), None)
            if place is None:
                place = len(groups)
                groups.append(_Group(group.name, dict(group.values)))
            else:
                groups[place].values = {**group.values, **groups[place].values}
                groups[place].name = groups[place].name or group.name
            places.append(place + 1)
        rows = np.array(places)[star.optics_rows()]
        numbered.append(with_columns(star, {NUMBER: rows.astype(str).astype(object)}))
    columns, notes = _columns(groups)
    return numbered, columns, notes


def with_optics(star: ParticleStar) -> ParticleStar:
    """Give a table without optics groups one per pixel size, voltage and aberration, and origins in Å.

    Raises
    ------
    UserError
        The table does not tell its pixel size.
    """
    if star.optics_block is not None:
        return star
    sizes = star.pixel_sizes()
    if sizes is None:
        raise UserError(
            f"{star.path}: tells no pixel size, which a table with optics groups needs; add rlnDetectorPixelSize and "
            "rlnMagnification."
        )
    # the same arithmetic gives 1.7005 or 1.70049999
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


def with_series_sizes(star: ParticleStar) -> ParticleStar:
    """Let the optics groups tell the pixels that coordinates count in, where RELION 3 takes those of the images.

    Beside a table of RELION 4, whose coordinates count in pixels of the tilt series, they would be taken for such.
    """
    sizes = star.pixel_sizes()
    if sizes is None or star.value_per_particle(SERIES_APIX) is not None:
        return star
    name = str(star.optics_block)
    block = star.blocks[name]
    columns = {str(key): [value] for key, value in block.items()} if isinstance(block, dict) else dict(block.items())
    groups = star.optics_rows()
    told = [sizes[groups == group] for group in range(len(columns[NUMBER]))]
    # a group without particles may have any
    columns[SERIES_APIX] = [f"{own[0]:.6f}" if own.size else f"{sizes[0]:.6f}" for own in told]
    columns[BINNING] = ["1.000000"] * len(told)
    return ParticleStar(star.path, {**star.blocks, name: make_table(columns)}, star.particle_block)


def _groups_of(star: ParticleStar) -> list[_Group]:
    block = star.blocks[str(star.optics_block)]
    table = make_table({key: [value] for key, value in block.items()}) if isinstance(block, dict) else block
    groups = []
    for row in table.to_dict("records"):
        name = row.pop(NAME, "") or None
        row.pop(NUMBER)
        groups.append(_Group(name, {str(key): str(value) for key, value in row.items()}))
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
        filler = _neutral(key, given[0])
        for group, name in zip(groups, names, strict=True):
            if key not in group.values:
                filled.setdefault(name, []).append(f"{key} {filler}")
        columns[key] = [group.values.get(key, filler) for group in groups]
    return columns, [f"the optics group {name} was given {', '.join(values)}" for name, values in filled.items()]


def _neutral(column: str, example: str) -> str:
    """Value for a group that lacks a column: no aberration, nothing multiplied, else the value of another group."""
    if column == PREMULTIPLIED:
        return "0"
    if column.startswith("rlnMagMat"):
        return "1.000000" if column in ("rlnMagMat00", "rlnMagMat11") else "0.000000"
    if column.startswith("rlnBeamTilt"):
        return "0.000000"
    if column.endswith("Zernike"):
        return f"[{','.join('0' for _ in example.split(','))}]"
    return example


def _same(one: str, other: str) -> bool:
    try:
        return bool(np.isclose(float(one), float(other), rtol=1e-5, atol=1e-9))
    except ValueError:
        return one == other
