"""A look at a series of volumes without leaving the terminal's folder: slices and projections in one picture."""

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
    """What is shown of one volume: its central z slice and the sum along z, both (n, n), axes y, x."""

    title: str
    slice: np.ndarray
    projection: np.ndarray


def view_of(volume: np.ndarray, title: str) -> View:
    """The view of a volume (n, n, n), axes z, y, x."""
    return View(title, volume[len(volume) // 2].copy(), volume.sum(axis=0))


def draw_views(path: Path, views: Sequence[View]) -> None:
    """Draw central slices above projections, all slices in one grey scale and all projections in another.

    Parameters
    ----------
    path
        The picture.
    views
        One for each volume; ten a row, further ones below.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(len(views), COLUMNS)
    bands = -(-len(views) // columns)
    figure = Figure(figsize=(PANEL_INCHES * columns + 0.3, (2 * PANEL_INCHES + 0.35) * bands), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2 * bands, columns, squeeze=False)
    for panel in panels.flat:
        panel.set_axis_off()
    for row, kind in enumerate(("slice", "projection")):
        pictures = [getattr(view, kind) for view in views]
        low, high = min(picture.min() for picture in pictures), max(picture.max() for picture in pictures)
        for number, (view, picture) in enumerate(zip(views, pictures, strict=True)):
            panel = panels[2 * (number // columns) + row, number % columns]
            panel.imshow(picture, cmap="gray", origin="lower", vmin=low, vmax=high if high > low else low + 1)
            if not row:
                panel.set_title(view.title, fontsize=7)
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=110)
