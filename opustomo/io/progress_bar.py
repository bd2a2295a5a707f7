"""Progress of a long command: a bar on a terminal, a few lines of text in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Protocol


class Advance(Protocol):
    """Function that is called with the number of items that have just been finished."""

    def __call__(self, count: int, /) -> object: ...


_SHOWN = ContextVar("shown", default=True)


@contextmanager
def hidden_progress() -> Iterator[None]:
    """Show no progress of loops inside this context, because a loop around it shows its own."""
    token = _SHOWN.set(False)
    try:
        yield
    finally:
        _SHOWN.reset(token)


@contextmanager
def progress(total: int, label: str) -> Iterator[Advance]:
    """Show the progress of a loop on stderr.

    Parameters
    ----------
    total
        Number of items.
    label
        Name of the items, such as "subtomograms".

    Yields
    ------
    Advance
        Function to call after each item or batch of items.
    """
    if not _SHOWN.get():
        yield lambda count, /: None
        return
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total, desc=label, unit="") as bar:
            yield bar.update
        return
    done = 0

    def advance(count: int, /) -> None:
        nonlocal done
        before, done = done, done + count
        # One line per quarter keeps the log of a batch job short.
        if 4 * done // total > 4 * before // total:
            with suppress(OSError):  # the work continues if stderr is closed
                print(f"{label}: {done} of {total}", file=sys.stderr, flush=True)

    yield advance
