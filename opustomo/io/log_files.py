"""Logs of a result directory: the losses in ``run.log``, and the commands that were run on it in ``commands.log``."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

_NUMBER = r"([-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|nan|inf))"
_LINE = re.compile(
    rf"Epoch:\s*(\d+)\s+Average\s+(?:(training|validation)\s+)?gen_loss\s*=\s*{_NUMBER}"
    rf",\s*SNR2\s*=\s*{_NUMBER},\s*total loss\s*=\s*{_NUMBER}",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class LossCurve:
    """Average training or validation losses per epoch, arrays (E,); epochs are counted from 0, as in file names."""

    epochs: np.ndarray
    gen_loss: np.ndarray
    snr: np.ndarray
    total_loss: np.ndarray

    def __len__(self) -> int:
        return len(self.epochs)


def read_training_log(path: Path) -> dict[str, LossCurve]:
    """Read the loss curves of ``run.log``, which counts epochs from 1.

    The log of a resumed run may contain an epoch more than once; the last record is used.

    Parameters
    ----------
    path
        Log file. Lines without losses are ignored.

    Returns
    -------
    dict
        Curves ``training`` and ``validation``, if present in the log; empty if no epoch has been completed.
    """
    records: dict[str, dict[int, tuple[float, float, float]]] = {}
    for line in Path(path).read_text(errors="replace").splitlines():
        match = _LINE.search(line)
        if match:
            part = (match[2] or "training").lower()
            records.setdefault(part, {})[int(match[1]) - 1] = (float(match[3]), float(match[4]), float(match[5]))
    curves = {}
    for part in ("training", "validation"):
        if part in records:
            epochs = sorted(records[part])
            table = np.array([records[part][epoch] for epoch in epochs])
            curves[part] = LossCurve(np.array(epochs), table[:, 0], table[:, 1], table[:, 2])
    return curves


COMMAND_LOG = "commands.log"


def record_command(folder: Path, words: Sequence[str]) -> None:
    """Append a command line with the time and the working folder to the log of a result directory."""
    command = shlex.join(words).replace("\n", " ")
    with (folder / COMMAND_LOG).open("a", encoding="utf-8") as file:
        file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}\t{Path.cwd()}\t{command}\n")


def read_commands(folder: Path) -> list[tuple[str, str]]:
    """Return the time and the command line of each command in the log, oldest first; empty without log."""
    path = folder / COMMAND_LOG
    if not path.is_file():
        return []
    parts = [line.split("\t", 2) for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    return [(entry[0], entry[2]) for entry in parts if len(entry) == 3]
