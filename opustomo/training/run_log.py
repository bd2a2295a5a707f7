"""Log of a run: run.log for people and scripts, and the progress within an epoch as a bar on a terminal."""

from __future__ import annotations

import fcntl
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from opustomo.errors import UserError
from opustomo.training.loop_state import TRAINING, LoopState
from opustomo.training.monitors.records import IntervalRecord

SECONDS_BETWEEN_LINES = 20.0
FRACTION_BETWEEN_LINES = 0.02
"""Lines become rarer in long runs: the time between two is at least this fraction of the time since the start."""
SECONDS_BETWEEN_READINGS = 2.0
"""Reading the loss waits for the device, so that a bar does it rarely."""


def visits_left(progress: LoopState, training: int, held_out: int, epochs: int) -> int:
    """Return the number of visits of a run after the current pass.

    Parameters
    ----------
    progress
        Position of the run.
    training, held_out
        Number of particles that train and that are held out.
    epochs
        Number of epochs of the run.
    """
    later = max(0, epochs - progress.epoch - 1) * (training + held_out)
    return later + (held_out if progress.kind == TRAINING else 0)


class RunProgress:
    """Report the progress of the passes of a run over its training and held-out particles.

    Parameters
    ----------
    say
        Callback that receives lines for the log; None reports nothing.
    loss
        Function that returns the mean loss of the pass so far.
    terminal
        Whether to draw a bar instead of lines; None if standard error is a terminal.
    clock
        Function that returns a time in seconds.
    """

    def __init__(
        self,
        say: Callable[[str], None] | None,
        loss: Callable[[], float],
        terminal: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say, self._loss, self._clock = say, loss, clock
        self._terminal = say is not None and (sys.stderr.isatty() if terminal is None else terminal)
        self._run_started = clock()
        self._visits = 0  # of this process, before the present pass
        self._bar: Any = None
        self._label, self._total, self._first, self._done, self._later = "", 0, 0, 0, 0
        self._started = self._told = -math.inf

    def begin(self, label: str, total: int, done: int, later: int) -> RunProgress:
        """Begin a pass and return this object, which `close` ends.

        Parameters
        ----------
        label
            Epoch and kind of the pass.
        total, done
            Particles of the pass, and those visited before the run was resumed.
        later
            Visits of the run after this pass.
        """
        self._label, self._total, self._first, self._done, self._later = label, total, done, done, later
        self._started, self._told = self._clock(), -math.inf
        if self._terminal:
            self._bar = tqdm(total=total, initial=done, desc=label, unit=" particles", leave=False, dynamic_ncols=True)
        return self

    def advance(self, count: int) -> None:
        """Count particles that have been visited."""
        self._done += count
        now = self._clock()
        if self._bar is not None:
            self._bar.update(count)
            if now - self._told >= SECONDS_BETWEEN_READINGS:
                self._told = now
                self._bar.set_postfix_str(f"loss {self._loss():.4g}, run {self._left(now)} left", refresh=False)
            return
        wait = max(SECONDS_BETWEEN_LINES, FRACTION_BETWEEN_LINES * (now - self._run_started))
        if self._say is not None and self._done < self._total and now - self._told >= wait:
            self._told = now
            self._say(
                f"# {self._label}: {self._done:,} of {self._total:,} particles, {self._rate(now):.3g} per second, "
                f"{self._left(now)} left for the run, generative loss so far {self._loss():.5g}"
            )

    def close(self) -> None:
        """End the pass and remove its bar."""
        self._visits += self._done - self._first
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _rate(self, now: float) -> float:
        """Return the visits per second of this pass."""
        return (self._done - self._first) / max(now - self._started, 1e-9)

    def _left(self, now: float) -> str:
        """Return the time left for the run, from the rate of all passes including the time to write epochs."""
        rate = self._rate(now)
        if self._visits:
            rate = (self._visits + self._done - self._first) / max(now - self._run_started, 1e-9)
        return duration((self._total - self._done + self._later) / rate) if rate > 0 else "unknown time"


def duration(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds, such as 1:02:03."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


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
        """Write a line with the time."""
        self.raw(f"{datetime.now():%Y-%m-%d %H:%M:%S}     {text}")

    def keep(self, text: str) -> None:
        """Write a line with the time to the file only, as it is shown elsewhere."""
        with suppress(OSError):
            self._file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}     {text}\n".encode())

    def raw(self, line: str) -> None:
        """Write a line unchanged."""
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


class SpeedMeter:
    """Training visits per second since the last reading."""

    def __init__(self, visits: int = 0) -> None:
        self._at, self._visits = time.monotonic(), visits

    def read(self, visits: int) -> float:
        """Return the visits per second since the last reading, and begin anew."""
        now, then, before = time.monotonic(), self._at, self._visits
        self._at, self._visits = now, visits
        return (visits - before) / max(now - then, 1e-9)


def term_line(record: IntervalRecord) -> str:
    """Return the line of the log for a record; terms that the run does not use are omitted."""
    used = {name: value for name, value in record.terms.items() if value != 0.0}
    terms = ", ".join(f"{name} {value:.5g}" for name, value in used.items())
    return f"# [epoch {record.epoch}, {record.particles_seen} particles] {terms}"
