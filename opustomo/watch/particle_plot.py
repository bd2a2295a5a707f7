"""The picture of one particle that ``--plot`` keeps up to date."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from opustomo.io.atomic import atomic_path
from opustomo.training.records import EpochRecord, IntervalRecord, Projections

DPI = 110
SMOOTHING_PX = 1.5
INK, PALE = "0.15", "0.4"


class ParticlePlot:
    """Watcher that keeps the picture of one particle up to date."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def interval(self, record: IntervalRecord) -> None:
        """Draw the particle of this interval."""
        if record.projections is not None:
            draw_particle(self._path, record.projections)

    def epoch(self, record: EpochRecord) -> None:
        """Nothing new to show."""

    def close(self) -> None:
        """Nothing to close."""


def draw_particle(path: Path, projections: Projections) -> None:
    """Draw z-projections of the input, of the model with CTF and of the masked target.

    The second row shows the same after a Gaussian of 1.5 pixels: single subtomograms are mostly noise, which the eye
    does not average. Each picture has its own greys.

    Raises
    ------
    OSError
        The file cannot be written; an earlier one then stays.
    """
    from matplotlib.figure import Figure
    from scipy.ndimage import gaussian_filter

    model, target = _finite(projections.model), _finite(projections.target)
    columns = (("subtomogram", _finite(projections.observed)), ("model with CTF", model), ("masked target", target))
    figure = Figure(figsize=(9.0, 6.7), facecolor="white")
    for column, (title, image) in enumerate(columns):
        for row, shown in enumerate((image, gaussian_filter(image, SMOOTHING_PX))):
            axes = figure.add_axes((0.045 + 0.32 * column, 0.475 - 0.44 * row, 0.305, 0.305 * 9.0 / 6.7))
            low, high = _greys(shown)
            axes.imshow(shown, cmap="gray", vmin=low, vmax=high, origin="lower", interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            if row == 0:
                axes.set_title(title, fontsize=11, color=INK, pad=5)
            if column == 0:
                axes.set_ylabel(("as it is", "smoothed")[row], fontsize=10, color=PALE)
    figure.text(
        0.045,
        0.953,
        f"one particle, projections along z   ·   model and target correlate by {_correlation(model, target):.2f}",
        fontsize=11,
        color=PALE,
    )
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=DPI)


def _finite(image: np.ndarray) -> np.ndarray:
    """In double precision, 0 where not finite."""
    return np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)


def _greys(image: np.ndarray) -> tuple[float, float]:
    low, high = (float(value) for value in np.percentile(image, (0.5, 99.5)))
    return (low, high) if high > low else (low - 1.0, low + 1.0)


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson correlation of two pictures; nan when one has no contrast."""
    a, b = first.ravel() - first.mean(), second.ravel() - second.mean()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm > 0 else float("nan")
