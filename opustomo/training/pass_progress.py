"""Progress within an epoch: rate, time left and mean loss, as a bar on a terminal or as lines of the log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from opustomo.training.progress import TRAINING, Progress

SECONDS_BETWEEN_LINES = 20.0
FRACTION_BETWEEN_LINES = 0.02
"""Lines become rarer in long runs: the time between two is at least this fraction of the time since the start."""
SECONDS_BETWEEN_READINGS = 2.0
"""Reading the loss waits for the device, so that a bar does it rarely."""


def visits_left(progress: Progress, training: int, held_out: int, epochs: int) -> int:
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


class PassProgress:
    """Report the progress of one pass over the training or the held-out particles.

    Parameters
    ----------
    label
        Epoch and kind of the pass.
    total, done
        Particles of the pass, and those visited before the run was resumed.
    later
        Visits of the run after this pass.
    say
        Callback that receives lines for the log; None reports nothing.
    loss
        Function that returns the mean loss of the pass so far.
    started
        Time at which the run started, by `clock`.
    terminal
        Whether to draw a bar instead of lines; None if standard error is a terminal.
    clock
        Function that returns a time in seconds.
    """

    def __init__(
        self,
        label: str,
        total: int,
        done: int,
        later: int,
        say: Callable[[str], None] | None,
        loss: Callable[[], float],
        started: float,
        terminal: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label, self._total, self._first, self._later = label, total, done, later
        self._say, self._loss, self._clock, self._run_started = say, loss, clock, started
        self._done, self._started, self._told = done, clock(), -float("inf")
        self._bar: Any = None
        if say is not None and (sys.stderr.isatty() if terminal is None else terminal):
            self._bar = tqdm(
                total=total,
                initial=done,
                desc=label,
                unit=" particles",
                leave=False,
                file=sys.stderr,
                dynamic_ncols=True,
            )

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
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()

    def _rate(self, now: float) -> float:
        return (self._done - self._first) / max(now - self._started, 1e-9)

    def _left(self, now: float) -> str:
        rate = self._rate(now)
        if rate <= 0:
            return "unknown time"
        return duration((self._total - self._done + self._later) / rate)


def duration(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds, such as 1:02:03."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
