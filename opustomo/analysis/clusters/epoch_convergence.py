"""Convergence of a run: stability of clusterings and latents between epochs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from opustomo.analysis.clusters.cluster_number import find_clusters
from opustomo.analysis.clusters.clustering import Clustering
from opustomo.analysis.results import ResultDir
from opustomo.errors import UserError
from opustomo.io.atomic import write_csv, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SAMPLE = 20_000
"""Maximum number of particles compared, sampled once; more particles do not change the curves visibly."""
LOW_INDEX = 0.8
"""Adjusted Rand index below which smaller numbers of clusters are compared as well."""
MOST_TRIED = 10
LEAST_SPREAD = 0.1
"""Least standard deviation per coordinate of latents that describe the particles; that of the prior is 1."""


@dataclass(frozen=True)
class EpochStability:
    """Agreement of the latents of one epoch with those of the previous and the last epoch.

    Attributes
    ----------
    epoch, previous
        Epoch numbers, counted from 0; `previous` is None for the first epoch.
    ari_previous, ari_last
        Adjusted Rand index between the k-means clusterings: 1 for identical clusterings, 0 for chance agreement.
    displacement
        Root mean square displacement of the latents since the previous epoch, less that of their mean, divided by
        `spread`; NaN for the first epoch.
    spread
        Root mean square distance of the latents from their mean.
    """

    epoch: int
    previous: int | None
    ari_previous: float
    ari_last: float
    displacement: float
    spread: float


def measure_convergence(
    results: ResultDir, num_clusters: int, say: Callable[[str], None] = print
) -> list[EpochStability]:
    """Compare the latents of all available epochs in ascending order.

    Parameters
    ----------
    results
        Result directory of the run.
    num_clusters
        Number of k-means clusters.
    say
        Callback that receives progress messages.

    Raises
    ------
    UserError
        If there are fewer than two epochs or more clusters than particles, or if the epochs disagree in shape.
    """
    from sklearn.metrics import adjusted_rand_score

    epochs = results.epochs()
    if len(epochs) < 2:
        raise UserError(f"{results.root} has the latents of only one epoch. Train with a smaller --checkpoint.")
    chosen: np.ndarray | None = None
    shape: tuple[int, ...] = ()
    latents, labels = [], []
    for epoch in epochs:
        mu, _ = results.load_latents(epoch)
        if chosen is None:
            shape = mu.shape
            chosen = np.arange(len(mu))
            if len(mu) > SAMPLE:
                chosen = np.sort(np.random.default_rng(0).choice(len(mu), SAMPLE, replace=False))
                say(f"Comparing {SAMPLE:,} of {len(mu):,} particles.")
        if mu.shape != shape:
            raise UserError(
                f"z.{epoch}.pkl has latents of shape {mu.shape}, but z.{epochs[0]}.pkl has shape {shape}. "
                f"{results.root} contains epochs of different runs."
            )
        latents.append(mu[chosen].astype(np.float64))
        coordinates = _coordinates(results, epoch, len(mu), chosen)
        labels.append(find_clusters(mu[chosen], Clustering(num_clusters), coordinates).clusters.labels)
        say(f"Clustered epoch {epoch}.")
    stabilities = []
    for i, epoch in enumerate(epochs):
        spread = _rms(latents[i] - latents[i].mean(0))
        moved = latents[i] - latents[i - 1] if i else np.empty(0)
        # decoder and clusters follow a shift of all latents alike
        step = _rms(moved - moved.mean(0)) / spread if i and spread > 0 else float("nan")
        stabilities.append(
            EpochStability(
                epoch=epoch,
                previous=epochs[i - 1] if i else None,
                ari_previous=float(adjusted_rand_score(labels[i - 1], labels[i])) if i else float("nan"),
                ari_last=float(adjusted_rand_score(labels[-1], labels[i])),
                displacement=step,
                spread=spread,
            )
        )
    return stabilities


def _coordinates(results: ResultDir, epoch: int, count: int, chosen: np.ndarray) -> np.ndarray | None:
    """Return the coordinates (n, K) of the particles `chosen` (n,) of `count` in an epoch; None without coordinates."""
    coordinates = results.load_coordinates(epoch, count)
    return None if coordinates is None else coordinates[chosen]


def has_spread(latents: np.ndarray) -> bool:
    """Return whether latents (N, zdim) vary between particles in any direction."""
    variances = np.linalg.eigvalsh(np.atleast_2d(np.cov(latents.astype(np.float64), rowvar=False)))
    return bool(variances.max() >= LEAST_SPREAD**2)  # the least one may be negative by rounding


def describe_convergence(results: ResultDir, rows: Sequence[EpochStability], num_clusters: int) -> list[str]:
    """Return sentences on the comparison of the last two epochs.

    Parameters
    ----------
    results
        Result directory of the run.
    rows
        Result of :func:`measure_convergence`.
    num_clusters
        Number of clusters that was compared.
    """
    last = rows[-1]
    assert last.previous is not None
    both = f"Epoch {last.epoch} compared with epoch {last.previous}"
    if not has_spread(results.load_latents(last.epoch)[0]):
        return [
            f"{both}: adjusted Rand index {last.ari_previous:.3f} for {num_clusters} clusters.",
            f"The latents have almost no spread (standard deviations below {LEAST_SPREAD:g}, where the prior has 1): "
            "the set is homogeneous, or the latents have collapsed in training. dsdsh validate tests whether clusters "
            "of the likelihood coordinates differ all the same.",
        ]
    lines = [
        f"{both}: adjusted Rand index {last.ari_previous:.3f} for {num_clusters} clusters; the latents moved by "
        f"{100 * last.displacement:.0f} % of their spread."
    ]
    if last.ari_previous < LOW_INDEX:
        lines.append(
            "A low index alone does not mean that the training is too short: with more clusters than classes, the "
            "boundaries of the superfluous clusters are arbitrary."
        )
        number, index = _largest_stable(results, (last.previous, last.epoch), num_clusters)
        if index > last.ari_previous:
            lines[-1] += f" With {number} clusters, the index is {index:.3f}."
    return lines


def _largest_stable(results: ResultDir, epochs: tuple[int, int], num_clusters: int) -> tuple[int, float]:
    """Return a smaller number of clusters and the adjusted Rand index of two epochs for it.

    It is the largest number with an index of at least `LOW_INDEX`; if there is none, the number of highest index.
    """
    from sklearn.metrics import adjusted_rand_score

    latents = [results.load_latents(epoch)[0] for epoch in epochs]
    count = len(latents[0])
    chosen = np.random.default_rng(0).permutation(count)[:SAMPLE]
    values = [
        (mu[chosen], _coordinates(results, epoch, count, chosen)) for mu, epoch in zip(latents, epochs, strict=True)
    ]
    best = (0, -1.0)
    for number in range(min(num_clusters - 1, MOST_TRIED), 1, -1):
        labels = [find_clusters(mu, Clustering(number), coordinates).clusters.labels for mu, coordinates in values]
        best = max(best, (number, float(adjusted_rand_score(*labels))), key=lambda pair: pair[1])
        if best[1] >= LOW_INDEX:
            break
    return best


def _rms(vectors: np.ndarray) -> float:
    """Compute the root mean square length of vectors (n, d)."""
    return float(np.sqrt((vectors**2).sum(1).mean()))


def write_convergence(path: Path, rows: Sequence[EpochStability]) -> None:
    """Write ``convergence.csv``; values that are undefined for the first epoch are empty."""
    lines: list[list[object]] = [["epoch", "previous", "ari_previous", "ari_last", "displacement", "spread"]]
    for row in rows:
        numbers = (row.ari_previous, row.ari_last, row.displacement, row.spread)
        previous = "" if row.previous is None else row.previous
        lines.append([row.epoch, previous, *("" if np.isnan(x) else f"{x:.6f}" for x in numbers)])
    write_csv(path, lines)


def draw_convergence(path: Path, rows: Sequence[EpochStability], num_clusters: int) -> None:
    """Draw the agreement of clusterings and the displacement of latents over epochs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 3.6), facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [row.epoch for row in rows]
    later = rows[1:]
    left.plot([row.epoch for row in later], [row.ari_previous for row in later], "o-", color="#0072b2", ms=3.5)
    left.plot(epochs[:-1], [row.ari_last for row in rows[:-1]], "s-", color="#e69f00", ms=3.5)
    left.legend(["with the previous epoch", "with the last epoch"], frameon=False, fontsize=9, loc="lower right")
    left.set_title(f"Adjusted Rand index (k-means, {num_clusters} clusters)", fontsize=11, loc="left")
    left.set_ylim(-0.05, 1.05)
    right.plot([row.epoch for row in later], [row.displacement for row in later], "o-", color="#0072b2", ms=3.5)
    right.set_title("RMS displacement since the previous epoch / spread", fontsize=11, loc="left")
    right.set_ylim(bottom=0.0)
    for axes in (left, right):
        _style_axes(axes)
    write_figure(path, figure, 140)


def _style_axes(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch (counted from 0)", fontsize=9, color="0.4")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=8, colors="0.4")
    axes.grid(alpha=0.25, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("0.7")
