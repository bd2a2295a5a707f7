"""The particle set of a run: images, poses and CTF tables, checked before training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from opustomo.data.config import DataConfig
from opustomo.errors import UserError
from opustomo.io.ctf_tables import TiltTable, read_relion_table, read_warp_table, wedge_only_table
from opustomo.io.image_paths import find_images, resolve_ctf_tables, resolve_images
from opustomo.io.indices import read_indices
from opustomo.io.mrc import MrcHeader, read_header, read_volume
from opustomo.io.poses import Poses, angle_note, origin_note, read_poses, require_origins, require_unit
from opustomo.io.star import listed_sizes
from opustomo.io.star_conventions import is_image_series, named_size_note
from opustomo.io.star_poses import origin_unit_note, poses_from_star
from opustomo.io.star_tables import ParticleStar, read_particles

DEFAULT_RANGE_DEG, DEFAULT_STEP_DEG = 50.0, 2.0
"""Tilts of the missing-wedge-only model when the user says nothing."""
MASK_EXCESS = 1.0
"""How far the values of a mask may lie outside of 0 to 1."""
TOLERATED_BROKEN = 0.05
APIX_TOLERANCE = 0.01
"""Relative disagreement of --angpix with the headers that stops a run."""


@dataclass(frozen=True)
class ParticleSet:
    """Everything about the particles but their voxels.

    Attributes
    ----------
    star
        The particle table.
    images
        Header of every subtomogram.
    poses
        Angles and origins as read in.
    tables, table
        Distinct CTF tables (U of them), and which one each particle has, (N,).
    box, apix
        Side of the subtomograms in voxels, pixel size in Å.
    notes
        What to tell the user about the set.
    selected
        Rows of the STAR file that were taken (``--ind``), None for all.
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

    ``tolerant`` is for a run that goes on: up to 5 % of the subtomograms (or one) may meanwhile be gone or cut short.

    Raises
    ------
    UserError
        A file is missing, broken or disagrees with another.
    """
    whole = read_particles(config.star)
    selected = None if config.ind is None else read_indices(config.ind, len(whole))
    star = whole if selected is None else whole.subset(selected)
    if is_image_series(star):
        raise UserError(
            f"{config.star}: has one row per image of a stack, not per subtomogram; make subtomograms with dsd "
            "prepare_subtomos and give their table"
        )
    images, lost = read_headers(star, config.datadir, tolerant)
    box = common_box(images)
    apix = pixel_size(images, star, config.apix, config.force)
    poses = load_poses(config, star, box, apix, len(whole), selected)
    tables, table, notes = load_tilts(config, star, len(images))
    if pixel_sizes_differ(images[0].apix, apix):
        notes += (f"--force: {apix:g} Å/pixel is used although the headers say {images[0].apix:.4g}",)
    multiplied = star.value_per_particle("rlnCtfDataAreCtfPremultiplied")
    if multiplied is not None and multiplied.any() and tables[0].defocus_u_A.any():
        notes += (
            "rlnCtfDataAreCtfPremultiplied: these subtomograms are multiplied by their CTF, so that their phases would "
            "be flipped twice; export them without it, or give --no-ctf",
        )
    unit = None if config.poses is not None else origin_unit_note(star)
    doubts = angle_note(poses.eulers_deg), origin_note(poses.origins, box, selected), unit, named_size_note(star, apix)
    notes += tuple(doubt for doubt in doubts if doubt is not None)
    if lost:
        notes += (f"{len(lost)} subtomograms can no longer be read and are left out, the first is {lost[0]}",)
    return ParticleSet(star, images, poses, tables, table, box, apix, notes, selected)


def read_headers(star: ParticleStar, datadir: Path | None, tolerant: bool) -> tuple[list[MrcHeader], list[Path]]:
    """Headers of all subtomograms; which files have none, if ``tolerant`` (they get that of their neighbour)."""
    if not tolerant:
        return [read_header(path) for path in resolve_images(star, datadir)], []
    names = star.strings("rlnImageName")
    beside = datadir or (star.path.parent if star.path is not None else Path())
    found: list[MrcHeader | Path] = []
    for name, path in zip(names, find_images(star, datadir), strict=True):
        try:
            found.append(beside / name if path is None else read_header(path))
        except UserError:
            found.append(beside / name if path is None else path)
    lost = [one for one in found if isinstance(one, Path)]
    good = next((one for one in found if isinstance(one, MrcHeader)), None)
    if good is None or len(lost) > tolerated(len(found)):
        return read_headers(star, datadir, tolerant=False)
    return [one if isinstance(one, MrcHeader) else replace(good, path=one) for one in found], lost


def tolerated(count: int) -> float:
    """How many of ``count`` subtomograms may be broken in a run: 5 %, but at least one."""
    return max(1.0, TOLERATED_BROKEN * count)


def common_box(images: list[MrcHeader]) -> int:
    """Side of the subtomograms, which must be cubes of one even size."""
    size = images[0].shape[0]
    for image in images:
        if len(set(image.shape)) != 1:
            shape = "×".join(str(n) for n in reversed(image.shape))
            raise UserError(f"{image.path} is {shape} voxels (x×y×z), expected a cube; extract cubic subtomograms")
        if image.shape[0] != size:
            raise UserError(
                f"{image.path} has box {image.shape[0]} but {images[0].path} has {size}; "
                "extract all subtomograms with one box size"
            )
    if size % 2:
        raise UserError(f"{images[0].path} has an odd box of {size} voxels; extract with an even box size")
    return size


def pixel_size(images: list[MrcHeader], star: ParticleStar, asked: float | None, force: bool = False) -> float:
    """Pixel size of the run: ``--angpix``, else the MRC headers', else the particle table's.

    ``force`` takes ``--angpix`` whatever the headers say.

    Raises
    ------
    UserError
        ``--angpix`` is not positive or, without ``force``, differs from the header by more than 1 %; or nothing tells
        the pixel size.
    """
    header = images[0].apix
    if asked is not None:
        if not 0 < asked < np.inf:
            raise UserError(f"--angpix {asked:g} is no pixel size; give that of the subtomograms in Å")
        if not force and pixel_sizes_differ(header, asked):
            raise UserError(
                f"--angpix {asked:g} disagrees with the header of {images[0].path}, which says {header:.4g} Å; "
                "give the pixel size of the subtomograms, or --force to go on with this one"
            )
        return asked
    if header is not None:
        return header
    sizes = star.pixel_sizes()
    if sizes is None or not len(sizes):
        raise UserError(f"neither {images[0].path} nor {star.path} tells the pixel size; give it with --angpix")
    if not np.allclose(sizes, sizes[0], rtol=APIX_TOLERANCE):
        raise UserError(
            f"{star.path}: gives pixel sizes of {listed_sizes(sizes)}, and {images[0].path} gives none; extract all "
            "subtomograms with one pixel size, or give it with --angpix if they have"
        )
    return float(sizes[0])


def pixel_sizes_differ(told: float | None, used: float) -> bool:
    """Whether a file tells a pixel size that is more than 1 % off the one used."""
    return told is not None and abs(told / used - 1.0) > APIX_TOLERANCE


def load_poses(
    config: DataConfig, star: ParticleStar, box: int, apix: float, whole: int, selected: np.ndarray | None
) -> Poses:
    """Poses from ``--poses`` (of all ``whole`` rows of the STAR file, or of those selected), else from the table."""
    if config.poses is None:
        poses, source = poses_from_star(star, box, apix, selected), config.star
    else:
        poses, source = read_poses(config.poses), config.poses
        if selected is not None and len(poses) == whole:
            poses = poses.subset(selected)
        elif len(poses) != len(star):
            raise UserError(
                f"{config.poses} holds {len(poses)} poses but {config.star} has {whole} particles"
                f"{'' if selected is None else f', {len(star)} of them taken'}; "
                "make it from this STAR file with dsdsh prepare"
            )
        require_origins(poses.origins, box, source, selected)
    if not config.force and not star.origins_in_angst:
        require_unit(poses.origins, box, apix, source, selected)
    return poses


def load_tilts(
    config: DataConfig, star: ParticleStar, count: int
) -> tuple[list[TiltTable], np.ndarray, tuple[str, ...]]:
    """Distinct CTF tables of the set, each read once; the table of every particle (N,); what to tell the user."""
    notes: tuple[str, ...] = ()
    paths = resolve_ctf_tables(star, config.datadir, config.warp) if config.use_ctf else None
    if paths is None:
        reach = DEFAULT_RANGE_DEG if config.tilt_range_deg is None else config.tilt_range_deg
        step = DEFAULT_STEP_DEG if config.tilt_step_deg is None else config.tilt_step_deg
        why = "--no-ctf" if not config.use_ctf else "the particle table has no rlnCtfImage"
        notes = (
            f"no CTF is applied ({why}): a missing-wedge-only model from tilts up to ±{reach:g}° "
            "(--tilt-range, --tilt-step)",
        )
        try:
            tables = [wedge_only_table(reach, step)]
        except ValueError as error:
            raise UserError(
                f"--tilt-range {reach:g} with --tilt-step {step:g} gives no tilts; "
                "expected a range between 0° and 90° and a positive step"
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
    """Give no weight to tilts beyond the limit."""
    within = np.abs(table.tilt_deg) <= limit_deg
    if not (table.scale[within] > 0).any():
        raise UserError(f"--tilt-limit {limit_deg:g} leaves some particles without any tilt; raise it")
    return replace(table, scale=np.where(within, table.scale, 0.0))


def load_mask(path: Path | None, box: int, apix: float, force: bool = False) -> np.ndarray | None:
    """Solvent mask (N, N, N), or None; its box and, without ``force``, pixel size must be the subtomograms'."""
    if path is None:
        return None
    mask, mask_apix = read_volume(path)
    if mask.shape != (box, box, box):
        shape = "×".join(str(n) for n in reversed(mask.shape))
        raise UserError(f"mask {path} is {shape} voxels but the subtomograms are {box}³; resample it to their box")
    if not force and pixel_sizes_differ(mask_apix, apix):
        raise UserError(
            f"mask {path} has pixel size {mask_apix:.4g} Å but the subtomograms have {apix:.4g} Å; resample it"
        )
    if not np.isfinite(mask).all():
        raise UserError(f"mask {path} holds values that are not finite; make it again")
    lowest, highest = float(mask.min()), float(mask.max())
    if lowest < -MASK_EXCESS or highest > 1 + MASK_EXCESS:
        raise UserError(
            f"mask {path} has values from {lowest:.3g} to {highest:.3g}, expected 0 to 1; scale it or make it again"
        )
    if not (mask > 0).any():
        raise UserError(f"mask {path} has no voxel above zero; give a mask that covers the particle")
    return mask
