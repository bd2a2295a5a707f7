"""Particle lists of PyTom (XML) to RELION 3.0.

A list is read as a stream by expat; documents that declare entities or name a document type are refused, because
expanding entities can fill the memory or read other files.
"""

import gc
import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from xml.parsers import expat

import numpy as np

from opustomo.convert.columns import (
    COORDINATES,
    Converted,
    Numbers,
    make_table,
    repeated,
    with_columns,
    xyz_columns,
)
from opustomo.convert.frames import relion_from_pytom
from opustomo.errors import UserError
from opustomo.io.star import to_numbers
from opustomo.io.star_tables import EULER_COLUMNS, ORIGIN_COLUMNS, ParticleStar
from opustomo.io.tomograms import tomogram_stem

# attributes that are numbers; those of places must be there
_PLACE = (("PickPosition", "X"), ("PickPosition", "Y"), ("PickPosition", "Z"))
_ANGLES = (("Rotation", "Z1"), ("Rotation", "X"), ("Rotation", "Z2"))
_SHIFT = (("Shift", "X"), ("Shift", "Y"), ("Shift", "Z"))
_ELEMENTS = ("PickPosition", "Rotation", "Shift", "Score", "Class", "InfoTomogram")
_NOTHING: dict[str, str] = {}

Attributes = dict[str, list[dict[str, str]]]
"""Element name → its attributes for each particle: of `Particle` itself and of those right below it that matter."""


@dataclass(frozen=True)
class PytomScale:
    """How places of a list are written.

    Attributes
    ----------
    apix
        Pixel size in Å of the tomogram in which the particles were picked.
    binning
        Its binning: coordinates and shifts are multiplied by it, the pixel size is divided by it.
    magnification
        `rlnMagnification` to write; `rlnDetectorPixelSize` follows from it.
    """

    apix: float = 7.84
    binning: float = 4.0
    magnification: float = 10000.0


def read_particle_list(path: str | os.PathLike[str]) -> Attributes:
    """Read all particles of one list.

    Raises
    ------
    UserError
        The file is missing, no XML, declares entities, or is no particle list.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such XML file; check the path.")
    particles: list[dict[str, str]] = []
    elements: Attributes = {name: [] for name in _ELEMENTS}
    root = ""
    # 0 outside of a particle, 1 in it, 2 in an element right below, …; a Score may hold another one
    depth = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth, root
        if depth:
            depth += 1
            if depth == 2 and name in elements:
                _put(elements[name], len(particles), attributes)
        elif name == "Particle":
            depth = 1
            particles.append(attributes)
        else:
            root = root or name

    def end(_: str) -> None:
        nonlocal depth
        if depth:
            depth -= 1

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.StartDoctypeDeclHandler = _refuse(path)
    parser.EntityDeclHandler = _refuse(path)
    # millions of small dictionaries come up, none of them garbage: looking for it would take half of the time
    collecting = gc.isenabled()
    gc.disable()
    try:
        with path.open("rb") as file:
            parser.ParseFile(file)
    except expat.ExpatError as error:
        raise UserError(f"{path}: not readable as XML ({error}); give a particle list of PyTom.") from error
    finally:
        if collecting:
            gc.enable()
    if not particles:
        found = f"<{root}> without <Particle>" if root != "ParticleList" else "an empty <ParticleList>"
        raise UserError(f"{path}: holds {found}, where PyTom's <ParticleList> with particles is expected.")
    for values in elements.values():
        values += [_NOTHING] * (len(particles) - len(values))
    return {"Particle": particles, **elements}


def relion_from_pytom_list(path: str | os.PathLike[str], scale: PytomScale) -> dict[str, list[str]]:
    """Read one list and turn it into columns of a RELION 3.0 table.

    Coordinates are PickPosition × binning, origins −Shift × binning, both in pixels of apix/binning; Z1, X, Z2 become
    RELION's angles. A particle without PickPosition's Origin is of the tomogram named by the list's file name.

    Raises
    ------
    UserError
        See `read_particle_list`; also for a place or angle that is missing or no number.
    """
    path = Path(path)
    elements = read_particle_list(path)

    def texts(element: str, attribute: str, default: str) -> list[str]:
        return [attributes.get(attribute, default) for attributes in elements[element]]

    def numbers(keys: tuple[tuple[str, str], ...], default: str = "0") -> Numbers:
        columns = []
        for element, attribute in keys:
            values = texts(element, attribute, default)
            if not default and "" in values:
                row = values.index("") + 1
                raise UserError(
                    f"{path}: particle {row} has no {element} {attribute}; write the list again with pick positions."
                )
            columns.append(to_numbers(values, f"{element} {attribute}", str(path)))
        return np.stack(columns, axis=1)

    places = numbers(_PLACE, default="")
    paradigms = texts("Rotation", "Paradigm", "ZXZ")
    if set(paradigms) != {"ZXZ"}:
        row = next(index for index, paradigm in enumerate(paradigms) if paradigm != "ZXZ")
        raise UserError(f"{path}: the rotation of particle {row + 1} is in {paradigms[row]}; ZXZ is expected.")
    tomograms = zip(texts("PickPosition", "Origin", ""), texts("InfoTomogram", "TomoName", ""), strict=True)
    columns: dict[str, Iterable[str]] = {
        "rlnMicrographName": [origin or name or path.stem for origin, name in tomograms],
        **xyz_columns(COORDINATES, places * scale.binning),
        **xyz_columns(EULER_COLUMNS, relion_from_pytom(numbers(_ANGLES))),
        **xyz_columns(ORIGIN_COLUMNS, 0.0 - numbers(_SHIFT) * scale.binning),
        "rlnImageName": [name or "None" for name in texts("Particle", "Filename", "")],
        "rlnAutopickFigureOfMerit": texts("Score", "Value", "0"),
        "rlnClassNumber": texts("Class", "Name", "0"),
    }
    return {name: list(values) for name, values in columns.items()}


def relion_from_pytom_lists(
    paths: Sequence[str | os.PathLike[str]],
    scale: PytomScale,
    workers: int = 1,
    advance: Callable[[], object] = lambda: None,
) -> Converted:
    """Read several lists, in parallel, and put their particles into one table in the order of `paths`.

    Parameters
    ----------
    paths
        Lists of PyTom.
    scale
        Pixel size and binning.
    workers
        Processes; no more than lists and cores are used.
    advance
        Called after each list.

    Raises
    ------
    UserError
        As `relion_from_pytom_list`.
    """
    workers = min(workers, len(paths), os.cpu_count() or 1)
    parts: list[dict[str, list[str]]] = []
    if workers < 2:
        for path in paths:
            parts.append(relion_from_pytom_list(path, scale))
            advance()
    else:
        # spawned, so that no lock of this process is inherited
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            for part in pool.map(relion_from_pytom_list, paths, [scale] * len(paths)):
                parts.append(part)
                advance()
    columns = {name: [value for part in parts for value in part[name]] for name in parts[0]}
    count = len(columns["rlnMicrographName"])
    detector = scale.apix / scale.binning * scale.magnification / 1e4
    size = {"rlnMagnification": f"{scale.magnification:g}", "rlnDetectorPixelSize": f"{detector:g}"}
    # columns that say nothing for any particle are left out
    blank = {
        name for name, empty in (("rlnImageName", "None"), ("rlnClassNumber", "0")) if set(columns[name]) == {empty}
    }
    kept = {name: values for name, values in columns.items() if name not in blank}
    table = make_table({**kept, **{name: repeated(value, count) for name, value in size.items()}})
    note = f"coordinates and origins are in pixels of {scale.apix / scale.binning:g} Å"
    return Converted(ParticleStar(None, {"": table}, ""), count, (note,))


def check_ctf_template(template: str) -> None:
    """Check a pattern for rlnCtfImage.

    Raises
    ------
    UserError
        The pattern holds other fields than `{ts_name}` and `{i}`, or not `{i}`, so that particles would share one file.
    """
    try:
        differs = template.format(ts_name="a", i=1) != template.format(ts_name="a", i=2)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise UserError(
            f"--ctf-template {template}: only {{ts_name}} and {{i}} can be filled in ({error}); write, for example, "
            "{ts_name}/{ts_name}_{i:06d}_ctf.star."
        ) from error
    if not differs:
        raise UserError(f"--ctf-template {template}: without {{i}} all particles would have the same CTF; add {{i}}.")


def with_ctf_images(result: Converted, template: str) -> Converted:
    """Add rlnCtfImage: the template with the tomogram's name and each particle's number in it, from 1, filled in."""
    counts: dict[str, int] = {}
    names = []
    for tomogram in map(tomogram_stem, result.star.strings("rlnMicrographName")):
        counts[tomogram] = counts.get(tomogram, 0) + 1
        names.append(template.format(ts_name=tomogram, i=counts[tomogram]))
    column = {"rlnCtfImage": np.array(names, dtype=object)}
    note = f"rlnCtfImage counts the particles of each tomogram from 1, the first is {names[0]}"
    return replace(result, star=with_columns(result.star, column), notes=(*result.notes, note))


def _put(values: list[dict[str, str]], count: int, attributes: dict[str, str]) -> None:
    """Note the attributes of an element of the particle number `count`; those before it may not have had one."""
    if len(values) < count - 1:
        values += [_NOTHING] * (count - 1 - len(values))
    if len(values) == count:
        values[-1] = attributes
    else:
        values.append(attributes)


def _refuse(path: Path) -> Callable[..., None]:
    def refuse(*_: object) -> None:
        raise UserError(f"{path}: declares a document type or entities, which a particle list needs not; remove them.")

    return refuse
