"""Particle set for RELION 3.1 and later: optics table, float32 subtomograms and CTF volumes in one folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from opustomo.convert.columns import fixed, make_table, repeated, with_columns, without_columns, xyz_columns
from opustomo.convert.optics_groups import with_optics
from opustomo.data.config import DataConfig
from opustomo.data.particles import ParticleSet, load_particles
from opustomo.errors import UserError
from opustomo.io.ctf_tables import TiltTable
from opustomo.io.mrc import MrcHeader, read_volume, write_volume
from opustomo.io.progress_bar import progress
from opustomo.io.star_tables import EULER_COLUMNS, ORIGIN_ANGST_COLUMNS, ORIGIN_COLUMNS, ParticleStar
from opustomo.physics.ctf import TiltBatch, ctf_volume
from opustomo.physics.fourier import centered_full

TABLE_NAME = "particles.star"
READABLE = {"i1", "i2", "f4"}
"""Voxel types (MRC modes 0, 1 and 2) that RELION 3.1 reads; it refuses mode 12 and takes mode 6 for signed numbers."""
_MICROSCOPE = {"rlnVoltage": 300.0, "rlnSphericalAberration": 2.7, "rlnAmplitudeContrast": 0.07}
"""What RELION asks of every optics group, and what stands in where nothing tells it."""
_UNUSABLE = " \t\n'\"@"


@dataclass(frozen=True)
class RelionExport:
    """What was written.

    Attributes
    ----------
    star
        The particle table; its paths are relative to its folder, where RELION is to be started.
    particles, converted, ctf_volumes
        Numbers of particles, of float32 copies and of CTF volumes.
    notes
        What to tell the user, a sentence each.
    """

    star: Path
    particles: int
    converted: int
    ctf_volumes: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RelionOptions:
    """How a set is exported.

    Attributes
    ----------
    ctf_normalised
        Form of the CTF volumes, see :func:`opustomo.physics.ctf.ctf_volume`.
    ctf_volumes
        Write them; otherwise rlnCtfImage names the files it named before.
    copy_all
        Copy also subtomograms that RELION reads as they are; otherwise the table names the existing files.
    """

    ctf_normalised: bool = False
    ctf_volumes: bool = True
    copy_all: bool = False


def export_relion(config: DataConfig, folder: Path, options: RelionOptions) -> RelionExport:
    """Write a particle set that RELION 3.1 and later read; the table comes last.

    Parameters
    ----------
    config
        The particles. Their poses (of the table, or of ``config.poses``) are written with origins in Å.
    folder
        Where the table, float32 copies of subtomograms and CTF volumes go.
    options
        How.

    Raises
    ------
    UserError
        An input is missing or broken, pixel sizes differ between particles, or a file to write exists already.
    """
    particles = load_particles(config)
    _check_pixel_sizes(particles)
    has_ctf = config.use_ctf and "rlnCtfImage" in particles.star
    star = _with_microscope(_relion31_table(particles), particles, has_ctf)
    names, sources = _image_names(particles, folder, options.copy_all)
    ctf_names = _ctf_names(particles) if options.ctf_volumes else []
    existing = next((path for name in (TABLE_NAME, *sources, *ctf_names) if (path := folder / name).exists()), None)
    if existing is not None:
        raise UserError(f"{existing} exists already; give another folder with -o, or remove what is there.")
    with progress(len(sources), "float32 copies") as advance:
        for name, image in sources.items():
            write_volume(folder / name, read_volume(image.path)[0], particles.apix)
            advance(1)
    with progress(len(ctf_names), "CTF volumes") as advance:
        for name, table in zip(ctf_names, particles.tables, strict=False):
            write_ctf_volume(folder / name, table, particles.box, particles.apix, options.ctf_normalised)
            advance(1)
    columns = {"rlnImageName": names}
    if options.ctf_volumes:
        columns["rlnCtfImage"] = [ctf_names[index] for index in particles.table]
    elif "rlnCtfImage" in star:
        home = config.star.parent
        columns["rlnCtfImage"] = [os.path.relpath(home / name, folder) for name in star.strings("rlnCtfImage")]
    out = folder / TABLE_NAME
    with_columns(star, {name: np.array(values, dtype=object) for name, values in columns.items()}).write(out)
    notes = particles.notes
    if not has_ctf and any(particles.star.value_per_particle(name) is None for name in _MICROSCOPE):
        notes += (
            "the set does not hold the voltage, spherical aberration and amplitude contrast, so the optics block has "
            "300 kV, 2.7 mm and 0.07; RELION does not use them where it reads CTF volumes",
        )
    return RelionExport(out, len(particles), len(sources), len(ctf_names), notes)


def _check_pixel_sizes(particles: ParticleSet) -> None:
    """Refuse a set of several pixel sizes: the CTF volumes are computed for one."""
    sizes = particles.star.pixel_sizes()
    if sizes is not None and sizes.max() > 1.01 * sizes.min():
        low, high = sizes.min(), sizes.max()
        raise UserError(
            f"{particles.star.path}: the pixel sizes of the particles range from {low:.4g} to {high:.4g} Å; export the "
            "particles of each size on their own, chosen with --ind."
        )


def write_ctf_volume(path: Path, table: TiltTable, box: int, apix: float, normalized: bool) -> None:
    """Write a 3D CTF as ``relion_reconstruct --reconstruct_ctf`` does: (D, D, D), zero frequency at voxel D/2."""
    half = ctf_volume(TiltBatch.pad([table]), box, apix, normalized=normalized)
    write_volume(path, centered_full(half)[0].numpy(), apix)


def _readable(image: MrcHeader, name: str) -> bool:
    """Tell whether RELION reads a subtomogram under a name: it finds the format by the suffix, @ counts in stacks."""
    plain = not any(sign in name for sign in _UNUSABLE) and name.endswith(".mrc")
    return plain and image.dtype.newbyteorder("=").str[1:] in READABLE


def _image_names(particles: ParticleSet, folder: Path, copy_all: bool) -> tuple[list[str], dict[str, MrcHeader]]:
    """Name of every subtomogram as seen from ``folder``, and which files are to be copied under which names."""
    names: list[str] = []
    sources: dict[str, MrcHeader] = {}
    told = particles.star.strings("rlnImageName")
    for row, (image, name) in enumerate(zip(particles.images, told, strict=True)):
        there = os.path.relpath(image.path, folder)
        if not copy_all and _readable(image, there):
            names.append(there)
            continue
        wanted = inner_name(name).with_suffix(".mrc")
        place = str(wanted)
        if place in sources and sources[place].path != image.path:
            place = str(wanted.with_name(f"{wanted.stem}_{row + 1}.mrc"))
        sources[place] = image
        names.append(place)
    return names, sources


def _ctf_names(particles: ParticleSet) -> list[str]:
    """Name of the volume of every CTF table: that of the first particle that has it."""
    star = particles.star
    column = "rlnCtfImage" if "rlnCtfImage" in star else "rlnImageName"
    told, firsts = star.strings(column), np.unique(particles.table, return_index=True)[1]
    names: dict[str, None] = {}
    for index, first in enumerate(firsts.tolist(), 1):
        wanted = inner_name(told[first])
        stem = wanted.stem if column == "rlnCtfImage" else f"{wanted.stem}_ctf"
        name = str(PurePosixPath("ctf") / wanted.parent / f"{stem}.mrc")
        names[name if name not in names else f"{name.removesuffix('.mrc')}_{index}.mrc"] = None
    return list(names)


def inner_name(name: str) -> PurePosixPath:
    """Return a name as it may lie inside a folder: without root, drive and steps upwards, no spaces or quotes."""
    parts = [part for part in PureWindowsPath(name).parts if part not in ("..", ".") and not part.endswith(("\\", ":"))]
    clean = ["".join("_" if sign in _UNUSABLE else sign for sign in part) for part in parts if part != "/"]
    return PurePosixPath(*clean)


def _relion31_table(particles: ParticleSet) -> ParticleStar:
    """Poses in RELION's columns, origins in Å, and an optics table."""
    star = particles.star
    if star.optics_block is None and star.pixel_sizes() is None:
        star = with_columns(star, {"rlnPixelSize": repeated(f"{particles.apix:.6f}", len(star))})
    star = without_columns(with_optics(star), set(ORIGIN_COLUMNS))
    poses = particles.poses
    origins_A = poses.origins * particles.box * particles.apix
    star = with_columns(star, xyz_columns(EULER_COLUMNS, poses.eulers_deg))
    star = with_columns(star, xyz_columns(ORIGIN_ANGST_COLUMNS, origins_A))
    optics = str(star.optics_block)
    others = {name: block for name, block in star.blocks.items() if name not in (optics, star.particle_block)}
    # RELION looks for these two by their names
    blocks = {"optics": star.blocks[optics], "particles": star.particles, **others}
    return ParticleStar(star.path, blocks, "particles")


def _with_microscope(star: ParticleStar, particles: ParticleSet, has_ctf: bool) -> ParticleStar:
    """Fill in what RELION asks of an optics table: microscope, pixel size, box."""
    block = star.blocks["optics"]
    columns = {str(name): np.asarray([value] if isinstance(block, dict) else value) for name, value in block.items()}
    rows = star.optics_rows()
    count = len(next(iter(columns.values())))
    # a group without particles gets the values of the first particle
    first = [int(np.argmax(rows == group)) for group in range(count)]
    tables = [particles.tables[particles.table[row]] for row in first]
    measured = {
        "rlnVoltage": [table.voltage_kv[0] for table in tables],
        "rlnSphericalAberration": [table.cs_mm[0] for table in tables],
        "rlnAmplitudeContrast": [table.amplitude_contrast[0] for table in tables],
    }
    for name, usual in _MICROSCOPE.items():
        columns.setdefault(name, fixed(measured[name] if has_ctf else np.full(count, usual)))
    if "rlnOpticsGroupName" not in columns or not all(map(str, columns["rlnOpticsGroupName"])):
        columns["rlnOpticsGroupName"] = np.array([f"opticsGroup{i + 1}" for i in range(count)], dtype=object)
    columns["rlnImagePixelSize"] = fixed(np.full(count, particles.apix))
    columns["rlnImageSize"] = repeated(particles.box, count)
    columns["rlnImageDimensionality"] = repeated(3, count)
    return ParticleStar(star.path, {**star.blocks, "optics": make_table(columns)}, star.particle_block)
