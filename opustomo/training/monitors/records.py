"""Records that the trainer passes to its monitors, and the protocol of a monitor."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np


def compared_loss(epochs: Iterable[Mapping[str, float]]) -> str:
    """Return the name of the loss by which epochs with these mean loss terms can be compared.

    It is the negative log-likelihood if all of them have it. The generative loss has the scale of a noise spectrum that
    changes while the model improves, but it is all that OPUS-TOMO's algorithm and earlier versions provide.
    """
    return "nll" if all(math.isfinite(means.get("nll", math.nan)) for means in epochs) else "gen"


@dataclass(frozen=True)
class Projections:
    """Projections along z of one particle, (Dc, Dc) each: centered input, model with CTF, and masked target."""

    observed: np.ndarray
    model: np.ndarray
    target: np.ndarray


@dataclass(frozen=True)
class IntervalRecord:
    """State of a run at a logging interval.

    Attributes
    ----------
    epoch, particles_seen
        Current epoch, counted from 0, and number of training visits.
    terms
        Loss terms of the last batch by name (``opustomo.model.loss.TERM_NAMES``).
    lr, beta, running_snr
        Learning rate, weight β(t) of the KL divergence, and running signal-to-noise ratio.
    visits_per_second, memory_gb
        Training speed since the last record, and largest GPU memory in use.
    projections
        Projections of one particle of the last batch; only with ``--plot``.
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
    """Posteriors of all latents from the encoder at the end of an epoch.

    Attributes
    ----------
    means, deviations
        (N, zdim + zaffinedim) means, and standard deviations with which training samples; the deviations of particles
        that were not encoded are NaN.
    """

    means: np.ndarray
    deviations: np.ndarray


@dataclass(frozen=True)
class EpochRecord:
    """Results of an epoch.

    Attributes
    ----------
    epoch
        Number of the epoch, counted from 0.
    training, validation
        Means of the loss terms over the particles; None without held-out particles.
    seconds
        Wall time of training and validation.
    latents
        (N, L) latents as last written to z.N.pkl, or running averages if none has been written.
    zdim
        Number of their first columns that are the composition.
    seen
        (N,) whether a particle has been visited.
    template
        (T, T, T) density of the mean latent.
    encoded
        Posteriors at the end of the epoch; None if no particle was encoded.
    written
        N of the z.N.pkl that contains the latents; None for running averages.
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


class MonitorFactory(Protocol):
    """Function that creates the monitors of a run after its folder has been created."""

    def __call__(self, outdir: Path, say: Callable[[str], None], resumed_at: int | None) -> Sequence[Monitor]:
        """Return monitors; ``resumed_at`` is the number of visits before the run was resumed, None for a new run."""


class Monitor(Protocol):
    """Observer of a run. The trainer logs its errors and continues without it."""

    def interval(self, record: IntervalRecord) -> None:
        """Process the record of a logging interval."""

    def epoch(self, record: EpochRecord) -> None:
        """Process the record of an epoch."""

    def close(self) -> None:
        """Finish at the end of the run."""


@runtime_checkable
class RunJudge(Protocol):
    """Monitor that judges at the end of a run whether it was long enough."""

    def proposed_epoch(self) -> int | None:
        """Return the epoch to analyze instead of the last one, or None."""

    def why_unfinished(self) -> str:
        """Return why the training should go on; empty if it need not."""
