"""What the trainer tells those who watch a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Projections:
    """z-projections of one particle, each (Dc, Dc): centred input, model with CTF, masked target."""

    observed: np.ndarray
    model: np.ndarray
    target: np.ndarray


@dataclass(frozen=True)
class IntervalRecord:
    """State of the run at a logging interval.

    ``terms`` are the loss terms of the batch just seen (``TERM_NAMES``), ``projections`` (with ``--plot``) show one of
    its particles.
    """

    epoch: int
    particles_seen: int
    terms: Mapping[str, float]
    lr: float
    beta: float
    running_snr: float
    visits_per_second: float
    memory_gb: float
    projections: Projections | None = None


@dataclass(frozen=True)
class Encoded:
    """Posteriors of all latents by the encoder of one epoch.

    ``means`` and ``deviations`` (standard deviations with which training samples) are (N, zdim + zaffinedim);
    deviations are NaN for particles that were not encoded.
    """

    means: np.ndarray
    deviations: np.ndarray


@dataclass(frozen=True)
class EpochRecord:
    """An epoch just finished.

    Attributes
    ----------
    epoch
        Counted from 0.
    training, validation
        Means of the loss terms over the particles; no validation: None.
    seconds
        Wall time of training and validation.
    latents
        (N, L) of which the first ``zdim`` columns are composition: as last written to z.N.pkl, or the running averages
        of the training while nothing is written.
    zdim
        How many of its columns are composition.
    seen
        (N,) particles visited at least once.
    template
        (T, T, T), the volume at the mean latent.
    encoded
        Posteriors at the end of the epoch; None when nothing was encoded then.
    written
        N of the z.N.pkl that holds the latents; None for running averages.
    """

    epoch: int
    training: Mapping[str, float]
    validation: Mapping[str, float] | None
    seconds: float
    latents: np.ndarray
    zdim: int
    seen: np.ndarray
    template: np.ndarray
    encoded: Encoded | None = None
    written: int | None = None


class WatcherFactory(Protocol):
    """Makes the watchers of a run once its folder is there."""

    def __call__(self, outdir: Path, say: Callable[[str], None], resumed_at: int | None) -> Sequence[Watcher]:
        """``resumed_at``: particles seen at the point from which the run goes on, None for a new run."""


class Watcher(Protocol):
    """Somebody who is told; must never stop a run (errors are logged by the trainer)."""

    def interval(self, record: IntervalRecord) -> None:
        """At every logging interval."""

    def epoch(self, record: EpochRecord) -> None:
        """After every epoch."""

    def close(self) -> None:
        """At the end of the run."""
