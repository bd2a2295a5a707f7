"""Inputs that a particle set lacks for training, and the commands that create them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from opustomo.data.config import DataConfig
from opustomo.data.particles import ParticleSet, common_box, load_particles, load_tilts, pixel_size
from opustomo.errors import UserError
from opustomo.io.ctf_tables import TiltTable, read_relion_table, read_warp_table
from opustomo.io.image_paths import find_ctf_tables, find_images, resolve_ctf_tables, resolve_images
from opustomo.io.masks import load_mask
from opustomo.io.mrc import read_header
from opustomo.io.poses import Poses, read_poses, require_origins
from opustomo.io.star_conventions import (
    describe_bfactors,
    is_image_series,
    is_not_extracted,
    is_premultiplied,
    is_stack_set,
    named_size_note,
)
from opustomo.io.star_poses import poses_from_star
from opustomo.io.star_tables import EULER_COLUMNS, ParticleStar, read_particles
from opustomo.quality.checks.proposed_commands import Remedies, refuse_other_inputs

Value = TypeVar("Value")


@dataclass(frozen=True)
class Missing:
    """Missing or wrong input.

    Attributes
    ----------
    what
        Sentence about the input.
    remedy
        What to do; empty if the sentence says it.
    blocks
        Whether training cannot start without it.
    """

    what: str
    remedy: str
    blocks: bool

    @property
    def line(self) -> str:
        """Sentence, and the remedy in a second line."""
        remedy = f"\n         remedy: {self.remedy}" if self.remedy else ""
        return f"{'missing' if self.blocks else 'warning'}: {self.what}{remedy}"


@dataclass(frozen=True)
class Readiness:
    """Available and missing inputs.

    Attributes
    ----------
    particles
        The set, or the part of it whose files exist; None if nothing can be inspected.
    mask
        (N, N, N) or None.
    missing
        Missing inputs.
    """

    particles: ParticleSet | None
    mask: np.ndarray | None
    missing: tuple[Missing, ...]

    @property
    def can_train(self) -> bool:
        """Whether training could start."""
        return not any(item.blocks for item in self.missing)


def examine_inputs(config: DataConfig) -> Readiness:
    """Check all inputs that training reads.

    Raises
    ------
    UserError
        If there is no particle table.
    """
    refuse_other_inputs(config.star)
    star = read_particles(config.star)
    missing: list[Missing] = []
    particles = None
    other = _other_kind(star)
    if other is not None:
        return Readiness(None, None, (other,))
    try:
        particles = load_particles(config)
    except UserError as error:
        missing, particles = _search(config, star)
        if not missing:  # each input alone is valid
            missing.append(Missing(str(error), "correct this and check again", True))
    remedies = Remedies(star, *((particles.box, particles.apix) if particles is not None else (None, config.apix)))
    if config.use_ctf and "rlnCtfImage" not in star and not is_not_extracted(star):
        missing.append(
            Missing(
                "the particle table has no rlnCtfImage: only the missing wedge will be modeled",
                f"{remedies.ctf}; or give --no-ctf to model only the missing wedge",
                False,
            )
        )
    if is_premultiplied(star):
        missing.append(
            Missing(
                "the subtomograms were multiplied by the CTF (rlnCtfDataAreCtfPremultiplied is 1), but the model "
                "applies the CTF only once",
                f"{remedies.extract}",
                False,
            )
        )
    make_mask = remedies.mask
    mask = None
    if config.mask is None:
        missing.append(Missing("no solvent mask (-r)", make_mask, False))
    elif particles is not None:
        try:
            mask = load_mask(config.mask, particles.box, particles.apix, config.force)
        except UserError as error:
            missing.append(Missing(str(error), make_mask, True))
    return Readiness(particles, mask, tuple(missing))


def _other_kind(star: ParticleStar) -> Missing | None:
    """Return what is missing if the table does not list subtomograms; None if it does."""
    remedies = Remedies(star)
    if is_stack_set(star):
        return Missing("subtomograms: this table lists RELION 5's 2D stacks of tilt images", remedies.extract, True)
    if is_image_series(star):
        doubt = named_size_note(star)
        return Missing(
            f"subtomograms: this table has one row per tilt image, like the 2D series of M ({describe_bfactors(star)})"
            + ("" if doubt is None else f"; {doubt}"),
            remedies.series,
            True,
        )
    return None


def _search(config: DataConfig, star: ParticleStar) -> tuple[list[Missing], ParticleSet | None]:
    """Check each input separately, and assemble the particles whose files exist."""
    found: list[Missing] = []

    def tried(work: Callable[[], Value], remedy: str) -> Value | None:
        try:
            return work()
        except UserError as error:
            found.append(Missing(str(error), remedy, True))
            return None

    remedies = Remedies(star, apix=config.apix)
    if is_not_extracted(star):
        found.append(Missing("subtomograms: the particle table has no rlnImageName", remedies.extract, True))
    else:
        tried(lambda: resolve_images(star, config.datadir), remedies.images)
    headers = _readable(_images_there(config, star), read_header, "subtomograms", found)
    there = [header for header in headers if header is not None]
    box = tried(lambda: common_box(there), _AGAIN) if there else None
    apix = tried(lambda: pixel_size(there, star, config.apix, config.force), "") if there else None

    with_tables = config.use_ctf and "rlnCtfImage" in star
    tables: list[TiltTable | None] = []
    if with_tables:
        tried(
            lambda: resolve_ctf_tables(star, config.datadir, config.warp),
            f"give --warp for the csv tables of WARP, or --no-ctf for none; or {remedies.ctf}",
        )
        read = partial(read_warp_table, bfactor_scale=config.warp_bfactor_scale) if config.warp else read_relion_table
        paths = find_ctf_tables(star, config.datadir, config.warp)
        tables = _readable(paths, read, "CTF tables", found)

    poses = _poses(config, star, box, apix, tried, found)
    if box is None or apix is None:
        return found, None
    rows = [
        row for row, header in enumerate(headers) if header is not None and not (with_tables and tables[row] is None)
    ]
    if not rows:
        return found, None
    some = star.subset(rows)
    if with_tables:
        distinct = list({id(tilts): tilts for row in rows if (tilts := tables[row]) is not None}.values())
        place = {id(tilts): index for index, tilts in enumerate(distinct)}
        table = np.array([place[id(tables[row])] for row in rows])
        notes: tuple[str, ...] = ()
    else:
        distinct, table, notes = load_tilts(config, some, len(rows))
    notes += (f"only {len(rows)} of {len(star)} particles could be inspected",) if len(rows) < len(star) else ()
    images = [header for row in rows if (header := headers[row]) is not None]
    return found, ParticleSet(some, images, poses.subset(np.array(rows)), distinct, table, box, apix, notes)


_AGAIN = "export these files again"


def _images_there(config: DataConfig, star: ParticleStar) -> list[Path | None]:
    return find_images(star, config.datadir) if "rlnImageName" in star else []


def _readable(
    paths: list[Path | None], read: Callable[[Path], Value], kind: str, found: list[Missing]
) -> list[Value | None]:
    """Read each existing file once and return None for the others; errors are appended to ``found``."""
    contents: dict[Path, Value | None] = {}
    wrong = []
    for path in paths:
        if path is not None and path not in contents:
            try:
                contents[path] = read(path)
            except UserError as error:
                contents[path] = None
                wrong.append(str(error))
    if wrong:
        found.append(Missing(f"{len(wrong)} {kind} cannot be read; the first error is: {wrong[0]}", _AGAIN, True))
    return [None if path is None else contents[path] for path in paths]


def _poses(
    config: DataConfig,
    star: ParticleStar,
    box: int | None,
    apix: float | None,
    tried: Callable[[Callable[[], Any], str], Any],
    found: list[Missing],
) -> Poses:
    """Return the poses of the pickle or of the table; angles and origins that cannot be used are replaced by zeros."""
    upright = Poses(np.zeros((len(star), 3)), np.zeros((len(star), 3)))
    make = Remedies(star, box, apix).poses
    given = config.poses
    if given is not None:
        poses = tried(lambda: read_poses(given), make)
        if poses is not None and box is not None:
            origins = poses.origins
            tried(lambda: require_origins(origins, box, given), make)
        if poses is not None and len(poses) != len(star):
            found.append(Missing(f"{given} holds {len(poses)} poses for {len(star)} particles", make, True))
            poses = None
        return poses or upright
    if lacking := [column for column in EULER_COLUMNS if column not in star]:
        align = "align the particles (template matching, RELION, M) and export their angles"
        found.append(Missing(f"no poses: the particle table has no {', '.join(lacking)}", f"{align}; {make}", True))
        return upright
    eulers = tried(star.eulers_deg, "correct the angles")
    if eulers is None:
        return upright
    centered = Poses(eulers, upright.origins)
    if box is None:  # origins cannot be judged
        return centered
    return tried(lambda: poses_from_star(star, box, apix), "correct the table, or give --angpix") or centered
