"""Metrics of a run: ``metrics.csv`` per logging interval, ``epochs.csv`` per epoch, and scalars for TensorBoard."""

from __future__ import annotations

import csv
import errno
import importlib.util
import io
import math
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path

from opustomo.io.atomic import atomic_path
from opustomo.training.monitors.records import EpochRecord, IntervalRecord

Row = Mapping[str, str]


class CsvTable:
    """CSV table with a header line.

    Each line is written with one unbuffered system call, and a partial line is removed if the write fails. The file
    is opened for each line, so it may be moved or deleted during a run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._columns: list[str] | None = None

    def rows(self) -> list[dict[str, str]]:
        """Return all complete rows, without an incomplete last line; empty if the file is absent."""
        return self._read()[1]

    def keep(self, wanted: Callable[[Row], bool], change: Callable[[Row], Row] | None = None) -> None:
        """Keep the rows for which `wanted` is True, transformed by `change`, and remove an incomplete last line.

        Raises
        ------
        OSError
            If the file cannot be read or written, in which case it is unchanged.
        """
        if self.path.exists():
            columns, rows = self._read()
            kept: Iterable[Row] = filter(wanted, rows)
            self._rewrite(columns, kept if change is None else map(change, kept))

    def clear(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)
        self._columns = None

    def append(self, row: Row) -> None:
        """Append a row. New columns are added to the file, and values missing in `row` are empty.

        Raises
        ------
        OSError
            If the row cannot be written, in which case the file is unchanged.
        """
        if self._columns is None or not set(row) <= set(self._columns) or not self.path.exists():
            columns, rows = self._read()
            self._columns = list(row) + [name for name in columns if name not in row]
            if self.path.exists():
                self._rewrite(self._columns, rows)
            else:
                self._add_line(_line(self._columns))
        self._add_line(_line(row.get(name, "") for name in self._columns))

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return [], []
        complete = text[: text.rfind("\n") + 1]
        lines = [fields for fields in map(_fields, complete.split("\n")) if fields]
        if not lines:
            return [], []
        columns = lines[0]
        return columns, [dict(zip(columns, fields, strict=True)) for fields in lines[1:] if len(fields) == len(columns)]

    def _rewrite(self, columns: list[str], rows: Iterable[Row]) -> None:
        with atomic_path(self.path) as partial:
            lines = [_line(row.get(name, "") for name in columns) for row in rows]
            partial.write_text((_line(columns) if columns else "") + "".join(lines), encoding="utf-8")

    def _add_line(self, line: str) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        data = line.encode()
        # Without buffering, the line is written by one system call, or not at all if the process is killed.
        with open(self.path, "ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            try:
                if file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            except OSError:
                file.truncate(end)
                raise


def _fields(line: str) -> list[str]:
    """Return the values of a line, or an empty list if it is empty or invalid."""
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return []


def _line(fields: Iterable[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(fields)
    return text.getvalue()


EPOCHS_FILE = "epochs.csv"


class MetricsFile:
    """Training monitor that writes ``metrics.csv`` and, in the same folder, ``epochs.csv``.

    Epochs are counted from 0, as in file names. Unless :meth:`resume_from` is called, the first row replaces the files
    of an earlier run.

    Parameters
    ----------
    path
        Path of ``metrics.csv``.
    more
        Function that returns further columns of ``epochs.csv`` after each epoch.
    """

    def __init__(self, path: Path, more: Callable[[], Mapping[str, float]] = dict) -> None:
        self._more = more
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
                **{name: _text(value) if math.isfinite(value) else "" for name, value in self._more().items()},
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


def tensorboard_available() -> bool:
    """Return whether the package ``tensorboard`` is installed."""
    return importlib.util.find_spec("tensorboard") is not None


class TensorBoardMonitor:
    """Training monitor that writes TensorBoard event files.

    Loss terms of batches are written to ``training/TERM`` and the state of the run to ``run/…``, as functions of the
    number of particles processed. Means over epochs are written to ``training_epoch/TERM`` and ``validation/TERM``, as
    functions of the epoch, counted from 0 as in file names.

    Parameters
    ----------
    logdir
        Folder of the event files.
    resumed_at
        Number of particles processed before the run was resumed; later events of the interrupted run are hidden.

    Raises
    ------
    ImportError
        If TensorBoard is not installed.
    OSError
        If the folder cannot be written.
    """

    def __init__(self, logdir: Path, resumed_at: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = None if resumed_at is None else resumed_at + 1
        self._writer = SummaryWriter(str(logdir), purge_step=purge)

    def interval(self, record: IntervalRecord) -> None:
        """Write the terms of a batch and the state of the run."""
        self._write("training", record.terms, record.particles_seen)
        state = {
            "running_snr": record.running_snr,
            "lr": record.lr,
            "beta": record.beta,
            "visits_per_second": record.visits_per_second,
            "memory_gb": record.memory_gb,
        }
        self._write("run", state, record.particles_seen)

    def epoch(self, record: EpochRecord) -> None:
        """Write the means of an epoch."""
        self._write("training_epoch", record.training, record.epoch)
        if record.validation is not None:
            self._write("validation", record.validation, record.epoch)
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()

    def _write(self, group: str, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{group}/{name}", value, step)
