"""Particle set of a run: loading and validation of images, poses and CTF tables."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from opustomo.data.config import DataConfig
from opustomo.errors import UserError
from opustomo.io.ctf_tables import TiltTable, read_relion_table, read_warp_table, wedge_only_table
from opustomo.io.image_paths import find_images, resolve_ctf_tables, resolve_images
from opustomo.io.indices import read_indices
from opustomo.io.mrc import APIX_TOLERANCE, MrcHeader, pixel_sizes_differ, read_header
from opustomo.io.poses import Poses, angle_note, origin_note, read_poses, require_origins, require_unit
from opustomo.io.star import format_pixel_sizes
from opustomo.io.star_conventions import is_image_series, named_size_note
from opustomo.io.star_poses import origin_unit_note, poses_from_star
from opustomo.io.star_tables import ParticleStar, read_particles

DEFAULT_RANGE_DEG, DEFAULT_STEP_DEG = 50.0, 2.0
"""Default tilts of the model of the missing wedge without CTF."""
MAX_BROKEN_FRACTION = 0.05


@dataclass(frozen=True)
class ParticleSet:
    """Particles of a run, except for their voxels.

    Attributes
    ----------
    star
        Particle table.
    images
        MRC headers of the subtomograms.
    poses
        Input poses.
    tables, table
        Distinct CTF tables, and the index of the table of each particle, (N,).
    box, apix
        Box size of the subtomograms in voxels, pixel size in Å.
    notes
        Notes for the user.
    selected
        Selected rows of the STAR file (``--ind``), None for all.
    """

    star: ParticleStar
    images: list[MrcHeader]
    poses: Poses
    tables: list[TiltTable]
    table: np.ndarray
    box: int
    apix: float
    notes: tuple[str, ...] = ()
    selected: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)


def load_particles(config: DataConfig, tolerant: bool = False) -> ParticleSet:
    """Read and check the inputs of a run.

    With ``tolerant``, up to 5 % of the subtomograms (at least one) may be missing or truncated, for resumed runs.

    Raises
    ------
    UserError
        If a file is missing or broken, or disagrees with another.
    """
    whole = read_particles(config.star)
    selected = None if config.ind is None else read_indices(config.ind, len(whole))
    star = whole if selected is None else whole.subset(selected)
    if is_image_series(star):
        raise UserError(
            f"{config.star} has one row per image of a stack, not per subtomogram. Reconstruct subtomograms with dsd "
            "prepare_subtomos and give their table."
        )
    images, lost = read_headers(star, config.datadir, tolerant)
    box = common_box(images)
    apix = pixel_size(images, star, config.apix, config.force)
    poses = load_poses(config, star, box, apix, len(whole), selected)
    tables, table, notes = load_tilts(config, star, len(images))
    if pixel_sizes_differ(images[0].apix, apix):
        notes += (f"--force: the pixel size {apix:g} Å is used, although the headers say {images[0].apix:.4g} Å",)
    multiplied = star.value_per_particle("rlnCtfDataAreCtfPremultiplied")
    if multiplied is not None and multiplied.any() and tables[0].defocus_u_A.any():
        notes += (
            "the subtomograms are premultiplied by their CTF (rlnCtfDataAreCtfPremultiplied), so that their phases "
            "would be flipped twice; export them without premultiplication, or give --no-ctf",
        )
    unit = None if config.poses is not None else origin_unit_note(star)
    doubts = angle_note(poses.eulers_deg), origin_note(poses.origins, box, selected), unit, named_size_note(star, apix)
    notes += tuple(doubt for doubt in doubts if doubt is not None)
    if lost:
        notes += (f"{len(lost)} subtomograms can no longer be read and are excluded, the first is {lost[0]}",)
    return ParticleSet(star, images, poses, tables, table, box, apix, notes, selected)


def read_headers(star: ParticleStar, datadir: Path | None, tolerant: bool) -> tuple[list[MrcHeader], list[Path]]:
    """Read the headers of all subtomograms.

    With ``tolerant``, unreadable subtomograms get the header of another one, and their paths are also returned.
    """
    if not tolerant:
        return [read_header(path) for path in resolve_images(star, datadir)], []
    names = star.strings("rlnImageName")
    folder = datadir or (star.path.parent if star.path is not None else Path())
    found: list[MrcHeader | Path] = []
    for name, path in zip(names, find_images(star, datadir), strict=True):
        try:
            found.append(folder / name if path is None else read_header(path))
        except UserError:
            found.append(folder / name if path is None else path)
    lost = [item for item in found if isinstance(item, Path)]
    good = next((item for item in found if isinstance(item, MrcHeader)), None)
    if good is None or len(lost) > max_broken(len(found)):
        return read_headers(star, datadir, tolerant=False)
    return [item if isinstance(item, MrcHeader) else replace(good, path=item) for item in found], lost


def max_broken(count: int) -> float:
    """Return the number of ``count`` subtomograms that may be broken: 5 %, but at least one."""
    return max(1.0, MAX_BROKEN_FRACTION * count)


def common_box(images: list[MrcHeader]) -> int:
    """Return the box size of the subtomograms; raise ``UserError`` if they are not cubes of one even size."""
    size = images[0].shape[0]
    for image in images:
        if len(set(image.shape)) != 1:
            shape = "×".join(str(n) for n in reversed(image.shape))
            raise UserError(
                f"{image.path} has {shape} voxels (x×y×z), but subtomograms must be cubes. Extract cubic subtomograms."
            )
        if image.shape[0] != size:
            raise UserError(
                f"{image.path} has box {image.shape[0]}, but {images[0].path} has box {size}. "
                "Extract all subtomograms with one box size."
            )
    if size % 2:
        raise UserError(
            f"{images[0].path} has an odd box of {size} voxels. Extract subtomograms with an even box size."
        )
    return size


def pixel_size(images: list[MrcHeader], star: ParticleStar, asked: float | None, force: bool = False) -> float:
    """Return the pixel size in Å, from ``--angpix``, the MRC headers or the particle table, in this order.

    ``force`` accepts an ``--angpix`` that disagrees with the headers.

    Raises
    ------
    UserError
        If ``--angpix`` is not positive or, without ``force``, differs from the header by more than 1 %, or if the pixel
        size is unknown.
    """
    header = images[0].apix
    if asked is not None:
        if not 0 < asked < np.inf:
            raise UserError(f"--angpix is {asked:g}, but it must be a positive pixel size in Å.")
        if not force and pixel_sizes_differ(header, asked):
            raise UserError(
                f"--angpix is {asked:g} Å, but the header of {images[0].path} says {header:.4g} Å. "
                f"Use --angpix {header:.4g}, or --force to continue with {asked:g} Å."
            )
        return asked
    if header is not None:
        return header
    sizes = star.pixel_sizes()
    if sizes is None or not len(sizes):
        raise UserError(f"Neither {images[0].path} nor {star.path} has a pixel size. Give it with --angpix.")
    if not np.allclose(sizes, sizes[0], rtol=APIX_TOLERANCE):
        raise UserError(
            f"{star.path} has pixel sizes of {format_pixel_sizes(sizes)}, and {images[0].path} has none. Extract all "
            "subtomograms with one pixel size, or give it with --angpix if they have one."
        )
    return float(sizes[0])


def load_poses(
    config: DataConfig, star: ParticleStar, box: int, apix: float, whole: int, selected: np.ndarray | None
) -> Poses:
    """Read the poses from ``--poses``, which has all ``whole`` rows or only the selected ones, or from the table."""
    if config.poses is None:
        poses, source = poses_from_star(star, box, apix, selected), config.star
    else:
        poses, source = read_poses(config.poses), config.poses
        if selected is not None and len(poses) == whole:
            poses = poses.subset(selected)
        elif len(poses) != len(star):
            raise UserError(
                f"{config.poses} contains {len(poses)} poses, but {config.star} has {whole} particles"
                f"{'' if selected is None else f', of which {len(star)} are selected'}. "
                "Create the poses from this STAR file with dsdsh prepare."
            )
        require_origins(poses.origins, box, source, selected)
    if not config.force and not star.origins_in_angst:
        require_unit(poses.origins, box, apix, source, selected)
    return poses


def load_tilts(
    config: DataConfig, star: ParticleStar, count: int
) -> tuple[list[TiltTable], np.ndarray, tuple[str, ...]]:
    """Read the distinct CTF tables of the set.

    Returns
    -------
    tables : list of TiltTable
    table : ndarray of int, (N,)
        Index of the table of each particle.
    notes : tuple of str
        Notes for the user.
    """
    notes: tuple[str, ...] = ()
    paths = resolve_ctf_tables(star, config.datadir, config.warp) if config.use_ctf else None
    if paths is None:
        max_tilt = DEFAULT_RANGE_DEG if config.tilt_range_deg is None else config.tilt_range_deg
        step = DEFAULT_STEP_DEG if config.tilt_step_deg is None else config.tilt_step_deg
        reason = "--no-ctf" if not config.use_ctf else "the particle table has no rlnCtfImage"
        notes = (
            f"no CTF is applied ({reason}); only the missing wedge of tilts up to ±{max_tilt:g}° is modeled "
            "(--tilt-range, --tilt-step)",
        )
        try:
            tables = [wedge_only_table(max_tilt, step)]
        except ValueError as error:
            raise UserError(
                f"--tilt-range {max_tilt:g} and --tilt-step {step:g} define no tilts. "
                "Give a range between 0° and 90° and a positive step."
            ) from error
        table = np.zeros(count, dtype=np.int64)
    else:
        distinct: dict[Path, int] = {}
        table = np.array([distinct.setdefault(path, len(distinct)) for path in paths])
        if config.warp:
            tables = [read_warp_table(path, config.warp_bfactor_scale) for path in distinct]
        else:
            tables = [read_relion_table(path) for path in distinct]
    if config.tilt_limit_deg is not None:
        tables = [_limited(table, config.tilt_limit_deg) for table in tables]
    return tables, table, notes


def _limited(table: TiltTable, limit_deg: float) -> TiltTable:
    """Return the table with scale 0 for tilts beyond ± ``limit_deg``."""
    within = np.abs(table.tilt_deg) <= limit_deg
    if not (table.scale[within] > 0).any():
        raise UserError(f"--tilt-limit {limit_deg:g} excludes all tilts of some particles. Give a higher limit.")
    return replace(table, scale=np.where(within, table.scale, 0.0))
