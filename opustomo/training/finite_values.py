"""Values that are not finite: excluded from averages, reported, and the end of a run that cannot recover."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from opustomo.checkpoint.epoch_files import WEIGHTS_NAME
from opustomo.data.particles import max_broken
from opustomo.errors import UserError

if TYPE_CHECKING:
    from opustomo.training.training_step import Engine


def finite_rows(*parts: Tensor) -> Tensor:
    """Return 1 for each row (of B) in which all numbers of all parts are finite, else 0, as float (B,)."""
    rows = torch.cat([part.flatten(1) for part in parts], 1)
    return torch.isfinite(rows).all(1).to(rows.dtype)


def replace_rows(values: Tensor, usable: Tensor, substitute: Tensor | float = 0.0) -> Tensor:
    """Return ``values`` (B, …) with the ``substitute`` in the rows where ``usable`` (B,) is 0."""
    wanted = usable.view(-1, *(1 for _ in values.shape[1:])) > 0
    return torch.where(wanted, values, substitute)


def add_if_finite(total: Tensor, values: Tensor) -> Tensor:
    """Add ``values`` to ``total`` in place if all of them are finite; return whether they are, as a tensor."""
    finite = torch.isfinite(values).all()
    total += torch.where(finite, values, 0.0)
    return finite


def average_if_finite(running: Tensor, value: Tensor, decay: float) -> None:
    """Update a running average in place, unless the new value is not finite."""
    total = value.sum()
    running.lerp_(torch.where(total - total == 0.0, value, running), 1.0 - decay)  # NaN if a value is not finite


MOST_LOST = 100
"""Number of consecutive updates without finite gradients after which a run ends."""
MOST_LOST_AT_END = 20
LEAST_LOST_AT_END = 3
"""The same at the end of an epoch, before its checkpoint: half of the updates of a short epoch, but at least three."""
NAMED = 5
"""Largest number of particles that a message lists."""


class Recovery:
    """Record of what a run omitted because it is not finite, and decision whether the run can continue.

    Parameters
    ----------
    engine
        Engine with the counts; reading them waits for the device.
    say
        Callback that receives lines for the log.
    outdir
        Folder of the run.
    """

    def __init__(self, engine: Engine, say: Callable[[str], None], outdir: Path) -> None:
        self._engine, self._say, self._outdir = engine, say, outdir
        self._said = {"skipped": 0, "rejected": 0}

    def start(self) -> None:
        """Continue from the current counts, which were reported before the run was interrupted."""
        self._said = {name: int(getattr(self._engine, name)) for name in self._said}

    @property
    def is_steady(self) -> bool:
        """Whether the last update had finite gradients."""
        return int(self._engine.stalled) == 0

    def report(self) -> None:
        """Log how many updates and visits have been omitted since the last report."""
        sentences = {
            "skipped": "updates are left out, their gradients are not finite",
            "rejected": "visits leave latents and poses as they were, what was found for them is not finite",
        }
        for name, sentence in sentences.items():
            count = int(getattr(self._engine, name))
            if count > self._said[name]:
                self._say(f"# warning: {count - self._said[name]} {sentence} ({count} so far)")
            self._said[name] = count

    def require_updates(self, epoch: int, updates: int | None = None) -> None:
        """End a run whose updates are all omitted.

        Parameters
        ----------
        epoch
            Current epoch.
        updates
            Number of updates of the epoch, at its end; None before.

        Raises
        ------
        UserError
            If too many consecutive updates had no finite gradients.
        """
        lost = int(self._engine.stalled)
        most = MOST_LOST if updates is None else min(MOST_LOST_AT_END, max(LEAST_LOST_AT_END, updates // 2))
        if lost >= most:
            raise self._end(epoch, f"the gradients of the last {lost} updates are not finite")

    def finite_latents(self, epoch: int, latents: np.ndarray, remembered: np.ndarray) -> np.ndarray:
        """Replace latents (N, L) that are not finite by the running averages, and log a warning.

        Raises
        ------
        UserError
            If too many latents are not finite.
        """
        bad = np.flatnonzero(~np.isfinite(latents).all(1))
        if len(bad) > max_broken(len(latents)):
            raise self._end(epoch, f"the latents of {len(bad)} of {len(latents)} particles are not finite")
        if not len(bad):
            return latents
        names = ", ".join(str(index) for index in bad[:NAMED]) + (", …" if len(bad) > NAMED else "")
        self._say(
            f"# warning: the latents of {len(bad)} of {len(latents)} particles are not finite (counted from 0: "
            f"{names}); z.{epoch}.pkl contains their last finite values; inspect their subtomograms with dsd check"
        )
        latents = latents.copy()
        latents[bad] = remembered[bad]
        return latents

    def _end(self, epoch: int, reason: str) -> UserError:
        good = [int(m[1]) for path in self._outdir.iterdir() if (m := WEIGHTS_NAME.fullmatch(path.name))]
        last = max((number for number in good if number < epoch), default=None)
        advice = "No earlier epoch was saved. Start again with a lower --lr"
        if last is not None:
            weights = self._outdir / f"weights.{last}.pkl"
            advice = f"Continue from the last good epoch with --load {weights} and a lower --lr"
        return UserError(
            f"The training cannot recover in epoch {epoch}: {reason}. No file was overwritten. {advice}, and look for "
            "bad subtomograms with dsd check."
        )
