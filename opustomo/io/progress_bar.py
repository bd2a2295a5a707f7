"""Progress of a long command: a bar on a terminal, a few plain lines in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol


class Advance(Protocol):
    """Call with the number of items just finished."""

    def __call__(self, count: int, /) -> object: ...


@contextmanager
def progress(total: int, label: str) -> Iterator[Advance]:
    """Show how far a loop has come, on stderr.

    Parameters
    ----------
    total
        Number of items.
    label
        What they are, e.g. "subtomograms".
    """
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total, desc=label, unit="") as bar:
            yield bar.update
        return
    done = 0

    def advance(count: int, /) -> None:
        nonlocal done
        before, done = done, done + count
        # a line per quarter keeps a batch log short
        if 4 * done // total > 4 * before // total:
            with suppress(OSError):  # work goes on without a reader
                print(f"{label}: {done} of {total}", file=sys.stderr, flush=True)

    yield advance
