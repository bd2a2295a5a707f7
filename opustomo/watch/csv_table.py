"""CSV file that is appended line by line and can be resumed after an interruption."""

from __future__ import annotations

import csv
import errno
import io
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from opustomo.io.atomic import atomic_path

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
