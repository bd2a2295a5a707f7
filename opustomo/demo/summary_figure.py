"""Summary figure of the demo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from opustomo.analysis.figures.figure_style import INK, PALE, cluster_colors, style_axes
from opustomo.demo.scores import ClusterVolume, DemoResult
from opustomo.io.atomic import write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 13.0
MARGIN = 0.45
HEAD = 0.75  # height of the title line
PANEL = 3.6  # side of a latent plot
GAP = 0.3  # distance between blocks of slices


class _Page:
    """Figure with coordinates in inches from the upper left corner."""

    def __init__(self, height: float) -> None:
        from matplotlib.figure import Figure

        self.height = height
        self.figure: Figure = Figure(figsize=(WIDTH, height), facecolor="white")

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        bottom = self.height - top - height
        return self.figure.add_axes((left / WIDTH, bottom / self.height, width / WIDTH, height / self.height))

    def text(self, left: float, top: float, text: str, **style: Any) -> None:
        self.figure.text(left / WIDTH, 1 - top / self.height, text, va="baseline", **style)


def draw_summary(path: Path, result: DemoResult) -> None:
    """Draw latents by cluster and by true state, the contingency table, and cluster volumes with the true volumes."""
    # A cluster has the color of its state, which makes agreement visible.
    colors = cluster_colors(len(result.states))
    blocks = len(result.volumes)
    cell = min(1.3, (WIDTH - 2 * MARGIN - GAP * (blocks - 1)) / blocks / 3)
    slices_top = HEAD + 0.35 + PANEL + 1.05
    page = _Page(slices_top + 2 * cell + 0.3)
    page.text(MARGIN, 0.45, "opustomo demo", fontsize=17, fontweight="bold", color=INK)
    page.text(MARGIN + 2.35, 0.45, _summary(result), fontsize=11, color=PALE)
    left = page.axes(MARGIN + 0.1, HEAD + 0.35, PANEL, PANEL)
    right = page.axes(MARGIN + PANEL + 0.55, HEAD + 0.35, PANEL, PANEL)
    table = page.axes(WIDTH - MARGIN - 2.5, HEAD + 0.7, 2.5, 2.5)
    _draw_latents(left, result, colors[result.matching[result.clusters]], "colored by k-means cluster")
    _number_clusters(left, result, colors[result.matching])
    _draw_latents(right, result, colors[result.truth], "colored by true state")
    _draw_table(table, result, colors)
    _draw_volumes(page, result, colors, slices_top, cell)
    write_figure(path, page.figure, 130)


def _summary(result: DemoResult) -> str:
    before, after = result.before, result.after
    parts = (
        f"{len(result.truth)} subtomograms",
        f"adjusted Rand index {round(result.ari, 2) + 0.0:.2f}",
        f"median pose error {before.angle_deg:.1f}°, {before.shift_px:.2f} px before and "
        f"{after.angle_deg:.1f}°, {after.shift_px:.2f} px after training",
    )
    return "   ·   ".join(parts)


def _draw_latents(axes: Axes, result: DemoResult, colors: np.ndarray, title: str) -> None:
    # Draw in random order so that no color covers the others.
    order = np.random.default_rng(0).permutation(len(result.embedding))
    points = result.embedding[order]
    axes.scatter(points[:, 0], points[:, 1], s=26, c=colors[order], alpha=0.75, linewidths=0)
    axes.set_title(title, fontsize=11, color=INK, loc="left")
    axes.set_xlabel("UMAP 1", fontsize=9, color=PALE)
    axes.set_ylabel("UMAP 2", fontsize=9, color=PALE)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.margins(0.08)
    style_axes(axes)


def _number_clusters(axes: Axes, result: DemoResult, colors: np.ndarray) -> None:
    for cluster, center in enumerate(result.centers):
        axes.annotate(
            str(cluster),
            result.embedding[center],
            ha="center",
            va="center",
            fontsize=12,
            fontweight="bold",
            color=INK,
            bbox={"boxstyle": "circle,pad=0.25", "fc": "white", "ec": colors[cluster], "lw": 2.2},
        )


def _draw_table(axes: Axes, result: DemoResult, colors: np.ndarray) -> None:
    """Draw the number of particles per state (rows) and cluster (columns), clusters in the order of their states."""
    order = np.argsort(result.matching, kind="stable")
    table = result.table[:, order]
    fraction = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    axes.imshow(fraction, cmap="Greys", vmin=0, vmax=1.4)
    for (row, column), count in np.ndenumerate(table):
        ink = "white" if fraction[row, column] > 0.6 else (INK if count else "0.7")
        axes.text(column, row, str(count), ha="center", va="center", fontsize=12, color=ink)
    axes.set_xticks(range(len(order)), [f"cluster {cluster}" for cluster in order], fontsize=10)
    axes.set_yticks(range(len(result.states)), list(result.states), fontsize=10, fontweight="bold")
    for label, color in zip(axes.get_yticklabels(), colors, strict=True):
        label.set_color(color)
    axes.set_title("particles per state and cluster", fontsize=11, color=INK, pad=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _draw_volumes(page: _Page, result: DemoResult, colors: np.ndarray, top: float, cell: float) -> None:
    """Draw one block per cluster in the order of the states: a subtomogram, the cluster volume and the true volume."""
    blocks = sorted(result.volumes, key=lambda volume: (volume.state, volume.cluster))
    step = (WIDTH - 2 * MARGIN + GAP) / len(blocks)
    for number, shown in enumerate(blocks):
        start = MARGIN + number * step
        color = colors[shown.state]
        page.text(start, top - 0.38, f"cluster {shown.cluster}", fontsize=12, fontweight="bold", color=color)
        caption = f"{shown.particles} particles, correlation {shown.correlation:.2f}"
        page.text(start + 0.8, top - 0.38, caption, fontsize=10, color=PALE)
        columns = (("subtomogram", shown.example), ("cluster volume", shown.volume), ("true volume", shown.truth))
        for column, (title, volume) in enumerate(columns):
            for row, (plane, image) in enumerate(_slices(volume)):
                axes = page.axes(start + column * cell, top + row * cell, 0.96 * cell, 0.96 * cell)
                _draw_slice(axes, image, _gray_range(volume, shown))
                if row == 0:
                    axes.set_title(title, fontsize=9.5, color=INK, pad=3)
                if column == 0 and number == 0:
                    axes.set_ylabel(plane, fontsize=9, color=PALE, labelpad=2)


def _slices(volume: np.ndarray) -> list[tuple[str, np.ndarray]]:
    middle = volume.shape[0] // 2
    return [("z = 0", volume[middle]), ("y = 0", volume[:, middle])]


def _gray_range(volume: np.ndarray, shown: ClusterVolume) -> tuple[float, float]:
    """Return the gray scale: mean ± 3 standard deviations for subtomograms, 0 to the maximum for volumes."""
    if volume is shown.example:
        mean, deviation = float(volume.mean()), float(volume.std())
        return mean - 3 * deviation, mean + 3 * deviation
    high = float(np.percentile(volume, 99.8))
    return -0.1 * abs(high), high if high > 0 else 1.0


def _draw_slice(axes: Axes, image: np.ndarray, gray: tuple[float, float]) -> None:
    axes.imshow(image, cmap="gray", vmin=gray[0], vmax=gray[1], origin="lower", interpolation="bicubic")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
