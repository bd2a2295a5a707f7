"""Volumes of particles at their places in a tomogram: maps, ChimeraX command file, tables of neighbors and figures."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from opustomo.analysis.tomograms.neighbor_statistics import Chains, Neighbors
from opustomo.io.atomic import atomic_path, write_csv, write_figure

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class TomogramGrid:
    """Voxel grid of a tomogram.

    Attributes
    ----------
    shape
        Number of voxels along z, y, x.
    apix
        Pixel size in Å.
    """

    shape: tuple[int, int, int]
    apix: float

    def resampled(self, apix: float) -> TomogramGrid:
        """Return a grid of another pixel size that spans the same volume from the same first voxel."""
        shape = tuple(max(1, round(size * self.apix / apix)) for size in self.shape)
        return TomogramGrid((shape[0], shape[1], shape[2]), apix)


@dataclass(frozen=True)
class PlacedMap:
    """Part of a tomogram that holds placed volumes.

    Attributes
    ----------
    voxels
        Densities, axes z, y, x, float32; 0 where no particle lies.
    first
        Index of the first voxel along z, y, x in the grid of the tomogram.
    count
        Number of particles that lie at least partly inside the tomogram.
    """

    voxels: np.ndarray
    first: tuple[int, int, int]
    count: int


def place_volumes(
    grid: TomogramGrid,
    centers_A: np.ndarray,
    rotations: np.ndarray,
    volumes: Iterable[np.ndarray],
    volume_apix: float,
) -> PlacedMap:
    """Place one volume for each particle.

    A voxel at x holds ``V(Aᵀ (x - c))``, trilinearly interpolated. Where volumes overlap, the larger density is kept,
    and negative densities become 0.

    Parameters
    ----------
    grid
        Grid of the tomogram.
    centers_A
        Centers x, y, z relative to the first voxel in Å, shape (n, 3).
    rotations
        Matrices A that take reference to tomogram coordinates, x, y, z order, shape (n, 3, 3).
    volumes
        Volumes (m, m, m), axes z, y, x, with the center of rotation at voxel m/2, one for each particle.
    volume_apix
        Pixel size of the volumes in Å.
    """
    from scipy.ndimage import affine_transform

    shape = np.array(grid.shape)
    at = centers_A[:, ::-1] / grid.apix  # z, y, x in voxels of the tomogram
    placed, low, high, count = None, np.zeros(3, int), shape, 0
    for center, rotation, volume in zip(at, rotations, volumes, strict=True):
        size = len(volume)
        half = size / 2 * volume_apix / grid.apix
        if placed is None:
            low = np.clip(np.floor(at.min(axis=0) - half).astype(int), 0, shape - 1)
            high = np.clip(np.ceil(at.max(axis=0) + half).astype(int) + 1, low + 1, shape)
            placed = np.zeros(high - low, dtype=np.float32)
        first = np.maximum(np.floor(center - half).astype(int), low)
        last = np.minimum(np.ceil(center + half).astype(int) + 1, high)
        if (first >= last).any():
            continue
        # Aᵀ in z, y, x order, from voxels of the tomogram to voxels of the volume.
        matrix = rotation.T[::-1, ::-1] * (grid.apix / volume_apix)
        offset = size // 2 + matrix @ (first - center)
        turned = affine_transform(volume, matrix, offset, output_shape=tuple(last - first), order=1)
        part = tuple(slice(a, b) for a, b in zip(first - low, last - low, strict=True))
        np.maximum(placed[part], turned, out=placed[part])
        count += 1
    if placed is None:
        placed = np.zeros((1, 1, 1), dtype=np.float32)
    return PlacedMap(placed, (int(low[0]), int(low[1]), int(low[2])), count)


DPI = 150


@dataclass(frozen=True)
class PlacedCluster:
    """Placed volumes of one cluster.

    Attributes
    ----------
    number
        Number of the cluster.
    color
        RGB color of the cluster, from 0 to 1, shape (3,).
    placed
        Its part of the tomogram.
    level
        Contour level.
    file
        Name of its map.
    """

    number: int
    color: np.ndarray
    placed: PlacedMap
    level: float
    file: str

    @property
    def name(self) -> str:
        """Model name in ChimeraX."""
        return f"cluster {self.number} ({self.placed.count} particles)"


def write_placement_script(path: Path, clusters: list[PlacedCluster], tomogram: Path | None) -> None:
    """Write a ChimeraX command file with one model per cluster and, if given, the tomogram as a slice."""
    lines = ["# Volumes of particles at their places in a tomogram: open this file in an empty ChimeraX session."]
    for model, cluster in enumerate(clusters, start=1):
        red, green, blue = np.rint(255 * cluster.color).astype(int)
        lines += [
            f'open "{cluster.file}" id {model} name "{cluster.name}"',
            f"volume #{model} style surface step 1 level {cluster.level:.5g}",
            f"color #{model} #{red:02x}{green:02x}{blue:02x}",
        ]
    if tomogram is not None:
        model = len(clusters) + 1
        lines += [
            f'open "{os.path.relpath(tomogram.resolve(), path.parent.resolve())}" id {model} name tomogram',
            f"volume #{model} originIndex 0,0,0",
            f"volume #{model} style image step 1",
            f"volume #{model} planes z,{_size_of(tomogram)[2] // 2}",
        ]
    with atomic_path(path) as partial:
        partial.write_text("\n".join([*lines, "view"]) + "\n", encoding="utf-8")


def _size_of(tomogram: Path) -> tuple[int, ...]:
    from opustomo.io.mrc import read_header

    return tuple(reversed(read_header(tomogram).shape))


def write_neighbor_table(
    path: Path, rows: np.ndarray, labels: np.ndarray, neighbors: Neighbors, chains: Chains
) -> None:
    """Write one row per particle: its nearest neighbor and its chain.

    Parameters
    ----------
    path
        Output file.
    rows
        Row of each particle in the particle table, from 0, shape (n,).
    labels
        Cluster of each particle, shape (n,).
    neighbors, chains
        Statistics of the same particles.
    """
    columns = ("particle", "cluster", "nearest_particle", "distance_A", "angle_deg", "nearest_cluster", "chain")
    lines: list[list[object]] = [[*columns, "position_in_chain"]]
    for i, row in enumerate(rows):
        other = int(neighbors.nearest[i])
        nearest: list[object] = [""] * 4
        if other >= 0:
            nearest = [rows[other], f"{neighbors.distance_A[i]:.2f}", f"{neighbors.angle_deg[i]:.2f}", labels[other]]
        chain = ["", ""] if chains.chain[i] < 0 else [chains.chain[i], chains.position[i]]
        lines.append([row, labels[i], *nearest, *chain])
    write_csv(path, lines)


def draw_placement(path: Path, grid: TomogramGrid, clusters: list[PlacedCluster], density: np.ndarray | None) -> None:
    """Draw the placed volumes from above and from the side.

    Parameters
    ----------
    path
        Output image.
    grid
        Grid of the placed volumes.
    clusters
        Placed clusters.
    density
        Tomogram on another or the same grid, axes z, y, x, drawn in gray behind the volumes; None for a white
        background.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    depth, height, width = (size * grid.apix / 10 for size in grid.shape)  # nm
    figure = Figure(figsize=(9.0, 9.0 * (height + depth) / (width + 0.35 * width) + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    top, side = figure.subplots(2, 1, height_ratios=(height, max(depth, 0.15 * height)), sharex=True)
    for axes, along, extent, label in (
        (top, 0, (0, width, 0, height), "y (nm)"),
        (side, 1, (0, width, 0, depth), "z (nm)"),
    ):
        image = np.ones((*_without(grid.shape, along), 3))
        if density is not None:
            axes.imshow(_background(density, along), cmap="gray", origin="lower", extent=extent, aspect="equal")
            image = np.zeros_like(image)
        opacity = np.zeros(image.shape[:2])
        for cluster in clusters:
            shade = np.clip(cluster.placed.voxels.max(axis=along) / max(2 * cluster.level, 1e-12), 0.0, 1.0)
            at = _without(cluster.placed.first, along)
            part = (slice(at[0], at[0] + shade.shape[0]), slice(at[1], at[1] + shade.shape[1]))
            image[part] = image[part] * (1 - shade[..., None]) + cluster.color * shade[..., None]
            opacity[part] = np.maximum(opacity[part], shade)
        colors = np.dstack([image, opacity]).clip(0.0, 1.0)
        axes.imshow(colors, origin="lower", extent=extent, aspect="equal")
        axes.set_ylabel(label)
    side.set_xlabel("x (nm)")
    for cluster in clusters:
        top.scatter([], [], color=cluster.color, label=f"{cluster.number}: {cluster.placed.count:,}")
    top.legend(
        title="cluster: particles",
        fontsize=8,
        title_fontsize=8,
        frameon=False,
        bbox_to_anchor=(1.0, 1.0),
        loc="upper left",
    )
    top.set_title("Placed volumes, seen along z" + ("" if density is None else " (gray: tomogram)"))
    side.set_title("seen along y", fontsize=9)
    write_figure(path, figure, DPI)


def draw_neighbors(path: Path, labels: np.ndarray, colors: np.ndarray, neighbors: Neighbors, chains: Chains) -> None:
    """Draw histograms of the distance and angle to the nearest neighbor by cluster, and the lengths of the chains."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(12.0, 3.7), layout="constrained")
    FigureCanvasAgg(figure)
    distance, angle, lengths = figure.subplots(1, 3)
    known = neighbors.nearest >= 0
    numbers = np.unique(labels[known])
    for axes, values, edges in (
        (distance, neighbors.distance_A / 10, np.histogram_bin_edges(neighbors.distance_A[known] / 10, 24)),
        (angle, neighbors.angle_deg, np.linspace(0, 180, 19)),
    ):
        groups = [values[known & (labels == number)] for number in numbers]
        axes.hist(groups, edges, stacked=True, color=[colors[i] for i in numbers], label=[str(i) for i in numbers])
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    middles = np.linspace(0, 180, 181)
    # Uniformly random relative orientations have the density (1 - cos θ) / π per radian.
    expected = known.sum() * (1 - np.cos(np.radians(middles))) / np.pi * np.radians(10)
    angle.plot(middles, expected, color="black", lw=1.2, ls="--", label="random")
    distance.set(xlabel="distance to the nearest neighbor (nm)", ylabel="particles")
    angle.set(xlabel="angle to the nearest neighbor (°)", ylabel="particles")
    angle.legend(title="cluster", fontsize=8, title_fontsize=8, frameon=False)
    counts = np.bincount(chains.lengths)[2:] if len(chains.lengths) else np.zeros(0)
    lengths.bar(np.arange(2, 2 + len(counts)), counts, color="tab:gray")
    lengths.set(xlabel="particles in a chain", ylabel="chains")
    lengths.set_title(
        f"{chains.links} pairs in the most frequent relative pose\n"
        f"({chains.expected:.1f} for random orientations, p = {chains.p_value:.2g})",
        fontsize=9,
    )
    for axes in (distance, angle, lengths):
        axes.spines[["top", "right"]].set_visible(False)
    lengths.xaxis.set_major_locator(MaxNLocator(integer=True))
    lengths.yaxis.set_major_locator(MaxNLocator(integer=True))
    write_figure(path, figure, DPI)


def _without(shape: tuple[int, int, int], axis: int) -> tuple[int, int]:
    kept = [size for i, size in enumerate(shape) if i != axis]
    return kept[0], kept[1]


def _background(density: np.ndarray, along: int) -> np.ndarray:
    """Return the mean of the central tenth of a tomogram along an axis, with contrast between percentiles."""
    size = density.shape[along]
    half = max(1, size // 20)
    middle = np.take(density, range(max(0, size // 2 - half), min(size, size // 2 + half)), axis=along)
    image = middle.mean(axis=along)
    low, high = np.percentile(image, (1, 99))
    return np.clip(image, low, max(high, low + 1e-12))
