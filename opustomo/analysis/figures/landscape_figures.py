"""Figures of a volume landscape: energy with basins and paths, the tree of volumes, and animated paths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from opustomo.analysis.figures.figure_style import cluster_colors
from opustomo.io.atomic import atomic_path

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

    from opustomo.analysis.volumes.volume_landscape import VolumeLandscape

DPI = 150
FRAMES_PER_SECOND = 4


def draw_landscape(path: Path, result: VolumeLandscape) -> None:
    """Draw the energy over the first two components, with basins, paths and classes of the particles."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    landscape, basins = result.landscape, result.basins
    figure = Figure(figsize=(12.5, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    shown = np.where(landscape.energy < landscape.ceiling, landscape.energy, np.nan)
    image = left.contourf(*landscape.axes, shown.T, levels=20, cmap="viridis")
    left.contour(*landscape.axes, shown.T, levels=10, colors="white", linewidths=0.4, alpha=0.6)
    figure.colorbar(image, ax=left, label="-ln(density / maximum) (kT at equilibrium)")
    for route in result.paths:
        style = ":" if route.crosses_gap else "-"
        left.plot(*route.points.T, style, color="black", lw=1.6, marker=".", ms=4)
    minima = landscape.positions(basins.minima)
    for number, point in enumerate(minima):
        left.annotate(
            str(number),
            tuple(point),
            ha="center",
            va="center",
            fontsize=8,
            fontweight="bold",
            bbox={"boxstyle": "circle,pad=0.2", "fc": "white", "ec": "black", "lw": 1.2},
        )
    left.set_title(f"{len(basins)} basins and the minimum paths between them (dotted: across a gap)")
    number_of_classes = int(result.classes.max()) + 1
    colors = cluster_colors(number_of_classes)
    plane = result.scores[:, :2] if result.scores.shape[1] > 1 else np.column_stack([result.scores, 0 * result.scores])
    order = np.random.default_rng(0).permutation(len(plane))
    size = float(np.clip(9000 / len(plane), 0.8, 20))
    right.scatter(*plane[order].T, c=colors[result.classes[order]], s=size, linewidths=0, rasterized=True)
    for number in range(number_of_classes):
        count = int((result.classes == number).sum())
        right.scatter([], [], color=colors[number], s=25, label=f"{number}: {count:,}")
    right.legend(
        title="class: particles", fontsize=8, title_fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1)
    )
    right.set_title(f"{number_of_classes} agglomerative classes of {len(plane):,} particles")
    ratio = result.components.variance_ratio
    for axes in (left, right):
        axes.set_xlabel(f"volume component 1 ({100 * ratio[0]:.1f} % of variance)")
        axes.spines[["top", "right"]].set_visible(False)
    left.set_ylabel(f"volume component 2 ({100 * ratio[1]:.1f} % of variance)" if len(ratio) > 1 else "")
    _save(figure, path)


def draw_tree(path: Path, tree: np.ndarray, number: int) -> None:
    """Draw the Ward tree of the decoded volumes, colored below the cut into `number` classes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from scipy.cluster.hierarchy import dendrogram

    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    cut = (tree[-number, 2] + tree[-number + 1, 2]) / 2 if 1 < number <= len(tree) else tree[-1, 2] * 1.1
    dendrogram(tree, ax=axes, no_labels=True, color_threshold=cut, above_threshold_color="0.4")
    axes.axhline(cut, color="0.6", ls="--", lw=1)
    axes.set(ylabel="distance between volumes (Ward)", title=f"Tree of {len(tree) + 1:,} decoded volumes")
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    _save(figure, path)


def write_movie(path: Path, volumes: Sequence[np.ndarray], title: str) -> None:
    """Write an animated GIF of the central slices and projections of volumes (n, n, n), forth and back."""
    from matplotlib.animation import FuncAnimation, PillowWriter
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 3.3), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    slices = [volume[len(volume) // 2] for volume in volumes]
    projections = [volume.sum(axis=0) for volume in volumes]
    images = []
    for axes, frames, name in zip(panels, (slices, projections), ("central slice", "projection"), strict=True):
        low, high = min(f.min() for f in frames), max(f.max() for f in frames)
        images.append(axes.imshow(frames[0], cmap="gray", origin="lower", vmin=low, vmax=max(high, low + 1e-6)))
        axes.set_axis_off()
        axes.set_title(name, fontsize=9)
    order = [*range(len(volumes)), *range(len(volumes) - 2, 0, -1)]

    def show(step: int) -> list[Artist]:
        images[0].set_data(slices[step])
        images[1].set_data(projections[step])
        figure.suptitle(f"{title}, step {step}", fontsize=10)
        return list(images)

    animation = FuncAnimation(figure, show, frames=order)
    with atomic_path(path) as partial:
        animation.save(partial, writer=PillowWriter(FRAMES_PER_SECOND), dpi=90)


def _save(figure: Figure, path: Path) -> None:
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=DPI)
