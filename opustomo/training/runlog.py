"""The run's log: run.log for people and scripts, a progress bar on a terminal."""

from __future__ import annotations

import fcntl
import logging
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from opustomo.errors import UserError


def epoch_line(epoch: int, kind: str, means: Mapping[str, float], seconds: float, now: datetime | None = None) -> str:
    """Return the line of an epoch in ``run.log``, in the format of OPUS-TOMO (docs/files.md).

    Parameters
    ----------
    epoch
        Number of the epoch, counted from 0.
    kind
        ``training`` or ``validation``.
    means
        Mean losses of the epoch under the keys of ``metrics.csv``, of which ``gen``, ``snr`` and ``total`` are written.
    seconds
        Duration of the epoch.
    now
        Time of the line; None takes the present time.
    """
    stamp = (now or datetime.now()).strftime("%Y-%m-%d %H:%M:%S")
    minutes, tenths = divmod(round(10 * seconds), 600)
    hours, minutes = divmod(minutes, 60)
    losses = f"gen_loss = {means['gen']:.6f}, SNR2 = {means['snr']:.6f}, total loss = {means['total']:.6f}"
    return (
        f"{stamp}     # =====> Epoch: {epoch + 1} Average {kind} {losses}; "
        f"Finished in {hours}:{minutes:02d}:{tenths / 10:04.1f}"
    )


class RunLog:
    """Appends lines to run.log and shows them; library messages go to the same places.

    Without a path (a process that does not lead the run) nothing is written or shown. A line that cannot be written (a
    full disk, a terminal that is gone) is lost, the run is not. An open log also claims its folder: two runs that write
    to one folder would spoil each other's files.

    Raises
    ------
    UserError
        Another run has the log open.
    """

    def __init__(self, path: Path | None) -> None:
        self._silent = path is None
        self._file = Path(path or os.devnull).open("ab", buffering=0)
        if path is not None:
            self._claim(path.parent)
        self._handler = _Lines(self.say)
        logging.getLogger("opustomo").addHandler(self._handler)

    def _claim(self, folder: Path) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise UserError(
                f"Another run is writing to {folder}. Wait until it has ended, or choose another folder with -o."
            ) from None
        except OSError:
            pass  # a file system without locks

    def say(self, text: str) -> None:
        """A line with the time."""
        self.raw(f"{datetime.now():%Y-%m-%d %H:%M:%S}     {text}")

    def keep(self, text: str) -> None:
        """Write a line with the time to the file only, as it is shown elsewhere."""
        with suppress(OSError):
            self._file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}     {text}\n".encode())

    def raw(self, line: str) -> None:
        """A line as it is."""
        with suppress(OSError):
            self._file.write((line + "\n").encode())
        if self._silent:
            return
        with suppress(OSError):
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Stop writing."""
        logging.getLogger("opustomo").removeHandler(self._handler)
        with suppress(OSError):
            self._file.close()


class _Lines(logging.Handler):
    """Hands messages on as lines."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(record.getMessage())
