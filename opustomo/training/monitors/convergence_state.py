"""Statement on the convergence of a run: still improving, converged, or overfitting since an epoch.

Three numbers per epoch decide: the generative loss of held-out particles, the displacement of the latents since the
previous epoch relative to their spread, and the change of the volume at the mean latent (one minus its correlation with
that of the previous epoch).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from opustomo.io.saved_epochs import saved_epochs
from opustomo.training.monitors.metrics import EPOCHS_FILE, CsvTable, read_epoch_means
from opustomo.training.monitors.records import EpochRecord, IntervalRecord, compared_loss

FEWEST_EPOCHS = 4
WINDOW = 3
"""Number of newest epochs whose best held-out loss must beat that of all earlier epochs in a run that improves."""
SMALL_GAIN = 0.02
"""Fraction of the whole decrease of the loss below which a decrease does not count."""
RISE = 0.05
"""Fraction of the whole decrease by which the held-out loss must rise to indicate overfitting."""
NOISES = 2.0
CLEAR = 0.1
"""Largest fluctuation between epochs, as a fraction of the whole decrease, at which a run can be called converged."""
STABLE_LATENTS, STABLE_VOLUME = 0.25, 0.01
COLUMNS = ("latent_change", "volume_change")


@dataclass(frozen=True)
class EpochNumbers:
    """Numbers of one epoch, counted from 0; NaN where one is unknown.

    Attributes
    ----------
    training, held_out
        Mean generative loss of the particles that train and of those held out.
    latent_change
        Root mean square displacement of the compositions since the previous epoch, less that of their mean, divided
        by their spread or twice the width of their posteriors, whichever is larger.
    volume_change
        One minus the correlation of the volume at the mean latent with that of the previous epoch.
    """

    epoch: int
    training: float
    held_out: float
    latent_change: float = math.nan
    volume_change: float = math.nan


@dataclass(frozen=True)
class Statement:
    """State of a run.

    Attributes
    ----------
    state
        ``too early``, ``improving``, ``unclear``, ``converged`` or ``overfitting``.
    since
        First epoch of the state; None while the run improves.
    sentence
        State and reason.
    ranking
        Epochs of a run that overfits, in ascending order of their held-out losses; empty for other runs.
    """

    state: str
    since: int | None
    sentence: str
    ranking: tuple[int, ...] = ()

    @property
    def best(self) -> int | None:
        """Epoch of lowest held-out loss if the run overfits, else None."""
        return self.ranking[0] if self.ranking else None

    def epoch_to_use(self, folder: Path) -> int | None:
        """Return the epoch of lowest held-out loss whose files exist if the run in `folder` overfits, else None."""
        written = saved_epochs(folder, "weights")  # the last file of an epoch
        return next((epoch for epoch in self.ranking if epoch in written), None)

    def advice(self, folder: Path) -> str:
        """Return what to do about an overfitting run, whose best weights may not be in its folder; else nothing."""
        best, usable = self.best, self.epoch_to_use(folder)
        if best is None:
            return ""
        if usable == best:
            return f"; use epoch {best}"
        instead = "" if usable is None else f"use epoch {usable}, the best with weights, or "
        return f"; epoch {best} is the best, but its weights do not exist: {instead}train again with -n {best + 1}"


def convergence_statement(history: Sequence[EpochNumbers]) -> Statement:
    """Judge the epochs of a run in ascending order.

    The held-out loss decides (the training loss if no particle is held out):

    - *overfitting since k*: after its minimum before epoch k, the held-out loss has risen: its median in the newest
      three epochs lies above the lowest median of three successive epochs by more than 5 % of the whole decrease and by
      more than its noise. Since the minimum, such medians of the training loss have fallen from their highest value by
      more than those of the held-out loss, and the newest is lower than the first;
    - *improving*: the best loss of the newest three epochs lies below that of all earlier ones by more than 2 % of the
      whole decrease and more than the noise (unless it falls in every epoch), or latents or the volume still change;
    - *unclear*: the held-out loss has risen like that, but the training loss has not fallen more, or the loss
      fluctuates between epochs by more than 10 % of the whole decrease;
    - *converged since k*: otherwise; k is the first epoch after which loss, latents and volume are stable.
    """
    if len(history) < FEWEST_EPOCHS:
        return Statement(
            "too early", None, f"too early to judge convergence ({len(history)} of {FEWEST_EPOCHS} epochs)"
        )
    held_out = np.array([row.held_out for row in history])
    training = np.array([row.training for row in history])
    judged, name = (held_out, "held-out") if np.isfinite(held_out).sum() >= FEWEST_EPOCHS else (training, "training")
    if not np.isfinite(judged).all():
        return Statement("too early", None, f"convergence cannot be judged, because the {name} loss is not finite")
    noise = _noise(judged)
    best = int(judged.argmin())
    decrease = float(judged[: best + 1].max() - judged[best])
    after = judged[best + 1 :]
    if name == "held-out" and len(after) >= 2:
        levels = _levels(judged)
        rise = float(levels[-1] - levels.min())
        if rise > max(RISE * decrease, NOISES * noise) and np.isfinite(training).all():
            # A training loss is measured during its epoch, a held-out loss at its end: in between, consensus volume and
            # poses may have been found anew. Both losses fall again after that.
            fallen, falls_too = (float(kind.max() - kind[-1]) for kind in map(_levels, (training[best + 1 :], after)))
            levels = _levels(training[best + 1 :])
            lower = bool(levels[-1] < levels[0])  # not so if both losses have risen
            return _risen(history, best, rise, lower and fallen - falls_too > NOISES * _noise(training))
    small = max(SMALL_GAIN * decrease, NOISES * noise)
    gain = float(judged[:-WINDOW].min() - judged[-WINDOW:].min())
    # The noise of a curve that still bends is overestimated, so that a fall in every epoch counts without it.
    falls = bool((np.diff(judged[-WINDOW - 1 :]) < 0).all())
    if gain > small or (falls and gain > SMALL_GAIN * decrease):
        return Statement(
            "improving",
            None,
            f"still improving: the {name} loss fell by {gain:.3g} in the last {WINDOW} epochs",
        )
    known = [row for row in history if math.isfinite(row.latent_change)]  # unknown after a resumption
    moving = [text for text in _still_moving(known[-1] if known else history[-1]) if text]
    if moving:
        return Statement(
            "improving",
            None,
            f"still changing: the {name} loss does not fall any more, but {' and '.join(moving)}",
        )
    if NOISES * noise > CLEAR * decrease:
        return Statement(
            "unclear",
            None,
            f"convergence is unclear: the {name} loss fluctuates by {noise:.2g} between epochs, which hides its trend",
        )
    since = history[_stable_from(history, judged, small)].epoch
    stable = f"the {name} loss, the latents and the volume are stable" if known else f"the {name} loss is stable"
    return Statement("converged", since, f"converged since epoch {since}: {stable}")


def _risen(history: Sequence[EpochNumbers], best: int, rise: float, overfits: bool) -> Statement:
    """Return the statement on a held-out loss that has risen clearly above its minimum at an index of the history."""
    if overfits:
        since = history[best + 1].epoch
        return Statement(
            "overfitting",
            since,
            f"overfitting since epoch {since}: the held-out loss has risen by {rise:.3g} while the training loss falls",
            tuple(row.epoch for row in sorted(history, key=lambda row: row.held_out)),
        )
    return Statement(
        "unclear",
        None,
        f"convergence is unclear: since epoch {history[best].epoch} the held-out loss has risen by {rise:.3g}, but the "
        "training loss has not fallen, as after a search for poses or with too high a learning rate",
    )


def _levels(values: np.ndarray) -> np.ndarray:
    """Return medians of successive epochs, since the best and the worst of many epochs are chance."""
    return np.median(np.lib.stride_tricks.sliding_window_view(values, min(WINDOW, len(values))), 1)


def _noise(values: np.ndarray) -> float:
    """Return the standard deviation of fluctuations between epochs, from second differences."""
    second = np.abs(np.diff(values, 2))
    # The smooth part of a falling curve has small second differences; the newest epochs have the smallest.
    return float(1.4826 * np.median(second[-5:]) / math.sqrt(6.0)) if len(second) else 0.0


def _still_moving(row: EpochNumbers) -> tuple[str, str]:
    latents = volume = ""
    if row.latent_change > STABLE_LATENTS:
        latents = f"the latents moved by {100 * row.latent_change:.0f} % of their spread in the last epoch"
    if row.volume_change > STABLE_VOLUME:
        volume = f"the volume changed in the last epoch (correlation {1 - row.volume_change:.3f})"
    return latents, volume


def _stable_from(history: Sequence[EpochNumbers], judged: np.ndarray, small: float) -> int:
    """Return the first index after which the best loss hardly improves and nothing moves."""
    final, level = float(judged.min()), float(np.median(judged[-WINDOW:]))
    first = len(history) - 1
    for index in range(len(history) - 1, 0, -1):
        falls, risen = float(judged[: index + 1].min()) - final > small, level - judged[index] > 1.5 * small
        if falls or risen or any(_still_moving(history[index])):
            break
        first = index
    return first


class ConvergenceMonitor:
    """Training monitor that writes one line per epoch with the held-out loss, its change and the state of the run.

    Parameters
    ----------
    folder
        Folder of the run. Epochs before the run was resumed are read from its ``epochs.csv``.
    say
        Callback that receives messages for the log.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._folder, self._say = folder, say
        self._previous: tuple[Posteriors, np.ndarray, int | None] | None = None
        self._loss = ""  # the name of the loss, known with the history
        self.history: list[EpochNumbers] | None = None
        """Numbers of all epochs; None before the first epoch of this process."""
        self.statement = convergence_statement(())

    def interval(self, record: IntervalRecord) -> None:
        """Do nothing."""

    def epoch(self, record: EpochRecord) -> None:
        """Judge the run after an epoch and log the line."""
        if self.history is None:
            table = self._folder / EPOCHS_FILE
            self.history = [row for row in read_history(table) if row.epoch < record.epoch]
            self._loss = compared_loss(
                [*(training for training, _ in read_epoch_means(table).values()), record.training]
            )
        latents = _posteriors(record)
        volume = np.asarray(record.template, dtype=np.float64)
        latent_change = volume_change = math.nan
        first = self._previous is None
        # Means of the encoder are compared, as posterior means have next to no spread if there is nothing to divide.
        # They are known when an epoch is written; before, latents are those collected during training.
        if self._previous is not None:
            before, before_volume, before_written = self._previous
            if record.written is not None and record.written == before_written:
                latents = before
            elif (record.written is None) == (before_written is None):
                latent_change = _displacement(before, latents)
            volume_change = _dissimilarity(before_volume, volume)
        self._previous = latents, volume, record.written
        training, held_out = ((means or {}).get(self._loss, math.nan) for means in (record.training, record.validation))
        row = EpochNumbers(record.epoch, training, held_out, latent_change, volume_change)
        last = self.history[-1] if self.history else None
        self.history.append(row)
        self.statement = convergence_statement(self.history)
        counting = f" (in the lines of OPUS-TOMO above, Epoch: {row.epoch + 1})" if first else ""
        stated = self.statement.sentence + self.statement.advice(self._folder)
        self._say(f"# {epoch_summary(row, last)}; {stated}{counting}")

    def columns(self) -> Mapping[str, float]:
        """Return the numbers of the last epoch that ``epochs.csv`` holds beside the losses."""
        last = self.history[-1] if self.history else None
        return {name: math.nan if last is None else getattr(last, name) for name in COLUMNS}

    def proposed_epoch(self) -> int | None:
        """Return the epoch to use instead of the last one if the run overfits, else None."""
        return self.statement.epoch_to_use(self._folder)

    def why_unfinished(self) -> str:
        """Return what still changes in a run that should go on; empty otherwise."""
        return self.statement.sentence if self.statement.state in ("too early", "improving") else ""

    def close(self) -> None:
        """Do nothing."""


def epoch_summary(row: EpochNumbers, before: EpochNumbers | None) -> str:
    """Return the losses of an epoch and their change, without the state."""

    def with_change(value: float, earlier: float | None) -> str:
        change = math.nan if earlier is None else value - earlier
        return f"{value:.5g}" + (f" ({change:+.2g})" if math.isfinite(change) else "")

    parts = []
    if math.isfinite(row.held_out):
        parts.append(f"held-out loss {with_change(row.held_out, None if before is None else before.held_out)}")
    parts.append(f"training loss {with_change(row.training, None if before is None else before.training)}")
    if math.isfinite(row.latent_change):
        parts.append(f"latents moved by {100 * row.latent_change:.0f} % of their spread")
    if math.isfinite(row.volume_change):
        parts.append(f"volume correlation {1 - row.volume_change:.4f}")
    return f"epoch {row.epoch}: {', '.join(parts)}"


def read_history(path: Path) -> list[EpochNumbers]:
    """Read the numbers of all epochs from ``epochs.csv``; empty if the file is absent."""
    rows = {row.get("epoch", ""): row for row in CsvTable(path).rows()}
    history = []
    means = read_epoch_means(path)
    name = compared_loss(training for training, _ in means.values())
    for epoch, (training, validation) in sorted(means.items()):
        row = rows.get(str(epoch), {})
        changes = [_float(row.get(column, "")) for column in COLUMNS]
        losses = [(terms or {}).get(name, math.nan) for terms in (training, validation)]
        history.append(EpochNumbers(epoch, *losses, *changes))
    return history


def latest_epoch(folder: Path) -> int:
    """Return the epoch that ``latest`` denotes in the folder of a run with at least one saved epoch.

    It is the last saved epoch, or the one of lowest held-out loss if the run overfits and its files exist.
    """
    usable = convergence_statement(read_history(folder / EPOCHS_FILE)).epoch_to_use(folder)
    return saved_epochs(folder)[-1] if usable is None else usable


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


@dataclass(frozen=True)
class Posteriors:
    """Means of the compositions that have been visited, (n, zdim), and root mean square width of their posteriors."""

    means: np.ndarray
    width: float

    @property
    def spread(self) -> float:
        """Root mean square distance of the means from their mean, but at least twice the width of the posteriors."""
        return max(float(np.sqrt(((self.means - self.means.mean(0)) ** 2).sum(1).mean())), 2.0 * self.width)


def _posteriors(record: EpochRecord) -> Posteriors:
    seen = np.asarray(record.seen, dtype=bool)
    values = record.latents if record.encoded is None else record.encoded.means
    means = np.asarray(values, dtype=np.float64)[seen, : record.zdim]
    if record.encoded is None:
        return Posteriors(means, 0.0)
    variances = np.asarray(record.encoded.deviations, dtype=np.float64)[seen, : record.zdim] ** 2
    known = variances[np.isfinite(variances).all(1)]
    return Posteriors(means, float(np.sqrt(known.sum(1).mean())) if len(known) else 0.0)


def _displacement(before: Posteriors, after: Posteriors) -> float:
    """Return the root mean square displacement over the larger spread of both.

    A shift of all means alike is no movement, because decoder and clusters follow it. Means within the 95 % intervals
    of the posteriors do not separate particles; those of particles of one structure scatter anew in every epoch.
    """
    if before.means.shape != after.means.shape or not after.means.size:
        return math.nan
    moved = after.means - before.means
    spread = max(before.spread, after.spread)
    return float(np.sqrt(((moved - moved.mean(0)) ** 2).sum(1).mean())) / spread if spread > 0 else math.nan


def _dissimilarity(before: np.ndarray, after: np.ndarray) -> float:
    if before.shape != after.shape or not (before.std() > 0 and after.std() > 0):
        return math.nan
    return 1.0 - float(np.corrcoef(before.ravel(), after.ravel())[0, 1])
