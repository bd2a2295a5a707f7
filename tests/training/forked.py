"""Processes of `dsd` with very small networks, forked from a server that has imported everything to start quickly."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.training import tiny_run

PATIENCE = 600.0  # seconds, against waiting for ever; no measure of speed

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        "tests.training.tiny_run",
        "opustomo.commands.train_tomo",
        "opustomo.training.run_training",
        "opustomo.training.monitors.training_figure",
        "torch._dynamo",  # which DistributedDataParallel imports
        "starfile",
        "healpy",
    ]
)


class ForkedRun:
    """A run of ``dsd`` in a process of its own.

    Parameters
    ----------
    log
        File to which everything is appended that the process writes to its standard output and error.
    arguments
        Arguments of `dsd`.
    environment
        Variables that are set for the process.
    """

    def __init__(self, log: Path, arguments: list[str], environment: Mapping[str, str] | None = None) -> None:
        log.touch()
        self._log, self._begin = log, log.stat().st_size
        self.process = _SERVER.Process(target=_run, args=(str(log), arguments, dict(environment or {})))
        self.process.start()

    @property
    def said(self) -> str:
        """Return the output of the process so far."""
        return self._log.read_bytes()[self._begin :].decode()

    def finish(self) -> tuple[int | None, str]:
        """Wait for the end of the process, and return its exit code and what it has written."""
        self.process.join(PATIENCE)
        return self.process.exitcode, self.said


def _run(log: str, arguments: list[str], environment: dict[str, str]) -> None:
    target = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(target, stream)
    os.environ.update(environment)
    sys.exit(tiny_run.main(arguments))
