"""Particle tables of prepared sets: new columns, and poses for another frame, pixel size and box."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from opustomo.errors import UserError
from opustomo.io.star import as_table, read_blocks
from opustomo.io.star_conventions import is_stack_set, with_columns, xyz_columns
from opustomo.io.star_tables import EULER_COLUMNS, ORIGIN_ANGST_COLUMNS, ORIGIN_COLUMNS, ParticleStar, read_particles


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
        raise UserError(f"{path}: there is no block data_{name}, only {names}; give one of them.")
    found = blocks[name]
    table = pd.DataFrame([found], dtype=object) if isinstance(found, dict) else found
    if not len(table):
        raise UserError(f"{path}: the block data_{name} has no rows; give a block with particles.")
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
    import torch

    from opustomo.geometry.rotations import euler_to_matrix

    return euler_to_matrix(torch.from_numpy(eulers_deg)).numpy()


def _eulers(matrices: np.ndarray) -> np.ndarray:
    import torch

    from opustomo.geometry.rotations import matrix_to_euler

    return matrix_to_euler(torch.from_numpy(np.ascontiguousarray(matrices))).numpy()
