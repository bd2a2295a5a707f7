"""Robust standard output and error: closed descriptors, full disks and encodings without Unicode."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any, TextIO


class _RecordingFile(io.FileIO):
    """File that stores the first write error, because callers such as argparse do not report it."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = self.failure or error
            raise


def prepare_streams() -> None:
    """Make standard output and error usable.

    Descriptors that were closed by the caller (``>&-``) are connected to the null device, so that no file of the
    command gets their number. Characters that the encoding does not contain are written as escapes.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream: TextIO | None = getattr(sys, name)
        if stream is None or (stream is getattr(sys, f"__{name}__") and not isinstance(_raw(stream), _RecordingFile)):
            setattr(sys, name, _open(number, None if stream is None else stream))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _open(number: int, old: TextIO | None) -> TextIO:
    """Return a stream that stores write errors, with the encoding and buffering of the old stream."""
    if old is not None:
        with contextlib.suppress(OSError):
            old.flush()
    buffer = io.BufferedWriter(_RecordingFile(number, "w", closefd=False))
    return io.TextIOWrapper(
        buffer,
        encoding="utf-8" if old is None else old.encoding,
        errors="backslashreplace",
        line_buffering=number == 2 or bool(old is not None and getattr(old, "line_buffering", False)),
    )


def output_failure() -> OSError | None:
    """Return the error of the first failed write to standard output, or None."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return error
    raw = _raw(sys.stdout)
    return raw.failure if isinstance(raw, _RecordingFile) else None


def _raw(stream: TextIO) -> object:
    return getattr(getattr(stream, "buffer", None), "raw", None)


def discard_output() -> None:
    """Discard the buffer of standard output, so that Python reports no error at exit."""
    _discard(sys.stdout)


def settle_errors() -> None:
    """Flush standard error, and discard its buffer if that fails."""
    try:
        sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)


def say_error(line: str) -> None:
    """Write a line to standard error; ignore a closed pipe."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)


def _discard(stream: TextIO) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
        stream.flush()
