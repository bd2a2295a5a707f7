"""Settings of the optimization, and of the files of a run."""

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
        Learning rate, which is multiplied by 0.98 after each epoch, and weight decay of AdamW.
    beta
        Schedule name (``cos``, ``a`` … ``d``) or a constant.
    beta_control, lamb
        Weights of the KL divergence and of the disentanglement prior.
    separate
        With bodies, write compositions without what they share with conformations
        (:mod:`opustomo.model.separation`).
    valfrac, split
        Fraction of held-out particles; file that lists them, written if it does not exist.
    seed
        Seed of all random draws.
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
    """Device and files of a run.

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
        Number of newest epochs whose weights are kept; None keeps all.
    log_interval
        Particles between progress lines.
    workers
        Number of prefetching threads.
    tmp_prefix
        Name, without .mrc, of the template that is written at every log interval.
    plot
        Whether to plot one particle at every log interval.
    write_ctf
        Whether to write the 3D CTF of the first particle.
    load, latents
        ``latest`` or a weights.N.pkl to resume from, and latents that belong to it.
    overwrite
        Whether to start a new run in the folder of another.
    command
        Command line, stored in config.pkl.
    notes
        Notes for the start of the log.
    options
        All options as plain values, stored in config.pkl for resumed runs.
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
