"""The particle set of a run: images, poses and CTF tables, checked before training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from opustomo.data.config import DataConfig
from opustomo.errors import UserError
from opustomo.io.ctf_tables import TiltTable, read_relion_table, read_warp_table, wedge_only_table
from opustomo.io.images import resolve_ctf_tables, resolve_images
from opustomo.io.mrc import MrcHeader, read_header, read_volume
from opustomo.io.poses import Poses, read_poses
from opustomo.io.star import ParticleStar, read_particles
from opustomo.io.star_poses import poses_from_star

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
    """

    star: ParticleStar
    images: list[MrcHeader]
    poses: Poses
    tables: list[TiltTable]
    table: np.ndarray
    box: int
    apix: float
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)


def load_particles(config: DataConfig) -> ParticleSet:
    """Read and check the inputs of a run.

    Raises
    ------
    UserError
        A file is missing, broken or disagrees with another.
    """
    star = read_particles(config.star)
    paths = resolve_images(star, config.datadir)
    images = [read_header(path) for path in paths]
    box = common_box(images)
    apix = pixel_size(images, star, config.apix)
    poses = load_poses(config, star, box, apix)
    tables, table, notes = load_tilts(config, star, len(images))
    return ParticleSet(star, images, poses, tables, table, box, apix, notes)


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


def pixel_size(images: list[MrcHeader], star: ParticleStar, asked: float | None) -> float:
    """Pixel size of the run: ``--angpix``, else the MRC headers', else the particle table's.

    Raises
    ------
    UserError
        ``--angpix`` is not positive or differs from the header by more than 1 %, or nothing tells the pixel size.
    """
    header = images[0].apix
    if asked is not None:
        if not 0 < asked < np.inf:
            raise UserError(f"--angpix {asked:g} is no pixel size; give that of the subtomograms in Å")
        if header is not None and abs(asked / header - 1.0) > APIX_TOLERANCE:
            raise UserError(
                f"--angpix {asked:g} disagrees with the header of {images[0].path}, which says {header:.4g} Å; "
                "give the pixel size of the subtomograms"
            )
        return asked
    if header is not None:
        return header
    sizes = star.pixel_sizes()
    if sizes is None or not len(sizes):
        raise UserError(f"neither {images[0].path} nor {star.path} tells the pixel size; give it with --angpix")
    return float(sizes[0])


def load_poses(config: DataConfig, star: ParticleStar, box: int, apix: float) -> Poses:
    """Poses from ``--poses``, else from the particle table."""
    if config.poses is None:
        return poses_from_star(star, box, apix)
    poses = read_poses(config.poses)
    if len(poses) != len(star):
        raise UserError(
            f"{config.poses} holds {len(poses)} poses but {config.star} has {len(star)} particles; "
            "make it from this STAR file with dsdsh prepare"
        )
    return poses


def load_tilts(
    config: DataConfig, star: ParticleStar, count: int
) -> tuple[list[TiltTable], np.ndarray, tuple[str, ...]]:
    """Distinct CTF tables of the set, each read once; the table of every particle (N,); what to tell the user."""
    notes: tuple[str, ...] = ()
    paths = resolve_ctf_tables(star, config.datadir, config.warp) if config.use_ctf else None
    if paths is None:
        why = "--no-ctf" if not config.use_ctf else "the particle table has no rlnCtfImage"
        notes = (
            f"no CTF is applied ({why}): a missing-wedge-only model from tilts up to ±{config.tilt_range_deg:g}° "
            "(--tilt-range, --tilt-step)",
        )
        try:
            tables = [wedge_only_table(config.tilt_range_deg, config.tilt_step_deg)]
        except ValueError as error:
            raise UserError(
                f"--tilt-range {config.tilt_range_deg:g} with --tilt-step {config.tilt_step_deg:g} gives no tilts; "
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


def load_mask(path: Path | None, box: int, apix: float) -> np.ndarray | None:
    """Solvent mask (N, N, N), or None; its box and pixel size must be the subtomograms'."""
    if path is None:
        return None
    mask, mask_apix = read_volume(path)
    if mask.shape != (box, box, box):
        shape = "×".join(str(n) for n in reversed(mask.shape))
        raise UserError(f"mask {path} is {shape} voxels but the subtomograms are {box}³; resample it to their box")
    if mask_apix is not None and abs(mask_apix / apix - 1.0) > APIX_TOLERANCE:
        raise UserError(
            f"mask {path} has pixel size {mask_apix:.4g} Å but the subtomograms have {apix:.4g} Å; resample it"
        )
    if not np.isfinite(mask).all():
        raise UserError(f"mask {path} holds values that are not finite; make it again")
    if not (mask > 0).any():
        raise UserError(f"mask {path} has no voxel above zero; give a mask that covers the particle")
    return mask
