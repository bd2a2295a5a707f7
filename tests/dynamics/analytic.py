"""Bodies with moments and motion in closed form."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from opustomo.io.mrc import write_volume


def ellipsoid(size: int, center: np.ndarray, half_axes: np.ndarray, turn: np.ndarray | None = None) -> np.ndarray:
    """Return an ellipsoid with an edge of a voxel; center (x, y, z) from size/2, half-axes along ``turn`` e_k."""
    at = np.arange(size) - size // 2
    z, y, x = np.meshgrid(at, at, at, indexing="ij")
    relative = np.stack([x, y, z], -1) - np.asarray(center)
    if turn is not None:
        relative = relative @ turn
    distance = np.sqrt(((relative / half_axes) ** 2).sum(-1))
    inside = (1.0 - distance) * np.min(half_axes) + 0.5
    return np.clip(inside, 0.0, 1.0).astype(np.float32)


def sphere(size: int, center: np.ndarray, radius: float) -> np.ndarray:
    """Return a solid sphere."""
    return ellipsoid(size, center, np.full(3, radius))


def write_definition(folder: Path, masks: list[np.ndarray], apix: float | list[float], parents: list[int]) -> Path:
    """Write masks and the STAR file that defines them as bodies; parents count from 1."""
    sizes = apix if isinstance(apix, list) else [apix] * len(masks)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for body, (mask, pixel, parent) in enumerate(zip(masks, sizes, parents, strict=True)):
        write_volume(folder / f"mask{body}.mrc", mask, pixel)
        rows.append(f"mask{body}.mrc {parent} 10 2")
    columns = "rlnBodyMaskName rlnBodyRotateRelativeTo rlnBodySigmaAngles rlnBodySigmaOffset".split()
    head = "".join(f"_{name} #{place}\n" for place, name in enumerate(columns, 1))
    star = folder / "bodies.star"
    star.write_text(f"\ndata_\n\nloop_\n{head}" + "\n".join(rows) + "\n")
    return star
