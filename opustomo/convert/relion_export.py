"""Export of a particle set to RELION 3.1 and later: optics table, float32 subtomograms and CTF volumes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from opustomo.convert.optics_groups import with_optics
from opustomo.data.config import DataConfig
from opustomo.data.particles import ParticleSet, load_particles
from opustomo.errors import UserError
from opustomo.io.ctf_tables import TiltTable
from opustomo.io.mrc import MrcHeader, read_volume, write_volume
from opustomo.io.progress_bar import progress
from opustomo.io.star_conventions import (
    constant_column,
    format_fixed,
    make_table,
    with_columns,
    without_columns,
    xyz_columns,
)
from opustomo.io.star_tables import EULER_COLUMNS, ORIGIN_ANGST_COLUMNS, ORIGIN_COLUMNS, ParticleStar
from opustomo.physics.ctf import TiltBatch, ctf_volume
from opustomo.physics.fourier import centered_full

TABLE_NAME = "particles.star"
READABLE = {"i1", "i2", "f4"}
"""Voxel types (MRC modes 0, 1 and 2) that RELION 3.1 reads; it refuses mode 12 and reads mode 6 as signed integers."""
_MICROSCOPE = {"rlnVoltage": 300.0, "rlnSphericalAberration": 2.7, "rlnAmplitudeContrast": 0.07}
"""Values that RELION requires in every optics group, with defaults."""
_UNUSABLE = " \t\n'\"@"


@dataclass(frozen=True)
class RelionExport:
    """Result of an export.

    Attributes
    ----------
    star
        Particle table, whose paths are relative to its folder; RELION must be started there.
    particles, converted, ctf_volumes
        Numbers of particles, float32 copies and CTF volumes.
    notes
        Notes for the user.
    """

    star: Path
    particles: int
    converted: int
    ctf_volumes: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RelionOptions:
    """Options of an export.

    Attributes
    ----------
    ctf_normalized
        Form of the CTF volumes, see :func:`opustomo.physics.ctf.ctf_volume`.
    ctf_volumes
        Whether CTF volumes are written; otherwise rlnCtfImage refers to the same files as before.
    copy_all
        Whether subtomograms that RELION can read are copied too; otherwise the table refers to the existing files.
    """

    ctf_normalized: bool = False
    ctf_volumes: bool = True
    copy_all: bool = False


def export_relion(config: DataConfig, folder: Path, options: RelionOptions) -> RelionExport:
    """Write a particle set for RELION 3.1 and later; the table is written last.

    Parameters
    ----------
    config
        The particles. Their poses (of the table, or of ``config.poses``) are written with origins in Å.
    folder
        Output folder of the table, the float32 copies of subtomograms and the CTF volumes.
    options
        Options of the export.

    Raises
    ------
    UserError
        An input is missing or damaged, pixel sizes differ between particles, or an output file exists.
    """
    particles = load_particles(config)
    _check_pixel_sizes(particles)
    has_ctf = config.use_ctf and "rlnCtfImage" in particles.star
    star = _with_microscope(_relion31_table(particles), particles, has_ctf)
    names, sources = _image_names(particles, folder, options.copy_all)
    ctf_names = _ctf_names(particles) if options.ctf_volumes else []
    existing = next((path for name in (TABLE_NAME, *sources, *ctf_names) if (path := folder / name).exists()), None)
    if existing is not None:
        raise UserError(f"{existing} exists already. Give another folder with -o, or remove the file.")
    with progress(len(sources), "float32 copies") as advance:
        for name, image in sources.items():
            write_volume(folder / name, read_volume(image.path)[0], particles.apix)
            advance(1)
    with progress(len(ctf_names), "CTF volumes") as advance:
        for name, table in zip(ctf_names, particles.tables, strict=False):
            write_ctf_volume(folder / name, table, particles.box, particles.apix, options.ctf_normalized)
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
            "the set does not state voltage, spherical aberration and amplitude contrast, so the optics block has "
            "300 kV, 2.7 mm and 0.07; RELION does not use these values with CTF volumes",
        )
    return RelionExport(out, len(particles), len(sources), len(ctf_names), notes)


def _check_pixel_sizes(particles: ParticleSet) -> None:
    """Raise an error if the set has several pixel sizes, because CTF volumes are computed for one."""
    sizes = particles.star.pixel_sizes()
    if sizes is not None and sizes.max() > 1.01 * sizes.min():
        low, high = sizes.min(), sizes.max()
        raise UserError(
            f"{particles.star.path}: the pixel sizes of the particles range from {low:.4g} to {high:.4g} Å. Export the "
            "particles of each size separately, selected with --ind."
        )


def write_ctf_volume(path: Path, table: TiltTable, box: int, apix: float, normalized: bool) -> None:
    """Write a 3D CTF as ``relion_reconstruct --reconstruct_ctf`` does: (D, D, D), zero frequency at voxel D/2."""
    half = ctf_volume(TiltBatch.pad([table]), box, apix, normalized=normalized)
    write_volume(path, centered_full(half)[0].numpy(), apix)


def _readable(image: MrcHeader, name: str) -> bool:
    """Return whether RELION can read a subtomogram; the suffix is the format, and @ refers to sections of stacks."""
    plain = not any(sign in name for sign in _UNUSABLE) and name.endswith(".mrc")
    return plain and image.dtype.newbyteorder("=").str[1:] in READABLE


def _image_names(particles: ParticleSet, folder: Path, copy_all: bool) -> tuple[list[str], dict[str, MrcHeader]]:
    """Return the name of every subtomogram relative to ``folder``, and the files to copy by their new names."""
    names: list[str] = []
    sources: dict[str, MrcHeader] = {}
    star_names = particles.star.strings("rlnImageName")
    for row, (image, name) in enumerate(zip(particles.images, star_names, strict=True)):
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
    """Return the name of the volume of every CTF table, which is made from the first particle of the table."""
    star = particles.star
    column = "rlnCtfImage" if "rlnCtfImage" in star else "rlnImageName"
    star_names, firsts = star.strings(column), np.unique(particles.table, return_index=True)[1]
    names: dict[str, None] = {}
    for index, first in enumerate(firsts.tolist(), 1):
        wanted = inner_name(star_names[first])
        stem = wanted.stem if column == "rlnCtfImage" else f"{wanted.stem}_ctf"
        name = str(PurePosixPath("ctf") / wanted.parent / f"{stem}.mrc")
        names[name if name not in names else f"{name.removesuffix('.mrc')}_{index}.mrc"] = None
    return list(names)


def inner_name(name: str) -> PurePosixPath:
    """Return a relative name inside a folder, without root, drive, parent folders, spaces and quotes."""
    parts = [part for part in PureWindowsPath(name).parts if part not in ("..", ".") and not part.endswith(("\\", ":"))]
    clean = ["".join("_" if sign in _UNUSABLE else sign for sign in part) for part in parts if part != "/"]
    return PurePosixPath(*clean)


def _relion31_table(particles: ParticleSet) -> ParticleStar:
    """Return the particle table of RELION 3.1 with poses, origins in Å, and an optics table."""
    star = particles.star
    if star.optics_block is None and star.pixel_sizes() is None:
        star = with_columns(star, {"rlnPixelSize": constant_column(f"{particles.apix:.6f}", len(star))})
    star = without_columns(with_optics(star), set(ORIGIN_COLUMNS))
    poses = particles.poses
    origins_A = poses.origins * particles.box * particles.apix
    star = with_columns(star, xyz_columns(EULER_COLUMNS, poses.eulers_deg))
    star = with_columns(star, xyz_columns(ORIGIN_ANGST_COLUMNS, origins_A))
    optics = str(star.optics_block)
    others = {name: block for name, block in star.blocks.items() if name not in (optics, star.particle_block)}
    # RELION finds these two blocks by name.
    blocks = {"optics": star.blocks[optics], "particles": star.particles, **others}
    return ParticleStar(star.path, blocks, "particles")


def _with_microscope(star: ParticleStar, particles: ParticleSet, has_ctf: bool) -> ParticleStar:
    """Return the table with the microscope, pixel size and box in the optics table, as RELION requires."""
    block = star.blocks["optics"]
    columns = {str(name): np.asarray([value] if isinstance(block, dict) else value) for name, value in block.items()}
    rows = star.optics_rows()
    count = len(next(iter(columns.values())))
    # A group without particles gets the values of the first particle.
    first = [int(np.argmax(rows == group)) for group in range(count)]
    tables = [particles.tables[particles.table[row]] for row in first]
    measured = {
        "rlnVoltage": [table.voltage_kv[0] for table in tables],
        "rlnSphericalAberration": [table.cs_mm[0] for table in tables],
        "rlnAmplitudeContrast": [table.amplitude_contrast[0] for table in tables],
    }
    for name, usual in _MICROSCOPE.items():
        columns.setdefault(name, format_fixed(measured[name] if has_ctf else np.full(count, usual)))
    if "rlnOpticsGroupName" not in columns or not all(map(str, columns["rlnOpticsGroupName"])):
        columns["rlnOpticsGroupName"] = np.array([f"opticsGroup{i + 1}" for i in range(count)], dtype=object)
    columns["rlnImagePixelSize"] = format_fixed(np.full(count, particles.apix))
    columns["rlnImageSize"] = constant_column(particles.box, count)
    columns["rlnImageDimensionality"] = constant_column(3, count)
    return ParticleStar(star.path, {**star.blocks, "optics": make_table(columns)}, star.particle_block)
