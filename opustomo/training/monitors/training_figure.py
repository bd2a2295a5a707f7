"""Figures that are updated during training: ``training.png`` after each epoch, and one particle with ``--plot``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from opustomo.analysis.figures.figure_style import INK, PALE, style_axes
from opustomo.analysis.figures.latent_figures import dot_style, pca_plane
from opustomo.analysis.latents.dimension_reduction import fit_pca
from opustomo.io.atomic import write_figure
from opustomo.training.monitors.convergence_state import STABLE_LATENTS, STABLE_VOLUME, ConvergenceMonitor, EpochNumbers
from opustomo.training.monitors.metrics import EPOCHS_FILE, read_epoch_means
from opustomo.training.monitors.records import EpochRecord, IntervalRecord, Projections, compared_loss

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT, DPI = 13.0, 7.6, 100
TRAINING, HELD_OUT = "#33548c", "#d9822b"
HEXAGONS_ABOVE = 20_000
_LOSSES = {"nll": "negative log-likelihood", "gen": "generative loss"}
_CURVES = (("total loss", "total"), ("KL", "kl"))
LATENTS, VOLUME = "#7a5195", "#2a8c82"


Means = tuple[dict[str, float], dict[str, float] | None]


class TrainingFigure:
    """Training monitor that draws the figure after each epoch.

    Epochs before the run was resumed are read from ``epochs.csv`` in the same folder, if it exists.

    Parameters
    ----------
    path
        Output image.
    convergence
        Monitor that receives each epoch before this one and judges the convergence; None draws no judgment.
    """

    def __init__(self, path: Path, convergence: ConvergenceMonitor | None = None) -> None:
        self._path, self._convergence = path, convergence
        self._history: dict[int, Means] | None = None

    def interval(self, record: IntervalRecord) -> None:
        """Do nothing."""

    def epoch(self, record: EpochRecord) -> None:
        """Draw the figure.

        Raises
        ------
        OSError
            If the file cannot be written, in which case the figure of the previous epoch is unchanged.
        """
        if self._history is None:
            known = read_epoch_means(self._path.with_name(EPOCHS_FILE)) if record.epoch else {}
            self._history = {epoch: means for epoch, means in known.items() if epoch < record.epoch}
        validation = None if record.validation is None else dict(record.validation)
        self._history[record.epoch] = dict(record.training), validation
        draw_training(self._path, record, self._history, self._convergence)

    def close(self) -> None:
        """Do nothing."""


def draw_training(
    path: Path, record: EpochRecord, history: dict[int, Means], convergence: ConvergenceMonitor | None = None
) -> None:
    """Draw the figure of an epoch.

    Parameters
    ----------
    path
        Output image, written atomically.
    record
        Record of the epoch with its volume and latents.
    history
        Means of training and validation for each epoch, counted from 0, including this epoch.
    convergence
        Monitor with the changes of latents and volume per epoch and the statement on convergence.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), facecolor="white")
    loss = compared_loss(training for training, _ in history.values())
    _head(figure, record, loss)
    for column, (title, name) in enumerate(((_LOSSES[loss], loss), *_CURVES)):
        axes = figure.add_axes((0.052 + 0.244 * column, 0.575, 0.195, 0.29))
        _draw_curve(axes, title, name, history)
        if column == 0 and convergence is not None and convergence.statement.since is not None:
            axes.axvline(convergence.statement.since, color=INK, lw=1.0, ls=":")
    changes = convergence.history if convergence is not None and convergence.history is not None else []
    _draw_changes(figure.add_axes((0.784, 0.575, 0.195, 0.29)), changes, record.epoch)
    if convergence is not None:
        sentence = convergence.statement.sentence + convergence.statement.advice(path.parent)
        figure.text(0.052, 0.917, sentence[0].upper() + re.sub(r"-(?=\d)", "−", sentence[1:]), fontsize=11, color=INK)
    _draw_slices(figure, np.asarray(record.template, dtype=np.float32))
    _draw_latents(figure, record)
    write_figure(path, figure, DPI)


def _head(figure: Figure, record: EpochRecord, loss: str) -> None:
    title = f"epoch {record.epoch}"
    figure.text(0.052, 0.958, title, fontsize=17, fontweight="bold", color=INK)
    seconds = round(record.seconds)
    took = f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}" if seconds >= 60 else f"{seconds} s"
    parts = [f"{_LOSSES[loss]} {record.training.get(loss, np.nan):.5g}"]
    if record.validation is not None:
        parts.append(f"held out {record.validation.get(loss, np.nan):.5g}")
    parts += [f"SNR {record.training.get('snr', np.nan):.3g}", f"this epoch took {took}"]
    if record.written == record.epoch:
        parts.append(f"weights.{record.epoch}.pkl")
    text = "   ·   ".join(parts).replace("-", "−")
    figure.text(0.07 + 0.0125 * len(title), 0.958, text, fontsize=11, color=PALE)


def _draw_curve(axes: Axes, title: str, name: str, history: dict[int, Means]) -> None:
    from matplotlib.ticker import MaxNLocator

    epochs = sorted(history)
    lines = {
        "training": (TRAINING, [history[epoch][0].get(name, np.nan) for epoch in epochs]),
        "held out": (HELD_OUT, [(history[epoch][1] or {}).get(name, np.nan) for epoch in epochs]),
    }
    drawn = []
    for label, (color, values) in lines.items():
        heights = np.asarray(values, dtype=np.float64)
        heights[~np.isfinite(heights)] = np.nan
        if np.isfinite(heights).any():
            marker = "" if len(epochs) > 40 else "o"
            axes.plot(np.asarray(epochs), heights, marker=marker, ms=3.5, lw=1.5, color=color, label=label)
            drawn.append(heights)
    axes.set_title(title, fontsize=11, color=INK, loc="left")
    axes.set_xlabel("epoch (from 0)", fontsize=9, color=PALE)
    if drawn:
        _limit(axes, np.asarray(drawn))
    else:
        axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", color=PALE)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    if len(epochs) == 1:
        axes.set_xlim(epochs[0] - 0.5, epochs[0] + 0.5)
    axes.ticklabel_format(axis="y", useOffset=False, scilimits=(-3, 4))
    axes.yaxis.get_offset_text().set_fontsize(8)
    axes.grid(alpha=0.25, lw=0.6)
    style_axes(axes)
    if name in _LOSSES and len(drawn) == 2:
        axes.legend(frameon=False, fontsize=8.5)


def _draw_changes(axes: Axes, rows: Sequence[EpochNumbers], last: int) -> None:
    """Draw the changes of latents and volume since the previous epoch, with the limits below which they are stable."""
    from matplotlib.ticker import MaxNLocator

    axes.set_title("change since the previous epoch", fontsize=11, color=INK, loc="left")
    for label, color, limit, values in (
        ("latents / spread", LATENTS, STABLE_LATENTS, [row.latent_change for row in rows]),
        ("1 − volume correlation", VOLUME, STABLE_VOLUME, [row.volume_change for row in rows]),
    ):
        heights = np.clip(np.asarray(values, dtype=np.float64), 1e-5, None)
        if np.isfinite(heights).any():
            axes.semilogy([row.epoch for row in rows], heights, "o-", ms=3.5, lw=1.5, color=color, label=label)
            axes.axhline(limit, color=color, lw=0.9, ls=":")
    if axes.lines:
        low, high = axes.get_ylim()
        axes.set_ylim(0.5 * low, 4.0 * high)
        axes.legend(frameon=False, fontsize=8.5)
    else:
        axes.text(0.5, 0.5, "from the second epoch on", transform=axes.transAxes, ha="center", color=PALE)
    axes.set_xlim(-0.5, last + 0.5)
    axes.set_xlabel("epoch (from 0); dotted: stable below", fontsize=9, color=PALE)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.grid(alpha=0.25, lw=0.6)
    style_axes(axes)


def _limit(axes: Axes, lines: np.ndarray) -> None:
    """Exclude the first tenth of the epochs from the y range if they compress the rest, and note this on the axis.

    Parameters
    ----------
    axes
        Axes of the curves.
    lines
        Values of the curves, (lines, epochs).
    """
    epochs = lines.shape[1]
    first = max(1, epochs // 10)
    later = lines[:, first:]
    if epochs < 4 or not np.isfinite(later).any():
        return
    low, high = float(np.nanmin(later)), float(np.nanmax(later))
    if high > low and np.nanmax(lines) - np.nanmin(lines) > 3.0 * (high - low):
        margin = 0.25 * (high - low)
        axes.set_ylim(low - margin, high + margin)
        excluded = "first epoch" if first == 1 else f"first {first} epochs"
        axes.set_xlabel(f"epoch ({excluded} partly off scale)", fontsize=9, color=PALE)


def _draw_slices(figure: Figure, volume: np.ndarray) -> None:
    volume = np.nan_to_num(volume, posinf=0.0, neginf=0.0)
    z, y, x = (size // 2 for size in volume.shape)
    slices = (("xy", volume[z]), ("xz", volume[:, y]), ("yz", volume[:, :, x]))
    shown = np.concatenate([image.ravel() for _, image in slices])
    low, high = (float(value) for value in np.percentile(shown, (0.5, 99.8)))
    if not high > low:
        low, high = low - 1.0, low + 1.0
    for column, (plane, image) in enumerate(slices):
        side = 0.183
        axes = figure.add_axes((0.052 + 0.203 * column, 0.1, side, side * WIDTH / HEIGHT))
        axes.imshow(image, cmap="gray", vmin=low, vmax=high, origin="lower", interpolation="bicubic")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        axes.set_xlabel(f"{plane[0]} →", fontsize=9, color=PALE, labelpad=2)
        axes.set_ylabel(f"{plane[1]} →", fontsize=9, color=PALE, labelpad=1)
    size = "×".join(str(length) for length in volume.shape[::-1])
    figure.text(0.052, 0.455, f"volume at the mean latent, central slices ({size} voxels)", fontsize=11, color=INK)


def _draw_latents(figure: Figure, record: EpochRecord) -> None:
    axes = figure.add_axes((0.725, 0.1, 0.25, 0.335))
    style_axes(axes)
    latents = np.asarray(record.latents)[np.asarray(record.seen, dtype=bool), : record.zdim]
    latents = latents[np.isfinite(latents).all(axis=1)]
    many = len(latents) > HEXAGONS_ABOVE
    source = "running averages" if record.written is None else f"z.{record.written}.pkl"
    title = f"{'density of ' * many}composition latents ({source}), {len(latents):,} particles"
    axes.set_title(title, fontsize=11, color=INK, loc="left", pad=8)
    if 0 in latents.shape:
        axes.text(0.5, 0.5, "no latents yet", transform=axes.transAxes, ha="center", color=PALE)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    pca = fit_pca(latents)
    plane = pca_plane(pca.scores(latents), pca.variance_ratio)
    axes.set_xlabel(plane.x_label, fontsize=9, color=PALE)
    axes.set_ylabel(plane.y_label, fontsize=9, color=PALE)
    low, high = plane.points.min(axis=0), plane.points.max(axis=0)
    margin = np.where(high > low, 0.05 * (high - low), 1.0)
    (left, bottom), (right, top) = low - margin, high + margin
    axes.set(xlim=(left, right), ylim=(bottom, top))
    if many:
        _density(axes, plane.points, (left, right, bottom, top))
    else:
        size, alpha = dot_style(len(latents))
        axes.scatter(plane.points[:, 0], plane.points[:, 1], s=size, alpha=alpha, color=TRAINING, linewidths=0)


def _density(axes: Axes, points: np.ndarray, extent: tuple[float, float, float, float]) -> None:
    import matplotlib
    from matplotlib.colors import LinearSegmentedColormap

    # Omit the palest colors so that a cell with one particle differs from an empty one.
    shades = LinearSegmentedColormap.from_list("ink", matplotlib.colormaps["Blues"](np.linspace(0.22, 1.0, 64)))
    axes.hexbin(*points.T, gridsize=(60, 32), extent=extent, mincnt=1, bins="log", cmap=shades, linewidths=0.2)


PARTICLE_DPI = 110
SMOOTHING_PX = 1.5


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
    write_figure(path, figure, PARTICLE_DPI)


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
