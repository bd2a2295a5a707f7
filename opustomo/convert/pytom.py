"""Conversion of particle lists of PyTom (XML) to RELION 3.0.

Lists are read as a stream by expat. Documents that declare entities or a document type are refused, because
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

from opustomo.convert import Converted
from opustomo.convert.conventions import relion_from_pytom
from opustomo.errors import UserError
from opustomo.io.star import to_numbers
from opustomo.io.star_conventions import COORDINATES, Numbers, constant_column, make_table, with_columns, xyz_columns
from opustomo.io.star_tables import EULER_COLUMNS, ORIGIN_COLUMNS, ParticleStar
from opustomo.io.tomograms import tomogram_stem

# Numeric attributes; those of positions are required.
_PLACE = (("PickPosition", "X"), ("PickPosition", "Y"), ("PickPosition", "Z"))
_ANGLES = (("Rotation", "Z1"), ("Rotation", "X"), ("Rotation", "Z2"))
_SHIFT = (("Shift", "X"), ("Shift", "Y"), ("Shift", "Z"))
_ELEMENTS = ("PickPosition", "Rotation", "Shift", "Score", "Class", "InfoTomogram")
_NOTHING: dict[str, str] = {}

Attributes = dict[str, list[dict[str, str]]]
"""Attributes of each particle by element name, for `Particle` and relevant elements directly below it."""


@dataclass(frozen=True)
class PytomScale:
    """Units of the coordinates of a list.

    Attributes
    ----------
    apix
        Pixel size in Å of the tomogram in which the particles were picked.
    binning
        Binning of that tomogram, by which coordinates and shifts are multiplied and the pixel size is divided.
    magnification
        `rlnMagnification` of the output, which determines `rlnDetectorPixelSize`.
    """

    apix: float = 7.84
    binning: float = 4.0
    magnification: float = 10000.0


def read_particle_list(path: str | os.PathLike[str]) -> Attributes:
    """Read all particles of one list.

    Raises
    ------
    UserError
        The file is missing, not XML, declares entities, or is not a particle list.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: the XML file does not exist. Check the path.")
    particles: list[dict[str, str]] = []
    elements: Attributes = {name: [] for name in _ELEMENTS}
    root = ""
    # Depth is 0 outside a particle, 1 in it, 2 in an element directly below, …; a Score may contain another Score.
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
    # Millions of small dictionaries are created, none of them garbage; collection would take half of the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        with path.open("rb") as file:
            parser.ParseFile(file)
    except expat.ExpatError as error:
        raise UserError(f"{path}: not readable as XML ({error}). Give a particle list of PyTom.") from error
    finally:
        if collecting:
            gc.enable()
    if not particles:
        found = f"<{root}> without <Particle>" if root != "ParticleList" else "an empty <ParticleList>"
        raise UserError(f"{path}: the file contains {found}, but a <ParticleList> of PyTom with particles is expected.")
    for values in elements.values():
        values += [_NOTHING] * (len(particles) - len(values))
    return {"Particle": particles, **elements}


def relion_from_pytom_list(path: str | os.PathLike[str], scale: PytomScale) -> dict[str, list[str]]:
    """Read one list and convert it to columns of a RELION 3.0 table.

    Coordinates are PickPosition × binning and origins are −Shift × binning, both in pixels of apix/binning. Z1, X, Z2
    become RELION's angles. The tomogram of a particle without the Origin of PickPosition is named by the list.

    Raises
    ------
    UserError
        As in `read_particle_list`, or a position is missing, or a position or angle is not a number.
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
                    f"{path}: the particle {row} has no {element} {attribute}. Write the list again with pick "
                    "positions."
                )
            columns.append(to_numbers(values, f"{element} {attribute}", str(path)))
        return np.stack(columns, axis=1)

    places = numbers(_PLACE, default="")
    paradigms = texts("Rotation", "Paradigm", "ZXZ")
    if set(paradigms) != {"ZXZ"}:
        row = next(index for index, paradigm in enumerate(paradigms) if paradigm != "ZXZ")
        raise UserError(
            f"{path}: the rotation paradigm of particle {row + 1} is {paradigms[row]}, but ZXZ is expected."
        )
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
    """Read several lists in parallel and convert them to one table in the order of `paths`.

    Parameters
    ----------
    paths
        Lists of PyTom.
    scale
        Pixel size and binning.
    workers
        Maximum number of processes, which is limited by the number of lists and cores.
    advance
        Function that is called after each list.

    Raises
    ------
    UserError
        As in `relion_from_pytom_list`.
    """
    workers = min(workers, len(paths), os.cpu_count() or 1)
    parts: list[dict[str, list[str]]] = []
    if workers < 2:
        for path in paths:
            parts.append(relion_from_pytom_list(path, scale))
            advance()
    else:
        # Spawned processes inherit no locks of this process.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            for part in pool.map(relion_from_pytom_list, paths, [scale] * len(paths)):
                parts.append(part)
                advance()
    columns = {name: [value for part in parts for value in part[name]] for name in parts[0]}
    count = len(columns["rlnMicrographName"])
    detector = scale.apix / scale.binning * scale.magnification / 1e4
    size = {"rlnMagnification": f"{scale.magnification:g}", "rlnDetectorPixelSize": f"{detector:g}"}
    # Columns without values are left out.
    blank = {
        name for name, empty in (("rlnImageName", "None"), ("rlnClassNumber", "0")) if set(columns[name]) == {empty}
    }
    kept = {name: values for name, values in columns.items() if name not in blank}
    table = make_table({**kept, **{name: constant_column(value, count) for name, value in size.items()}})
    note = f"coordinates and origins are in pixels of {scale.apix / scale.binning:g} Å"
    return Converted(ParticleStar(None, {"": table}, ""), count, (note,))


def check_ctf_template(template: str) -> None:
    """Check a pattern for rlnCtfImage.

    Raises
    ------
    UserError
        The pattern has other fields than `{ts_name}` and `{i}`, or no `{i}`, so particles would share one file.
    """
    try:
        differs = template.format(ts_name="a", i=1) != template.format(ts_name="a", i=2)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise UserError(
            f"--ctf-template {template}: only {{ts_name}} and {{i}} are allowed ({error}). Use, for example, "
            "{ts_name}/{ts_name}_{i:06d}_ctf.star."
        ) from error
    if not differs:
        raise UserError(f"--ctf-template {template}: without {{i}} all particles would have the same CTF. Add {{i}}.")


def with_ctf_images(result: Converted, template: str) -> Converted:
    """Add rlnCtfImage from a template, a tomogram name and the number of each particle in its tomogram, from 1."""
    counts: dict[str, int] = {}
    names = []
    for tomogram in map(tomogram_stem, result.star.strings("rlnMicrographName")):
        counts[tomogram] = counts.get(tomogram, 0) + 1
        names.append(template.format(ts_name=tomogram, i=counts[tomogram]))
    column = {"rlnCtfImage": np.array(names, dtype=object)}
    note = f"rlnCtfImage numbers the particles of each tomogram from 1, the first is {names[0]}"
    return replace(result, star=with_columns(result.star, column), notes=(*result.notes, note))


def _put(values: list[dict[str, str]], count: int, attributes: dict[str, str]) -> None:
    """Store the attributes of an element of particle number `count`; earlier particles may lack this element."""
    if len(values) < count - 1:
        values += [_NOTHING] * (count - 1 - len(values))
    if len(values) == count:
        values[-1] = attributes
    else:
        values.append(attributes)


def _refuse(path: Path) -> Callable[..., None]:
    def refuse(*_: object) -> None:
        raise UserError(f"{path}: the file declares a document type or entities, which is not allowed. Remove them.")

    return refuse
