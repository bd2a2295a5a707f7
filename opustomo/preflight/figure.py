"""A picture of the missing wedge in the data and in the 3D CTF."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from opustomo.io.atomic import atomic_path
from opustomo.preflight.wedge import WedgePlanes, WedgeSummary, mirror_kz

DPI = 150


def draw_wedges(path: Path, planes: WedgePlanes, summary: WedgeSummary) -> None:
    """Draw the data's mean power beside the 3D CTF and its mirror image, in the plane (kz, kx)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.2), layout="constrained")
    panels = figure.subplots(1, 3)
    mirror = mirror_kz(planes.model)
    for axes, plane, title in zip(
        panels,
        (planes.data, planes.model, mirror),
        (
            f"power of {planes.particles} subtomograms",
            f"3D CTF, correlation {summary.correlation:.3f}",
            f"tilt sign mirrored, {summary.mirrored:.3f}",
        ),
        strict=True,
    ):
        full = full_plane(plane)
        half = full.shape[0] / 2
        axes.imshow(
            full,
            origin="lower",
            extent=(-half - 0.5, half + 0.5, -half - 0.5, half - 0.5),
            cmap="magma",
            vmin=0.0,
            vmax=float(np.quantile(full, 0.99)),
            interpolation="nearest",
        )
        axes.set(xlabel="kx (voxels)", title=title)
    panels[0].set_ylabel("kz (voxels)")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DPI)


def full_plane(half: Tensor) -> np.ndarray:
    """A half plane in native order (n, n/2+1) as the full one for the eye: kz -n/2 … n/2-1, kx -n/2 … n/2."""
    kept = half.roll(half.shape[0] // 2, 0)
    mates = mirror_kz(half).roll(half.shape[0] // 2, 0)[:, 1:].flip(1)
    return np.concatenate([mates.numpy(), kept.numpy()], axis=1)
