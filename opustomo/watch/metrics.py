"""Metrics files: ``metrics.csv`` with one row per logging interval, ``epochs.csv`` with one row per epoch."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from opustomo.training.records import EpochRecord, IntervalRecord
from opustomo.watch.csv_table import CsvTable, Row

EPOCHS_FILE = "epochs.csv"


class MetricsFile:
    """Training monitor that writes ``metrics.csv`` and, in the same folder, ``epochs.csv``.

    Epochs are counted from 0, as in file names. Unless :meth:`resume_from` is called, the first row replaces the files
    of an earlier run.

    Parameters
    ----------
    path
        Path of ``metrics.csv``.
    """

    def __init__(self, path: Path) -> None:
        self._intervals = CsvTable(path)
        self._epochs = CsvTable(path.with_name(EPOCHS_FILE))
        self._fresh = True

    def resume_from(self, particles_seen: int) -> None:
        """Remove rows that an interrupted run wrote after the state from which it is resumed.

        Rows with more than `particles_seen` particles, which will be written again, and incomplete lines are removed.
        The row at exactly `particles_seen` is kept because its update is part of the state. ``epochs.csv`` contains no
        number of particles; its rows of repeated epochs are removed when the first of these epochs ends.

        Raises
        ------
        OSError
            If a file cannot be read or written.
        """
        self._fresh = False
        earlier = self._epochs.rows()
        change = None
        if earlier and "weights" not in earlier[0]:  # versions without this column counted epochs from 1
            change = _counted_from_zero
        self._intervals.keep(lambda row: 0 <= _number(row, "particles") <= particles_seen, change)
        self._epochs.keep(lambda row: _number(row, "epoch") >= 0, change)

    def interval(self, record: IntervalRecord) -> None:
        """Append a row to ``metrics.csv``."""
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
        """Append a row to ``epochs.csv`` and remove rows of this and later epochs from an interrupted run."""
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
        """Do nothing; no file is kept open."""

    def _start(self) -> None:
        if self._fresh:
            self._intervals.clear()
            self._epochs.clear()
            self._fresh = False


def read_epoch_means(path: Path) -> dict[int, tuple[dict[str, float], dict[str, float] | None]]:
    """Read the mean loss terms per epoch from ``epochs.csv``.

    Returns
    -------
    dict
        Means of training and validation (None without validation) for each epoch, counted from 0; empty if the file
        is absent.

    Raises
    ------
    OSError
        If the file exists but cannot be read.
    """
    means: dict[int, tuple[dict[str, float], dict[str, float] | None]] = {}
    for row in CsvTable(path).rows():
        number = _number(row, "epoch")
        if number >= 0:
            training, validation = _means(row, "training_"), _means(row, "validation_")
            means[number] = training, validation or None
    return means


def _means(row: Row, prefix: str) -> dict[str, float]:
    means: dict[str, float] = {}
    for name, text in row.items():
        if name.startswith(prefix) and text:
            try:
                means[name.removeprefix(prefix)] = float(text)
            except ValueError:
                continue  # the file was edited
    return means


def _counted_from_zero(row: Row) -> Row:
    return {**row, "epoch": str(_number(row, "epoch") - 1)}


def _number(row: Mapping[str, str], column: str) -> int:
    """Return the integer in a column, or -1 if it is missing or invalid."""
    try:
        return int(row[column])
    except (KeyError, ValueError):
        return -1


def _text(value: float) -> str:
    return f"{value:.8g}"


def _now() -> str:
    return datetime.now().strftime("%Y-%m-%d %H:%M:%S")
