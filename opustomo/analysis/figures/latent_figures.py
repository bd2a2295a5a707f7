"""Figures of latents and losses.

The figures use the object-oriented interface of matplotlib, which needs neither global state nor a display.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from opustomo.analysis.clusters.clustering import Clusters
from opustomo.analysis.figures.figure_style import (
    UNASSIGNED_COLOR,
    cluster_colors,
    spread_labels,
    viewing_colors,
    viewing_map,
)
from opustomo.analysis.latents.latent_traversals import PERCENTILES
from opustomo.io.atomic import write_figure
from opustomo.io.log_files import LossCurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 160
_LEGEND_ROWS = 25


@dataclass(frozen=True)
class Plane:
    """Two-dimensional coordinates of particles, `points` (N, 2), with axis labels."""

    points: np.ndarray
    x_label: str
    y_label: str


def umap_plane(embedding: np.ndarray) -> Plane:
    """Return the plane of a UMAP embedding (N, 2)."""
    return Plane(embedding, "UMAP 1", "UMAP 2")


def pca_plane(scores: np.ndarray, variance_ratio: np.ndarray) -> Plane:
    """Return the plane of the first two principal components.

    One-dimensional latents are spread along the second axis by uniform random numbers.

    Parameters
    ----------
    scores
        Principal component scores, shape (N, zdim).
    variance_ratio
        Fraction of variance explained by each component, shape (zdim,), for the axis labels.
    """
    labels = [f"PC{i + 1} ({100 * ratio:.1f} % of variance)" for i, ratio in enumerate(variance_ratio[:2])]
    if scores.shape[1] == 1:
        jitter = np.random.default_rng(0).uniform(-1.0, 1.0, len(scores))
        return Plane(np.column_stack([scores[:, 0], jitter]), labels[0], "random jitter (one-dimensional latent)")
    return Plane(scores[:, :2], labels[0], labels[1])


def draw_clusters(path: Path, plane: Plane, clusters: Clusters, hexagons: bool = False, title: str = "k-means") -> None:
    """Draw particles colored by cluster, or their density, with cluster numbers at the representative particles.

    Parameters
    ----------
    path
        Output image.
    plane
        Coordinates of the particles.
    clusters
        Clusters of the same particles.
    hexagons
        Draw the density of the particles instead of single particles.
    title
        Name of the clustering method.
    """
    colors = cluster_colors(len(clusters))
    figure, axes = _canvas(plane)
    if hexagons:
        _density(figure, axes, plane)
    else:
        _scatter(axes, plane, np.vstack([colors, UNASSIGNED_COLOR])[clusters.labels])
    _number_labels(axes, plane.points[clusters.center_indices], range(len(clusters)), colors)
    _cluster_legend(figure, clusters, colors)
    axes.set_title(f"{title}, {len(clusters)} clusters of {len(clusters.labels):,} particles")
    write_figure(path, figure, DPI)


def draw_viewing_groups(path: Path, plane: Plane, groups: np.ndarray) -> None:
    """Draw particles colored by viewing group (N,); latents should not correlate with the viewing direction."""
    figure, axes = _canvas(plane)
    _scatter(axes, plane, viewing_colors()[groups])
    axes.set_title(f"{len(groups):,} particles by viewing direction ({len(np.unique(groups))} groups)")
    key = figure.add_axes((0.78, 0.40, 0.19, 0.13))
    key.imshow(viewing_map(), extent=(0, 360, 180, 0), aspect="auto", interpolation="nearest")
    key.set(xticks=(0, 180, 360), yticks=(0, 90, 180))
    key.set_xlabel("phi (°)", fontsize=8)
    key.set_ylabel("theta (°)", fontsize=8)
    key.tick_params(labelsize=7)
    key.set_title("view", fontsize=9)
    write_figure(path, figure, DPI)


def draw_density(path: Path, plane: Plane) -> None:
    """Draw a hexagonal histogram of the particles."""
    figure, axes = _canvas(plane)
    _density(figure, axes, plane)
    axes.set_title(f"Density of {len(plane.points):,} particles")
    write_figure(path, figure, DPI)


def draw_scatter(path: Path, plane: Plane) -> None:
    """Draw all particles in one color."""
    figure, axes = _canvas(plane)
    _scatter(axes, plane, np.tile([[0.20, 0.33, 0.55]], (len(plane.points), 1)))
    axes.set_title(f"{len(plane.points):,} particles")
    write_figure(path, figure, DPI)


def draw_component(path: Path, plane: Plane, scores: np.ndarray, component: int, marked: np.ndarray) -> None:
    """Draw particles colored by their score along one component, with numbers at the points of the traversal.

    Parameters
    ----------
    scores
        Score of each particle along the component, shape (N,).
    component
        Number of the component, counted from 1.
    marked
        Index of the particle nearest to each point of the traversal, shape (P,), labeled with its volume number.
    """
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    figure, axes = _canvas(plane)
    low, high = np.percentile(scores, PERCENTILES)
    # Clip the color scale to the range of the traversal because outliers would reduce the contrast.
    scale = ScalarMappable(Normalize(low, high if high > low else low + 1.0), matplotlib.colormaps["viridis"])
    _scatter(axes, plane, scale.to_rgba(scores)[:, :3])
    bar = figure.colorbar(scale, cax=figure.add_axes((0.80, 0.12, 0.025, 0.78)))
    bar.set_label(f"score along PC{component}")
    _number_labels(axes, plane.points[marked], range(len(marked)), scale.to_rgba(np.linspace(low, high, len(marked))))
    axes.set_title(f"PC{component} (numbers: particles nearest to the traversal points)")
    write_figure(path, figure, DPI)


def draw_losses(path: Path, curves: dict[str, LossCurve]) -> None:
    """Draw the generative loss, total loss and SNR over epochs for training and validation."""
    from matplotlib.ticker import MaxNLocator

    figure = _figure(11.0, 3.8)
    panels = (("generative loss", "gen_loss"), ("total loss", "total_loss"), ("SNR (running SNR2)", "snr"))
    colors = {"training": "tab:blue", "validation": "tab:orange"}
    for i, (title, name) in enumerate(panels):
        axes = figure.add_axes((0.07 + i * 0.32, 0.15, 0.25, 0.75))
        for part, curve in curves.items():
            axes.plot(curve.epochs, getattr(curve, name), ".-", color=colors[part], label=part, lw=1.4)
        axes.set_title(title)
        axes.set_xlabel("epoch (from 0)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if i == 0:
            axes.legend(frameon=False)
    write_figure(path, figure, DPI)


def dot_style(count: int) -> tuple[float, float]:
    """Return the marker area (points²) and opacity that keep 200 as well as 100,000 particles readable."""
    return float(np.clip(9000.0 / count, 0.8, 26.0)), float(np.clip(1.35 - 0.22 * np.log10(count), 0.25, 0.85))


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def _canvas(plane: Plane) -> tuple[Figure, Axes]:
    """Create a figure with one square panel and space for a legend; all figures of an analysis share this layout."""
    figure = _figure(8.0, 6.2)
    axes = figure.add_axes((0.105, 0.09, 0.64, 0.64 * 8.0 / 6.2))
    axes.set(xlabel=plane.x_label, ylabel=plane.y_label)
    axes.spines[["top", "right"]].set_visible(False)
    low, high = plane.points.min(axis=0), plane.points.max(axis=0)
    margin = np.where(high > low, 0.05 * (high - low), 1.0)
    axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
    axes.set_ylim(low[1] - margin[1], high[1] + margin[1])
    return figure, axes


def _scatter(axes: Axes, plane: Plane, colors: np.ndarray) -> None:
    # Draw in random order so that the last cluster does not cover the others where they overlap.
    order = np.random.default_rng(0).permutation(len(plane.points))
    size, alpha = dot_style(len(order))
    x, y = plane.points[order].T
    axes.scatter(x, y, c=colors[order], s=size, alpha=alpha, linewidths=0, rasterized=True)


def _density(figure: Figure, axes: Axes, plane: Plane) -> None:
    import matplotlib
    from matplotlib.colors import LinearSegmentedColormap

    cells = int(np.clip(2.0 * np.sqrt(len(plane.points)), 16, 60))
    x_low, x_high, y_low, y_high = *axes.get_xlim(), *axes.get_ylim()
    # Omit the palest colors so that a cell with one particle differs from an empty one.
    shades = matplotlib.colormaps["Blues"](np.linspace(0.22, 1.0, 64))
    # The number of rows makes the hexagons regular in the square panel.
    cover = axes.hexbin(
        *plane.points.T,
        gridsize=(cells, max(int(cells / 1.73), 4)),
        extent=(x_low, x_high, y_low, y_high),
        mincnt=1,
        bins="log" if len(plane.points) > 2000 else None,
        cmap=LinearSegmentedColormap.from_list("ink", shades),
        vmin=0 if len(plane.points) <= 2000 else None,
        linewidths=0.2,
    )
    bar = figure.colorbar(cover, cax=figure.add_axes((0.78, 0.09, 0.02, 0.22)))
    bar.set_label("particles per cell", fontsize=8)
    bar.ax.tick_params(labelsize=7)


def _number_labels(axes: Axes, points: np.ndarray, numbers: Sequence[int], colors: np.ndarray) -> None:
    """Draw circled numbers at `points`; overlapping labels are moved apart and a dot marks their point."""
    to_page = axes.transData + axes.figure.dpi_scale_trans.inverted()
    positions = 72.0 * to_page.transform(points)
    offsets = spread_labels(positions, distance=15.0) - positions
    for number, point, offset, color in zip(numbers, points, offsets, colors, strict=True):
        axes.annotate(
            str(number),
            tuple(point),
            xytext=tuple(offset),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=7.5,
            fontweight="bold",
            bbox={"boxstyle": "circle,pad=0.2", "fc": "white", "ec": color, "lw": 1.5},
            arrowprops={"arrowstyle": "-", "color": "black", "lw": 0.7, "shrinkA": 0, "shrinkB": 0},
            zorder=4,
            annotation_clip=False,
        )
    moved = np.linalg.norm(offsets, axis=1) > 5.0
    axes.scatter(
        points[moved, 0], points[moved, 1], s=9, color=colors[moved], edgecolors="black", linewidths=0.6, zorder=3
    )


def _cluster_legend(figure: Figure, clusters: Clusters, colors: np.ndarray) -> None:
    """Draw a legend with the number, color and size of each cluster, up to 50 clusters."""
    from matplotlib.lines import Line2D

    shown = min(len(clusters), 2 * _LEGEND_ROWS)
    handles = [
        Line2D([], [], marker="o", ls="", ms=6, color=colors[i], label=f"{i}: {clusters.sizes[i]:,}")
        for i in range(shown)
    ]
    if clusters.unassigned:
        label = f"none: {clusters.unassigned:,}"
        handles.append(Line2D([], [], marker="o", ls="", ms=6, color=UNASSIGNED_COLOR, label=label))
    title = "cluster: particles" if shown == len(clusters) else f"cluster: particles\n(first {shown})"
    figure.legend(
        handles=handles,
        title=title,
        title_fontsize=8,
        loc="upper left",
        bbox_to_anchor=(0.755, 0.95),
        ncols=1 + (shown > _LEGEND_ROWS),
        fontsize=8 if shown <= 20 else 7,
        frameon=False,
        handletextpad=0.2,
        labelspacing=0.35,
        columnspacing=0.8,
    )
