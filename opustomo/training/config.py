"""How a run is trained and where it writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TrainingConfig:
    """Optimization (docs/method.md, section 4).

    Attributes
    ----------
    epochs, batch_size, accum_step
        Epochs to reach, particles per batch, batches summed per update.
    lr, weight_decay
        AdamW; the learning rate takes ``LR_DECAY`` after each epoch.
    beta
        Schedule name (``cos``, ``a`` … ``d``) or a constant.
    beta_control, lamb
        Weights of KL and of the disentanglement prior.
    separate
        With bodies, write compositions without what they share with conformations
        (:mod:`opustomo.training.fit_separation`).
    valfrac, split
        Fraction of the particles held out; file that keeps which ones, written where it does not exist.
    seed
        All random draws derive from it.
    """

    epochs: int = 20
    batch_size: int = 20
    accum_step: int = 1
    lr: float = 4e-5
    weight_decay: float = 0.0
    beta: str = "cos"
    beta_control: float = 0.5
    lamb: float = 0.0
    separate: bool = True
    valfrac: float = 0.2
    split: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class RunConfig:
    """Where a run works and writes.

    Attributes
    ----------
    outdir
        Folder of the results (``-o``).
    device
        ``cpu`` or ``cuda``.
    amp
        Networks in bfloat16.
    checkpoint
        Epochs between checkpoints; the last epoch is always kept.
    keep
        Newest epochs whose weights stay; None keeps all.
    log_interval
        Particles between progress lines.
    workers
        Threads that read subtomograms ahead.
    tmp_prefix
        Name (without .mrc) of the current template, written at every log interval.
    plot
        Show one particle at every log interval.
    write_ctf
        Write the 3D CTF of the first particle.
    load, latents
        ``latest`` or a weights.N.pkl to go on from, and latents to go with it.
    overwrite
        Start anew in a folder that holds a run.
    command
        The command line, kept in config.pkl.
    notes
        What to say at the start of the log.
    options
        All options as plain values, kept in config.pkl for a run that goes on.
    """

    outdir: Path
    device: str = "cpu"
    amp: bool = False
    checkpoint: int = 1
    keep: int | None = None
    log_interval: int = 1000
    workers: int = 2
    tmp_prefix: str = "tmp"
    plot: bool = False
    write_ctf: bool = False
    load: str | None = None
    latents: Path | None = None
    overwrite: bool = False
    command: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
