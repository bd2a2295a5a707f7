"""Overview figure of a series of volumes: central slices and projections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from opustomo.io.atomic import atomic_path

COLUMNS = 10
PANEL_INCHES = 1.25


@dataclass(frozen=True)
class View:
    """Central z slice and projection along z of one volume, both of shape (n, n), axes y, x."""

    title: str
    slice: np.ndarray
    projection: np.ndarray


def view_of(volume: np.ndarray, title: str) -> View:
    """Return the central slice and projection of a volume (n, n, n), axes z, y, x."""
    return View(title, volume[len(volume) // 2].copy(), volume.sum(axis=0))


def draw_views(path: Path, views: Sequence[View]) -> None:
    """Draw central slices above projections, with one gray scale for all slices and one for all projections.

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
    figure = Figure(figsize=(PANEL_INCHES * columns + 0.3, (2 * PANEL_INCHES + 0.35) * num_rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2 * num_rows, columns, squeeze=False)
    for panel in panels.flat:
        panel.set_axis_off()
    for row, attribute in enumerate(("slice", "projection")):
        images = [getattr(view, attribute) for view in views]
        low, high = min(image.min() for image in images), max(image.max() for image in images)
        for number, (view, image) in enumerate(zip(views, images, strict=True)):
            panel = panels[2 * (number // columns) + row, number % columns]
            panel.imshow(image, cmap="gray", origin="lower", vmin=low, vmax=high if high > low else low + 1)
            if not row:
                panel.set_title(view.title, fontsize=7)
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=110)
