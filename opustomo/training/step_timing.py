"""Measurement of the time that a training step takes on this machine."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from opustomo.data.particles import ParticleSet
from opustomo.data.voxels import VoxelSource, pooled_std
from opustomo.model.autoencoder import Autoencoder
from opustomo.physics.boxes import mask_on_crop
from opustomo.quality.checks.inspection import PlannedRun
from opustomo.training.config import RunConfig, TrainingConfig
from opustomo.training.loop_state import TRAINING
from opustomo.training.processes import StopRequest
from opustomo.training.run_log import RunLog
from opustomo.training.trainer import Trainer

STEPS_CPU, STEPS_GPU = 1, 8
LARGEST_CPU_BATCH = 4
"""Particles of a measured step on a CPU, where the time grows with the number of particles."""


BUSY = 0.75
"""Load per core from which the machine is called busy."""


@dataclass(frozen=True)
class StepTime:
    """Measured time of a training step.

    Attributes
    ----------
    seconds_per_particle
        Seconds that one particle takes, reading included.
    particles
        Number of particles measured.
    device
        ``cpu`` or ``cuda``.
    load, cores
        Mean number of running processes in the minute before, and number of processor cores.
    """

    seconds_per_particle: float
    particles: int
    device: str
    load: float
    cores: int

    def basis(self) -> str:
        """Return in words what the time is based on."""
        counted = "one particle" if self.particles == 1 else f"{self.particles} particles"
        where = "GPU" if self.device == "cuda" else "CPU"
        text = f"The time is that of a step of {counted} on the {where}, measured at a load of {self.load:.1f} on "
        text += f"{self.cores} {'core' if self.cores == 1 else 'cores'}"
        if self.load > BUSY * self.cores:
            return f"{text}: other programs slowed it down, and an idle machine is faster."
        return f"{text}; other programs make it longer."


def measure_step(
    particles: ParticleSet, source: VoxelSource, planned: PlannedRun, config: TrainingConfig, device: str
) -> StepTime:
    """Measure the time that one particle takes in training, reading included.

    The steps are those of training with untrained networks; nothing is written into the output folder. The first pass,
    which also prepares memory and kernels, is not counted.

    Parameters
    ----------
    particles, source
        The particle set and its voxels.
    planned
        Boxes, mask and networks of the planned run.
    config
        Settings of the training, of which batch size, learning rate and seed are used.
    device
        Device of the training, ``cpu`` or ``cuda``.
    """
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    gpu = torch.device(device).type == "cuda"
    batch = config.batch_size if gpu else min(config.batch_size, LARGEST_CPU_BATCH)
    count = min(len(particles), batch * (STEPS_GPU if gpu else STEPS_CPU))
    config = TrainingConfig(epochs=1, batch_size=batch, lr=config.lr, seed=config.seed)
    members = np.linspace(0, len(particles) - 1, count).astype(int), np.zeros(0, dtype=int)
    torch.manual_seed(config.seed)
    network = Autoencoder(
        planned.model, planned.physics, planned.boxes, mask_on_crop(planned.mask, planned.boxes), amp=gpu
    )
    network = network.to(device)
    norm = 0.0, pooled_std(source, len(particles), count)
    with tempfile.TemporaryDirectory() as folder:
        run = RunConfig(Path(folder), device=device, amp=gpu, log_interval=10**9)
        log = RunLog(None)
        try:
            trainer = Trainer(network, particles, source, norm, members, config, run, log)
            for _ in range(2):
                trainer.progress.start_pass(TRAINING)
                started = time.monotonic()
                trainer.pass_over(StopRequest())
                seconds = time.monotonic() - started
            trainer.close()
        finally:
            log.close()
    return StepTime(seconds / count, count, torch.device(device).type, load, cores)
