"""Particle lists of PyTom (XML) to RELION 3.0.

A list is read as a stream by expat; documents that declare entities or name a document type are refused, because
expanding entities can fill the memory or read other files.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

import numpy as np

from opustomo.convert.angles import relion_from_pytom
from opustomo.convert.columns import COORDINATES, Converted, Numbers, make_table, repeated, xyz_columns
from opustomo.errors import UserError
from opustomo.io.star import EULER_COLUMNS, ORIGIN_COLUMNS, ParticleStar
from opustomo.io.star_numbers import to_numbers

# element of a particle → its attribute → our column; the first three make the table, the others are carried along
_ATTRIBUTES = {
    "PickPosition": {"X": "x", "Y": "y", "Z": "z", "Origin": "tomogram"},
    "Rotation": {"Z1": "z1", "X": "x_turn", "Z2": "z2", "Paradigm": "paradigm"},
    "Shift": {"X": "shift_x", "Y": "shift_y", "Z": "shift_z"},
    "Score": {"Value": "score"},
    "Class": {"Name": "class"},
    "InfoTomogram": {"TomoName": "tomo_name"},
}
_NUMBERS = ("x", "y", "z", "z1", "x_turn", "z2", "shift_x", "shift_y", "shift_z")
_NEEDED = {"x": "PickPosition X", "y": "PickPosition Y", "z": "PickPosition Z"}


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


@dataclass
class _Reader:
    """Gathers the attributes of all particles of one list."""

    particles: list[dict[str, str]] = field(default_factory=list)
    root: str | None = None
    _now: dict[str, str] | None = None
    # a Score may hold further elements with attributes of the same name
    _path: list[str] = field(default_factory=list)

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self.root = self.root or name
        self._path.append(name)
        if name == "Particle":
            self._now = {"file": attributes.get("Filename", "")}
            self.particles.append(self._now)
        elif self._now is not None and len(self._path) > 1 and self._path[-2] == "Particle" and name in _ATTRIBUTES:
            for attribute, column in _ATTRIBUTES[name].items():
                if attribute in attributes:
                    self._now[column] = attributes[attribute]

    def end(self, name: str) -> None:
        self._path.pop()
        if name == "Particle":
            self._now = None


def read_particle_list(path: str | os.PathLike[str]) -> list[dict[str, str]]:
    """Read the attributes of all particles of one list.

    Raises
    ------
    UserError
        The file is missing, no XML, declares entities, or is no particle list.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such XML file; check the path.")
    parser, reader = expat.ParserCreate(), _Reader()
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.StartDoctypeDeclHandler = _refuse(path)
    parser.EntityDeclHandler = _refuse(path)
    try:
        with path.open("rb") as file:
            parser.ParseFile(file)
    except expat.ExpatError as error:
        raise UserError(f"{path}: not readable as XML ({error}); give a particle list of PyTom.") from error
    if not reader.particles:
        found = f"<{reader.root}> without <Particle>" if reader.root != "ParticleList" else "an empty <ParticleList>"
        raise UserError(f"{path}: holds {found}, where PyTom's <ParticleList> with particles is expected.")
    return reader.particles


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
    particles = read_particle_list(path)
    for row, particle in enumerate(particles, 1):
        lacking = next((words for key, words in _NEEDED.items() if key not in particle), None)
        if lacking is not None:
            raise UserError(f"{path}: particle {row} has no {lacking}; write the list again with pick positions.")
        paradigm = particle.get("paradigm", "ZXZ")
        if paradigm != "ZXZ":
            raise UserError(f"{path}: the rotation of particle {row} is in {paradigm}; ZXZ is expected.")
    numbers = {key: to_numbers([p.get(key, "0") for p in particles], key, str(path)) for key in _NUMBERS}

    def stack(*keys: str) -> Numbers:
        return np.stack([numbers[key] for key in keys], axis=1)

    eulers = relion_from_pytom(stack("z1", "x_turn", "z2"))
    columns: dict[str, Iterable[object]] = {
        "rlnMicrographName": [p.get("tomogram") or p.get("tomo_name") or path.stem for p in particles],
        **xyz_columns(COORDINATES, stack("x", "y", "z") * scale.binning),
        **xyz_columns(EULER_COLUMNS, eulers),
        **xyz_columns(ORIGIN_COLUMNS, 0.0 - stack("shift_x", "shift_y", "shift_z") * scale.binning),
        "rlnImageName": [p["file"] or "None" for p in particles],
        "rlnAutopickFigureOfMerit": [p.get("score", "0") for p in particles],
        "rlnClassNumber": [p.get("class", "0") for p in particles],
    }
    return {name: [str(value) for value in values] for name, values in columns.items()}


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


def _refuse(path: Path) -> Callable[..., None]:
    def refuse(*_: object) -> None:
        raise UserError(f"{path}: declares a document type or entities, which a particle list needs not; remove them.")

    return refuse
