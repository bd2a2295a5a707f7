"""Display of volumes: overview figure of a series, and ChimeraX command files that open a series or a set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from opustomo.analysis.figures.figure_style import cluster_colors
from opustomo.io.atomic import atomic_path, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 10
PANEL_INCHES = 1.25


@dataclass(frozen=True)
class View:
    """Central z slice and projection along z of one volume, both of shape (n, n), axes y, x; pixel size `apix` in Å."""

    title: str
    slice: np.ndarray
    projection: np.ndarray
    apix: float | None = None


def view_of(volume: np.ndarray, title: str, apix: float | None = None) -> View:
    """Return the central slice and projection of a volume (n, n, n), axes z, y, x, with pixel size `apix` in Å."""
    return View(title, volume[len(volume) // 2].copy(), volume.sum(axis=0), apix)


def scale_bar_length(width: float) -> float:
    """Return the length of the scale bar of an image: the largest of 1, 2, 5, 10 … up to a third of its width, in Å."""
    power = 10.0 ** np.floor(np.log10(width / 3))
    return float(max(digit * power for digit in (1, 2, 5) if digit * power <= width / 3 * (1 + 1e-9)))


def draw_views(path: Path, views: Sequence[View]) -> None:
    """Draw central slices above projections, with one gray scale for all slices and one for all projections.

    Each row is labeled, and its first image has a scale bar if the pixel size is known.

    Parameters
    ----------
    path
        Output image.
    views
        One view per volume, drawn in rows of ten.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(len(views), COLUMNS)
    num_rows = -(-len(views) // columns)
    figure = Figure(figsize=(PANEL_INCHES * columns + 0.5, (2 * PANEL_INCHES + 0.35) * num_rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2 * num_rows, columns, squeeze=False)
    for panel in panels.flat:
        panel.set_xticks([])
        panel.set_yticks([])
        panel.set_frame_on(False)
    for row, (attribute, label) in enumerate((("slice", "central slice z"), ("projection", "projection along z"))):
        images = [getattr(view, attribute) for view in views]
        low, high = min(image.min() for image in images), max(image.max() for image in images)
        for number, (view, image) in enumerate(zip(views, images, strict=True)):
            panel = panels[2 * (number // columns) + row, number % columns]
            panel.imshow(image, cmap="gray", origin="lower", vmin=low, vmax=high if high > low else low + 1)
            if not row:
                panel.set_title(view.title, fontsize=7)
            if number % columns == 0:
                panel.set_ylabel(label, fontsize=7)
                _draw_scale_bar(panel, view)
    write_figure(path, figure, 110)


def _draw_scale_bar(panel: Axes, view: View) -> None:
    if not view.apix:
        return
    size = view.slice.shape[1]
    length = scale_bar_length(size * view.apix)
    start, height = 0.06 * size, 0.07 * size
    panel.plot([start, start + length / view.apix], [height, height], color="white", lw=1.5, solid_capstyle="butt")
    panel.text(start, height + 0.03 * size, f"{length:g} Å", color="white", fontsize=6, ha="left", va="bottom")
    panel.set_xlim(-0.5, size - 0.5)
    panel.set_ylim(-0.5, size - 0.5)


_BINS = 256


def contour_level(volume: np.ndarray) -> float:
    """Compute the density threshold that separates particle from solvent by Otsu's method.

    See Otsu (1979), doi:10.1109/TSMC.1979.4310076.

    Parameters
    ----------
    volume
        Density of any shape. Voxels that are exactly zero, such as those outside a mask, are ignored.

    Returns
    -------
    float
        Threshold in the unit of `volume`; 0 for a volume without contrast.
    """
    values = np.asarray(volume, dtype=np.float64)
    values = values[values != 0]
    if not values.size or values.min() == values.max():
        return 0.0
    counts, edges = np.histogram(values, _BINS)
    middles = (edges[:-1] + edges[1:]) / 2
    below, sums = np.cumsum(counts), np.cumsum(counts * middles)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (sums[-1] * below / below[-1] - sums) ** 2 / (below * above)
    # The criterion is constant across an empty gap between the two modes: take the middle of the gap.
    best = np.flatnonzero(between[:-1] >= np.nanmax(between[:-1]) * (1 - 1e-12))
    return float(edges[1 + best].mean())


def write_series_script(path: Path, volumes: Sequence[Path], level: float) -> None:
    """Write a command file that plays volumes as a series, for example along a traversal.

    Parameters
    ----------
    path
        Output file, ``.cxc``. ChimeraX resolves file names relative to it, so the folder can be moved.
    volumes
        MRC files of the same size in the folder of `path`.
    level
        Contour level of all volumes.
    """
    names = " ".join(_quoted(volume.name) for volume in volumes)
    lines = [
        "# A series of volumes: open this file in an empty ChimeraX session.",
        "# Use the slider to step through the series. To change the contour level: volume #1 level 0.1",
        f"open {names} vseries true",
        f"volume #1 style surface step 1 level {level:.5g}",
        "view",
        "vseries play #1 direction oscillate loop true maxFrameRate 5",
    ]
    _write(path, lines)


def write_set_script(path: Path, volumes: Sequence[Path], level: float, names: Sequence[str]) -> None:
    """Write a command file that tiles volumes in the colors of their clusters.

    Parameters
    ----------
    path, volumes, level
        See `write_series_script`.
    names
        Model name of each volume.
    """
    lines = [
        "# Volumes of clusters: open this file in an empty ChimeraX session. To superimpose them, omit the last line.",
        "# The colors are those of the analysis figures.",
    ]
    colors = np.rint(255 * cluster_colors(len(volumes))).astype(int)
    for number, (volume, name, color) in enumerate(zip(volumes, names, colors, strict=True), start=1):
        lines += [
            f"open {_quoted(volume.name)} id {number} name {_quoted(name)}",
            f"volume #{number} style surface step 1 level {level:.5g}",
            f"color #{number} #{color[0]:02x}{color[1]:02x}{color[2]:02x}",
        ]
    _write(path, [*lines, "view", "tile"])


def write_difference_script(path: Path, shown: tuple[Path, float], difference: tuple[Path, float]) -> None:
    """Write a command file that shows a volume with the surfaces of a difference map.

    Parameters
    ----------
    path
        See `write_series_script`.
    shown
        MRC file of the volume in the folder of `path`, and its contour level.
    difference
        MRC file of the difference map in the same folder, and the absolute value at which it is contoured.
    """
    (volume, level), (compared, threshold) = shown, difference
    lines = [
        "# A class and its difference from the other classes: open this file in an empty ChimeraX session.",
        f"# Blue: more density than the others, red: less, beyond {threshold:.3g} standard deviations.",
        f"open {_quoted(volume.name)} id 1",
        f"volume #1 style surface step 1 level {level:.5g} color #c0c0c0 transparency 0.6",
        f"open {_quoted(compared.name)} id 2",
        f"volume #2 style surface step 1 level {-threshold:.5g} color #d62728 level {threshold:.5g} color #1f77b4",
        "view",
    ]
    _write(path, lines)


def _quoted(text: str) -> str:
    return f'"{text}"' if any(character.isspace() for character in text) else text


def _write(path: Path, lines: list[str]) -> None:
    with atomic_path(path) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
