"""Particle tables of preparation: new columns, poses for another frame, and tables with one row per tilt image."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from opustomo.errors import UserError
from opustomo.io.star import as_table, format_pixel_sizes, read_blocks
from opustomo.io.star_conventions import image_bfactors, is_stack_set, with_columns, xyz_columns
from opustomo.io.star_tables import EULER_COLUMNS, ORIGIN_ANGST_COLUMNS, ORIGIN_COLUMNS, ParticleStar, read_particles
from opustomo.io.tilt_series.series import TiltOptics


def particles_of_block(path: str | os.PathLike[str], block: str | None) -> ParticleStar:
    """Read the particles of a block, given with or without "data_"; None finds the block by its columns.

    Raises
    ------
    UserError
        As in `read_particles`, or the block does not exist or has no rows.
    """
    import pandas as pd

    if block is None:
        return read_particles(path)
    blocks = dict(read_blocks(path))
    name = block if block in blocks else block.removeprefix("data_")
    if name not in blocks:
        names = ", ".join(f"data_{other}" for other in blocks)
        raise UserError(f"{path}: there is no block data_{name}, only {names}. Give one of them.")
    found = blocks[name]
    table = pd.DataFrame([found], dtype=object) if isinstance(found, dict) else found
    if not len(table):
        raise UserError(f"{path}: the block data_{name} has no rows. Give a block with particles.")
    return ParticleStar(Path(path), {**blocks, name: table}, name)


SUBTOMOGRAM_COLUMNS = tuple(f"rlnTomoSubtomogram{angle}" for angle in ("Rot", "Tilt", "Psi"))
"""Orientation of the frame of a subtomogram in the tomogram (RELION 4 and 5), which precedes that of the particle."""


@dataclass(frozen=True, eq=False)
class TomogramPoses:
    """Poses in the frame of the tomogram.

    Attributes
    ----------
    matrices
        (N, 3, 3) rotations from reference to tomogram coordinates; None if the table has no angles.
    origins_A
        (N, 3) origins in Å; the center of a particle is at its coordinates minus the origin.
    """

    matrices: np.ndarray | None
    origins_A: np.ndarray

    def in_frames(self, frames: np.ndarray) -> TomogramPoses:
        """Return the poses in frames F (N, 3, 3), where x' = F x."""
        matrices = None if self.matrices is None else frames @ self.matrices
        return TomogramPoses(matrices, np.einsum("nij,nj->ni", frames, self.origins_A))


def tomogram_poses(star: ParticleStar, apix: float | None) -> TomogramPoses:
    """Return the poses of a table in the frame of the tomogram, also for subtomograms in other frames.

    Parameters
    ----------
    star
        The particles.
    apix
        Pixel size of origins in pixels if the table does not state it, Å.
    """
    origins = origins_of(star, apix)
    matrices = None
    if all(column in star for column in EULER_COLUMNS):
        matrices = _matrices(star.eulers_deg())
    if all(column in star for column in SUBTOMOGRAM_COLUMNS):
        frames = _matrices(np.stack([star.numbers(column) for column in SUBTOMOGRAM_COLUMNS], axis=1))
        return TomogramPoses(matrices, origins).in_frames(frames)
    return TomogramPoses(matrices, origins)


def origins_of(star: ParticleStar, apix: float | None) -> np.ndarray:
    """Return the origins of a table in the frames of its subtomograms, (N, 3) Å; `apix` as in `tomogram_poses`."""
    sizes = star.pixel_sizes()
    if sizes is None:
        return star.origins_px(apix or 1.0) * (apix or 1.0)
    return star.origins_px() * sizes[:, None]


def with_subtomograms(
    star: ParticleStar,
    poses: TomogramPoses,
    frames: np.ndarray,
    *,
    box: int,
    apix: float,
    columns: Mapping[str, list[str]],
) -> ParticleStar:
    """Return the table of new subtomograms.

    Parameters
    ----------
    star
        Input table; other columns are unchanged.
    poses
        Poses in the frame of the subtomograms.
    frames
        (N, 3, 3) rotations F from tomogram to subtomogram coordinates; the inverse is written if it is not the
        identity.
    box, apix
        Box length and pixel size of the subtomograms.
    columns
        Further columns, such as names of images and tables.
    """
    values: dict[str, Any] = dict(columns)
    if poses.matrices is not None:
        values |= xyz_columns(EULER_COLUMNS, _eulers(poses.matrices))
    in_angst = any(column in star for column in ORIGIN_ANGST_COLUMNS) or (
        star.optics_block is not None and not any(column in star for column in ORIGIN_COLUMNS)
    )
    if in_angst:
        values |= xyz_columns(ORIGIN_ANGST_COLUMNS, poses.origins_A)
    if not in_angst or any(column in star for column in ORIGIN_COLUMNS):
        values |= xyz_columns(ORIGIN_COLUMNS, poses.origins_A / apix)
    if np.abs(frames - np.eye(3)).max() > 1e-6 or SUBTOMOGRAM_COLUMNS[0] in star:
        values |= xyz_columns(SUBTOMOGRAM_COLUMNS, _eulers(frames.transpose(0, 2, 1)))
    blocks, has_optics = _imaging_blocks(star, box, apix)
    count = len(star)
    for column in ("rlnImagePixelSize", "rlnPixelSize"):
        if column in star:
            values[column] = [f"{apix:.6f}"] * count
    if not has_optics:
        values |= {"rlnMagnification": ["10000"] * count, "rlnDetectorPixelSize": [f"{apix:.6f}"] * count}
    made = with_columns(replace(star, blocks=blocks), values)
    if is_stack_set(made):
        # Without a general table, this column alone marks images as 2D stacks.
        table = made.particles.drop(columns=["rlnTomoVisibleFrames"], errors="ignore")
        made = replace(made, blocks={**made.blocks, made.particle_block: table})
    return made


def _imaging_blocks(star: ParticleStar, box: int, apix: float) -> tuple[dict, bool]:
    """Return all blocks with updated optics and general tables, and whether there is an optics table."""

    image_values = {"rlnImagePixelSize": f"{apix:.6f}", "rlnImageSize": str(box), "rlnImageDimensionality": "3"}
    blocks = dict(star.blocks)
    has_optics = False
    for name, block in blocks.items():
        if name == star.particle_block:
            continue
        table = as_table(block).copy()
        if "rlnOpticsGroup" in table:
            has_optics = True
            for column, value in image_values.items():
                table[column] = value
            if "rlnCtfDataAreCtfPremultiplied" in table:
                table["rlnCtfDataAreCtfPremultiplied"] = "0"
            if {"rlnTomoSubtomogramBinning", "rlnTomoTiltSeriesPixelSize"} <= set(table.columns):
                unbinned = table["rlnTomoTiltSeriesPixelSize"].astype(float)
                table["rlnTomoSubtomogramBinning"] = [f"{apix / size:.6f}" for size in unbinned]
            blocks[name] = table
        elif "rlnTomoSubTomosAre2DStacks" in table:
            blocks[name] = {key: str(value) for key, value in table.iloc[0].items()} | {
                "rlnTomoSubTomosAre2DStacks": "0"
            }
    return blocks, has_optics


def _matrices(eulers_deg: np.ndarray) -> np.ndarray:
    # Imported here, because tables without rotated frames do not need PyTorch.
    from opustomo.geometry.eulers import euler_matrices

    return euler_matrices(eulers_deg)


def _eulers(matrices: np.ndarray) -> np.ndarray:
    import torch

    from opustomo.geometry.rotations import matrix_to_euler

    return matrix_to_euler(torch.from_numpy(np.ascontiguousarray(matrices))).numpy()


GROUP_COLUMNS = ("rlnTomoParticleName", "rlnTomoParticleId", "rlnGroupName")


def check_kind(star: ParticleStar) -> None:
    """Raise an error if a table does not have one row per image.

    Raises
    ------
    UserError
        The table has one row per particle, or a column is missing.
    """
    if "rlnTomoVisibleFrames" in star or ("rlnTomoName" in star and EULER_COLUMNS[0] in star and not _indexed(star)):
        multiplied = star.value_per_particle("rlnCtfDataAreCtfPremultiplied")
        stacks = "" if multiplied is None or not multiplied.any() else ", and its images are multiplied by the CTF"
        raise UserError(
            f"{star.path}: the table has one row per particle, not one per image{stacks}. Use dsd extract_subtomos on "
            "the tilt series instead."
        )
    for column in (*EULER_COLUMNS, "rlnDefocusU"):
        star.strings(column)  # raises an error if the column is missing


def _indexed(star: ParticleStar) -> bool:
    return "@" in star.strings("rlnImageName")[0]


def stack_sections(star: ParticleStar) -> tuple[np.ndarray, list[str]]:
    """Return the sections (from 0) and the stacks of all rows.

    Raises
    ------
    UserError
        A name does not have the form 000001@stack.mrcs.
    """
    sections, names = np.empty(len(star), dtype=np.int64), []
    for row, text in enumerate(star.strings("rlnImageName")):
        match = re.fullmatch(r"(\d+)@(.+)", text)
        if match is None or int(match[1]) < 1:
            raise UserError(
                f"{star.path}: rlnImageName of row {row + 1} is {text}, but the form 000001@stack.mrcs is expected."
            )
        sections[row] = int(match[1]) - 1
        names.append(match[2])
    return sections, names


def rows_by_particle(star: ParticleStar, names: list[str], column: str | None) -> dict[str, np.ndarray]:
    """Return the rows of each particle in the order of the table, by a column, else by name or stack."""
    if column is None:
        column = next((c for c in GROUP_COLUMNS if c in star and 1 < len(set(star.strings(c))) < len(star)), None)
    keys = names if column is None else star.strings(column)
    places: dict[str, int] = {}
    index = np.array([places.setdefault(key, len(places)) for key in keys])
    order = np.argsort(index, kind="stable")
    return dict(zip(places, np.split(order, np.searchsorted(index[order], np.arange(1, len(places)))), strict=True))


def image_pixel_size(star: ParticleStar, header_apix: float | None) -> float:
    """Return the pixel size of the images in Å from the table, else from the stacks.

    Raises
    ------
    UserError
        The pixel size is unknown, or images have different pixel sizes.
    """
    sizes = star.pixel_sizes()
    if sizes is not None and not np.allclose(sizes, sizes[0], rtol=1e-3):
        raise UserError(
            f"{star.path}: the images have pixel sizes of {format_pixel_sizes(sizes)}. Split the table by pixel size "
            "and prepare one part at a time."
        )
    if sizes is None and header_apix is None:
        raise UserError(f"{star.path}: neither the table nor the stacks have the pixel size of the images. Add it.")
    return float(sizes[0]) if sizes is not None else float(header_apix or 0)


def image_optics(star: ParticleStar) -> TiltOptics:
    """Return the CTF parameters of every image; voltage, Cs and amplitude contrast are the same for all.

    Raises
    ------
    UserError
        A column is missing, B factors have both signs, or images are from several microscopes.
    """
    u = star.numbers("rlnDefocusU")
    bfactors, _ = image_bfactors(star)
    return TiltOptics(
        defocus_u_A=u,
        defocus_v_A=star.numbers("rlnDefocusV") if "rlnDefocusV" in star else u,
        astigmatism_deg=_values(star, "rlnDefocusAngle", 0.0),
        phase_shift_deg=_values(star, "rlnPhaseShift", 0.0),
        bfactor_A2=bfactors,
        scale=_values(star, "rlnCtfScalefactor", 1.0),
        voltage_kv=_single_value(star, "rlnVoltage"),
        cs_mm=_single_value(star, "rlnSphericalAberration"),
        amplitude_contrast=_single_value(star, "rlnAmplitudeContrast"),
    )


def header_note(star: ParticleStar, used_A: float, header_apix: float | None) -> str | None:
    """Describe stacks whose headers contradict the pixel size of the table; a value of 1 Å is ignored."""
    if header_apix is None or abs(header_apix - 1.0) < 1e-3 or abs(header_apix / used_A - 1.0) <= 0.01:
        return None
    return (
        f"the headers of the stacks state {header_apix:.5g} Å per pixel, but {star.path} states {used_A:.5g} Å, which "
        "is used"
    )


def _single_value(star: ParticleStar, column: str) -> float:
    """Return the value of a column that is equal for all rows."""
    values = _values(star, column)
    other = np.flatnonzero(~np.isclose(values, values[0]))
    if other.size:
        raise UserError(
            f"{star.path}: {column} is {values[0]:g} in row 1 and {values[other[0]]:g} in row {other[0] + 1}. Split "
            "the table by it and prepare one part at a time."
        )
    return float(values[0])


def _values(star: ParticleStar, column: str, default: float | None = None) -> np.ndarray:
    values = star.value_per_particle(column)
    if values is not None:
        return values
    if default is None:
        raise UserError(f"{star.path}: neither the particles nor the optics table have {column}. Export it too.")
    return np.full(len(star), default)
