"""``metrics.csv``, a row per logging interval, and ``epochs.csv``, a row per epoch."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from opustomo.training.records import EpochRecord, IntervalRecord
from opustomo.watch.csv_table import CsvTable, Row

EPOCHS_FILE = "epochs.csv"


class MetricsFile:
    """Watcher that writes ``metrics.csv`` and, beside it, ``epochs.csv``.

    Epochs count from 0, as in the names of files. Files of an earlier run are replaced by the first row, unless
    :meth:`resume_from` was called.

    Parameters
    ----------
    path
        The file of the intervals.
    """

    def __init__(self, path: Path) -> None:
        self._intervals = CsvTable(path)
        self._epochs = CsvTable(path.with_name(EPOCHS_FILE))
        self._fresh = True

    def resume_from(self, particles_seen: int) -> None:
        """Keep what an interrupted run wrote up to the state that is taken up.

        Rows beyond ``particles_seen`` (they will come again) and incomplete lines are dropped. The row at
        ``particles_seen`` itself stays: the step that it reports is part of the state. ``epochs.csv`` holds no count
        of particles; rows of epochs done again go when the first of these ends.

        Raises
        ------
        OSError
            A file cannot be read or written.
        """
        self._fresh = False
        earlier = self._epochs.rows()
        change = None
        if earlier and "weights" not in earlier[0]:  # versions without that column counted epochs from 1
            change = _counted_from_zero
        self._intervals.keep(lambda row: 0 <= _number(row, "particles") <= particles_seen, change)
        self._epochs.keep(lambda row: _number(row, "epoch") >= 0, change)

    def interval(self, record: IntervalRecord) -> None:
        """Write a row of ``metrics.csv``."""
        self._start()
        self._intervals.append(
            {
                "date": _now(),
                "epoch": str(record.epoch),
                "particles": str(record.particles_seen),
                **{name: _text(value) for name, value in record.terms.items()},
                "running_snr": _text(record.running_snr),
                "lr": _text(record.lr),
                "beta": _text(record.beta),
                "visits_per_second": _text(record.visits_per_second),
                "memory_gb": _text(record.memory_gb),
            }
        )

    def epoch(self, record: EpochRecord) -> None:
        """Write a row of ``epochs.csv``; rows of this epoch and later ones are from before a resumption and go."""
        self._start()
        if any(_number(row, "epoch") >= record.epoch for row in self._epochs.rows()):
            self._epochs.keep(lambda row: 0 <= _number(row, "epoch") < record.epoch)
        validation = record.validation or {}
        self._epochs.append(
            {
                "date": _now(),
                "epoch": str(record.epoch),
                "weights": f"weights.{record.epoch}.pkl" if record.written == record.epoch else "",
                "seconds": f"{record.seconds:.1f}",
                **{f"training_{name}": _text(value) for name, value in record.training.items()},
                **{
                    f"validation_{name}": _text(validation[name]) if name in validation else ""
                    for name in record.training
                },
            }
        )

    def close(self) -> None:
        """Nothing is held open."""

    def _start(self) -> None:
        if self._fresh:
            self._intervals.clear()
            self._epochs.clear()
            self._fresh = False


def read_epoch_means(path: Path) -> dict[int, tuple[dict[str, float], dict[str, float] | None]]:
    """Means of the loss terms per epoch, from ``epochs.csv``.

    Returns
    -------
    dict
        Epoch, counted from 0, to the means of training and of validation (None without); empty without a file.

    Raises
    ------
    OSError
        The file is there but cannot be read.
    """
    found: dict[int, tuple[dict[str, float], dict[str, float] | None]] = {}
    for row in CsvTable(path).rows():
        number = _number(row, "epoch")
        if number >= 0:
            training, validation = _means(row, "training_"), _means(row, "validation_")
            found[number] = training, validation or None
    return found


def _means(row: Row, prefix: str) -> dict[str, float]:
    means: dict[str, float] = {}
    for name, text in row.items():
        if name.startswith(prefix) and text:
            try:
                means[name.removeprefix(prefix)] = float(text)
            except ValueError:
                continue  # a hand has been at the file
    return means


def _counted_from_zero(row: Row) -> Row:
    return {**row, "epoch": str(_number(row, "epoch") - 1)}


def _number(row: Mapping[str, str], column: str) -> int:
    """Whole number in a column, -1 where there is none."""
    try:
        return int(row[column])
    except (KeyError, ValueError):
        return -1


def _text(value: float) -> str:
    return f"{value:.8g}"


def _now() -> str:
    return datetime.now().strftime("%Y-%m-%d %H:%M:%S")
