"""Figure of one particle, updated during training (``--plot``)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from opustomo.io.atomic import atomic_path
from opustomo.training.monitors.records import EpochRecord, IntervalRecord, Projections

DPI = 110
SMOOTHING_PX = 1.5
INK, PALE = "0.15", "0.4"


class ParticlePlot:
    """Training monitor that updates the figure of one particle."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def interval(self, record: IntervalRecord) -> None:
        """Draw the particle of this interval."""
        if record.projections is not None:
            draw_particle(self._path, record.projections)

    def epoch(self, record: EpochRecord) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def draw_particle(path: Path, projections: Projections) -> None:
    """Draw z-projections of the subtomogram, of the model with CTF and of the masked target.

    The second row shows the same projections smoothed by a Gaussian of 1.5 pixels, because single subtomograms are
    mostly noise. Each image has its own gray scale.

    Raises
    ------
    OSError
        If the file cannot be written, in which case an earlier file is unchanged.
    """
    from matplotlib.figure import Figure
    from scipy.ndimage import gaussian_filter

    model, target = _finite(projections.model), _finite(projections.target)
    columns = (("subtomogram", _finite(projections.observed)), ("model with CTF", model), ("masked target", target))
    figure = Figure(figsize=(9.0, 6.7), facecolor="white")
    for column, (title, image) in enumerate(columns):
        for row, displayed in enumerate((image, gaussian_filter(image, SMOOTHING_PX))):
            axes = figure.add_axes((0.045 + 0.32 * column, 0.475 - 0.44 * row, 0.305, 0.305 * 9.0 / 6.7))
            low, high = _gray_range(displayed)
            axes.imshow(displayed, cmap="gray", vmin=low, vmax=high, origin="lower", interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            if row == 0:
                axes.set_title(title, fontsize=11, color=INK, pad=5)
            if column == 0:
                axes.set_ylabel(("unfiltered", "smoothed")[row], fontsize=10, color=PALE)
    figure.text(
        0.045,
        0.953,
        f"projections of one particle along z   ·   correlation of model and target {_correlation(model, target):.2f}",
        fontsize=11,
        color=PALE,
    )
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=DPI)


def _finite(image: np.ndarray) -> np.ndarray:
    """Return an image in double precision with non-finite values replaced by 0."""
    return np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)


def _gray_range(image: np.ndarray) -> tuple[float, float]:
    low, high = (float(value) for value in np.percentile(image, (0.5, 99.5)))
    return (low, high) if high > low else (low - 1.0, low + 1.0)


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Compute the Pearson correlation of two images; NaN if one is constant."""
    a, b = first.ravel() - first.mean(), second.ravel() - second.mean()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm > 0 else float("nan")
