"""Combination of particle tables of any RELION versions."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from opustomo.convert import Converted
from opustomo.convert.optics_groups import (
    BINNING,
    NUMBER,
    SERIES_APIX,
    follow_optics,
    merge_optics,
    microscope_value,
    optics_note,
    voltage_note,
    with_image_boxes,
    with_image_sizes,
    with_optics,
    with_series_sizes,
)
from opustomo.convert.relion30 import particle_keys
from opustomo.errors import UserError
from opustomo.io.star import format_pixel_sizes
from opustomo.io.star_conventions import (
    CENTERED_COORDINATES,
    COORDINATES,
    OWN_APIX,
    Numbers,
    Texts,
    constant_column,
    coordinate_sizes,
    format_fixed,
    is_image_series,
    is_stack_set,
    make_table,
    with_columns,
    without_columns,
    xyz_columns,
)
from opustomo.io.star_tables import MICROSCOPE_COLUMNS, ORIGIN_ANGST_COLUMNS, ORIGIN_COLUMNS, ParticleStar

# With a magnification of 10,000, the pixel size of the detector is that of the image.
_PIXEL_SIZES = {"rlnImagePixelSize", "rlnPixelSize", "rlnDetectorPixelSize"}
# Name of the tomogram in RELION 4 and later, and in earlier versions.
_TWINS = {"rlnTomoName": "rlnMicrographName", "rlnMicrographName": "rlnTomoName"}
_NEUTRAL = {
    "rlnMagnification": "10000.0",
    "rlnCtfScalefactor": "1.000000",
    "rlnNormCorrection": "1.000000",
    "rlnGroupNumber": "1",
}


@dataclass(frozen=True, eq=False)
class _Sizes:
    """Pixel sizes of images and of coordinates in one table, (N,) Å; None if the table does not state them."""

    images: Numbers | None
    coordinates: Numbers | None

    def of(self, column: str) -> Numbers | None:
        """Return the values of a missing column of pixel sizes, or None."""
        if column in _PIXEL_SIZES:
            return self.images
        if column in (SERIES_APIX, OWN_APIX):
            return self.coordinates
        if column == BINNING and self.images is not None and self.coordinates is not None:
            return self.images / self.coordinates
        return None


def combine(stars: Sequence[ParticleStar], drop_duplicates: bool = False) -> Converted:
    """Combine particle tables into one.

    If any table has an optics table, the result has the form of RELION 3.1: the other tables get optics groups from
    their rows and origins in Å. Optics groups are merged and renumbered. Missing columns are filled from the optics
    table, or else with 0, with None for text, and with the values of the other tables for the microscope. Blocks other
    than optics and particles are those of the first table that has them.

    Parameters
    ----------
    stars
        Two or more tables.
    drop_duplicates
        Whether only the first row of each particle is kept.

    Raises
    ------
    UserError
        Coordinates of one table are in pixels and of another in Å from the center of the tomogram; one table has
        images or 2D stacks and another subtomograms; one table states no pixel size while another does; or the
        microscope of a table is unknown and the other tables disagree.
    """
    _refuse_mixed_places(stars)
    _refuse_mixed_kinds(stars)
    sizes, notes = _pixel_sizes(stars)
    optics = None
    if any(star.optics_block is not None for star in stars):
        of_series = any(star.value_per_particle(SERIES_APIX) is not None for star in stars)
        stars = [with_image_boxes(_origins_in_angst(with_optics(star))) for star in stars]
        stars = [
            star if size.images is None else with_image_sizes(star, size.images)
            for star, size in zip(stars, sizes, strict=True)
        ]
        if of_series:
            stars = [with_series_sizes(star) if COORDINATES[0] in star else star for star in stars]
        stars, optics, merged = merge_optics(stars)
        notes += merged
    else:
        stars = _origins_alike(stars)
    columns, filled = _joined(stars, sizes, optics or {})
    notes += filled
    block = "particles" if optics is not None else stars[0].particle_block
    blocks = {} if optics is None else {"optics": make_table(optics)}
    blocks[block] = make_table(columns)
    for star in stars:
        own = {star.particle_block, star.optics_block}
        blocks = {**{name: other for name, other in star.blocks.items() if name not in own}, **blocks}
    result = ParticleStar(stars[0].path, blocks, block)
    count = len(result)
    result, duplicates = _without_duplicates(result, stars, drop_duplicates)
    voltage = voltage_note(result)
    return Converted(result, count, (*duplicates, *notes, *([] if voltage is None else [voltage])))


def _pixel_sizes(stars: Sequence[ParticleStar]) -> tuple[list[_Sizes], list[str]]:
    """Return the pixel sizes of all tables, and notes on picks for which that of the coordinates replaces the images'.

    Raises
    ------
    UserError
        Some tables state the pixel size of their images and others do not.
    """
    sizes = [_Sizes(star.pixel_sizes(), coordinate_sizes(star)) for star in stars]
    known = next((star for star, size in zip(stars, sizes, strict=True) if size.images is not None), None)
    if known is None:
        return sizes, []
    notes = []
    with_images = any("rlnImageName" in star for star in stars)
    for index, (star, size) in enumerate(zip(stars, sizes, strict=True)):
        if size.images is not None:
            continue
        if with_images or size.coordinates is None:
            where = "rlnImagePixelSize to its optics table" if star.optics_block is not None else "rlnPixelSize to it"
            raise UserError(
                f"{star.path}: the pixel size of the images is missing, but {known.path} has one. Add {where}, or "
                "extract the subtomograms of both tables first."
            )
        sizes[index] = _Sizes(size.coordinates, size.coordinates)
        notes.append(
            f"{star.path} has no images; the pixel size of its coordinates, {format_pixel_sizes(size.coordinates)}, "
            "is written as that of its images"
        )
    return sizes, notes


def _refuse_mixed_places(stars: Sequence[ParticleStar]) -> None:
    for kind, other in ((COORDINATES, CENTERED_COORDINATES), (CENTERED_COORDINATES, COORDINATES)):
        if all(column in stars[0] for column in kind):
            odd = next(
                (star for star in stars if other[0] in star and not all(column in star for column in kind)), None
            )
            if odd is not None:
                raise UserError(
                    f"{odd.path}: coordinates are in {other[0]}, but those of {stars[0].path} are in {kind[0]}; "
                    "convert one of the tables with dsdsh convert_relion5 first."
                )


def _refuse_mixed_kinds(stars: Sequence[ParticleStar]) -> None:
    images = next((star for star in stars if is_image_series(star)), None)
    particles = next((star for star in stars if not is_image_series(star)), None)
    if images is not None and particles is not None:
        raise UserError(
            f"{images.path}: the table has one row per image of a stack (000001@stack.mrcs), but {particles.path} has "
            "one row per particle. Make subtomograms of the first one with dsd prepare_subtomos, then combine."
        )
    stacks = [star for star in stars if is_stack_set(star)]
    other = next((star for star in stars if not is_stack_set(star) and "rlnImageName" in star), None)
    if stacks and other is not None:
        raise UserError(
            f"{stacks[0].path}: the table has 2D stacks of tilt images (rlnTomoSubTomosAre2DStacks), but {other.path} "
            "has subtomograms. Extract subtomograms of the first one too."
        )


def _origins_in_angst(star: ParticleStar) -> ParticleStar:
    """Convert origins to Å in a table with optics groups."""
    if not any(column in star for column in ORIGIN_COLUMNS):
        return star
    if not any(column in star for column in ORIGIN_ANGST_COLUMNS):
        sizes = star.pixel_sizes()
        if sizes is None:
            raise UserError(
                f"{star.path}: origins are in pixels, but the pixel size is missing. Add rlnImagePixelSize."
            )
        star = with_columns(star, xyz_columns(ORIGIN_ANGST_COLUMNS, star.origins_px() * sizes[:, None]))
    return without_columns(star, set(ORIGIN_COLUMNS))


def _origins_alike(stars: Sequence[ParticleStar]) -> list[ParticleStar]:
    """Convert origins in Å to pixels if tables without optics groups have different units."""
    in_angst = [any(column in star for column in ORIGIN_ANGST_COLUMNS) for star in stars]
    in_pixels = [any(column in star for column in ORIGIN_COLUMNS) for star in stars]
    if not (any(in_angst) and any(in_pixels)):
        return list(stars)
    alike = []
    for star, angst in zip(stars, in_angst, strict=True):
        if angst:
            if star.pixel_sizes() is None:
                raise UserError(
                    f"{star.path}: origins are in Å and those of another table in pixels, but the pixel size is "
                    "missing. Add rlnPixelSize."
                )
            star = with_columns(star, xyz_columns(ORIGIN_COLUMNS, star.origins_px()))
            star = without_columns(star, set(ORIGIN_ANGST_COLUMNS))
        alike.append(star)
    return alike


def _joined(
    stars: Sequence[ParticleStar], sizes: Sequence[_Sizes], optics: dict[str, list[str]]
) -> tuple[dict[str, Texts], list[str]]:
    """Concatenate the columns of all tables; missing ones are taken from the merged `optics` groups or filled."""
    columns: dict[str, Texts] = {}
    notes: list[str] = []
    filled: dict[tuple[str, str], list[str]] = {}
    for name in dict.fromkeys(column for star in stars for column in star.particles.columns):
        given = {index: star.particles[name].to_numpy(dtype=object) for index, star in enumerate(stars) if name in star}
        present = [values for values in given.values() if len(values)]
        for index, star in enumerate(stars):
            if index in given:
                if name in MICROSCOPE_COLUMNS and name in optics:
                    given[index], count = follow_optics(given[index], _of_groups(optics[name], star))
                    notes += [optics_note(star, name, count)] if count else []
                continue
            own, twin = _size_column(name, star, sizes[index]), _TWINS.get(name, "")
            if own is not None:
                given[index] = format_fixed(own)
            elif twin in star:
                given[index] = star.particles[twin].to_numpy(dtype=object)
            elif name in optics:
                given[index] = _of_groups(optics[name], star)
            else:
                filler = _filler(name, present, star)
                given[index] = constant_column(filler, len(star))
                filled.setdefault((str(star.path), filler), []).append(name)
        columns[name] = np.concatenate([given[index] for index in range(len(stars))])
    notes += [
        f"{path} has no {', '.join(names)}; missing values are filled with {filler}"
        for (path, filler), names in filled.items()
    ]
    return columns, notes


def _of_groups(values: list[str], star: ParticleStar) -> Texts:
    """Return the value of the optics group of each particle; groups are numbered from 1 in the order of `values`."""
    return np.array(values, dtype=object)[[int(number) - 1 for number in star.strings(NUMBER)]]


def _size_column(name: str, star: ParticleStar, sizes: _Sizes) -> Numbers | None:
    """Return the values of a missing column of pixel sizes or binning, or None."""
    own = sizes.of(name)
    if own is not None and name == "rlnDetectorPixelSize" and "rlnMagnification" in star:
        return own * star.numbers("rlnMagnification") * 1e-4
    return own


def _filler(name: str, present: Sequence[Texts], star: ParticleStar) -> str:
    """Return the text for a missing column, given the columns of the other tables."""
    if name in MICROSCOPE_COLUMNS:
        return microscope_value(name, [str(text) for values in present for text in dict.fromkeys(values)], star.path)
    return _NEUTRAL.get(name, "0" if all(_numeric(values[0]) for values in present) else "None")


def _numeric(text: object) -> bool:
    try:
        float(str(text))
    except ValueError:
        return False
    return True


def _without_duplicates(
    result: ParticleStar, stars: Sequence[ParticleStar], drop: bool
) -> tuple[ParticleStar, list[str]]:
    """Count rows of the same particle, and keep only the first ones if `drop` is true."""
    names = [column for column in ("rlnImageName", "rlnTomoParticleName") if column in result]
    # Columns with filled values do not distinguish particles.
    unsure = {column for column in names if not all(column in star for star in stars)}
    bare = without_columns(result, unsure)
    keys = particle_keys(bare)
    if keys is None:
        return result, ["duplicates were not searched for, because no column distinguishes particles"]
    counts = Counter(keys)
    repeats = len(keys) - len(counts)
    if not repeats:
        return result, []
    example = next(key for key, count in counts.items() if count > 1)
    words = example if isinstance(example, str) else " ".join(map(str, example))  # type: ignore[call-overload]
    action = "removed" if drop else "kept; --drop-duplicates removes them"
    note = f"{repeats} duplicates ({action}), for example {words}"
    if drop:
        first = dict[object, int]()
        for row, key in enumerate(keys):
            first.setdefault(key, row)
        result = result.subset(list(first.values()))
    return result, [note]
