"""Losses per epoch from ``run.log``."""

from __future__ import annotations

import re
from dataclasses import dataclass
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
    """Averages of training or validation over epochs, arrays (E,); epochs count from 0, as in the names of files."""

    epochs: np.ndarray
    gen_loss: np.ndarray
    snr: np.ndarray
    total_loss: np.ndarray

    def __len__(self) -> int:
        return len(self.epochs)


def read_training_log(path: Path) -> dict[str, LossCurve]:
    """Parse ``run.log``, which counts epochs from 1.

    A resumed run repeats epochs in one log; the last record of an epoch counts.

    Parameters
    ----------
    path
        The log. Lines of other kinds are ignored.

    Returns
    -------
    dict
        ``training`` and ``validation`` where the log has them; empty when no epoch has been completed.
    """
    found: dict[str, dict[int, tuple[float, float, float]]] = {}
    for line in Path(path).read_text(errors="replace").splitlines():
        match = _LINE.search(line)
        if match:
            part = (match[2] or "training").lower()
            found.setdefault(part, {})[int(match[1]) - 1] = (float(match[3]), float(match[4]), float(match[5]))
    curves = {}
    for part in ("training", "validation"):
        if part in found:
            epochs = sorted(found[part])
            table = np.array([found[part][epoch] for epoch in epochs])
            curves[part] = LossCurve(np.array(epochs), table[:, 0], table[:, 1], table[:, 2])
    return curves
