"""The training loop."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from opustomo.checkpoint.epoch import write_epoch
from opustomo.data.batches import viewing_batches
from opustomo.data.loader import load_batches
from opustomo.data.particles import ParticleSet
from opustomo.data.source import VoxelSource
from opustomo.geometry.viewing import viewing_groups
from opustomo.io.mrc import write_volume
from opustomo.model.autoencoder import Autoencoder, StepOutput, StepState
from opustomo.model.batch import Batch
from opustomo.model.loss import TERM_NAMES
from opustomo.model.randomness import StepRandom
from opustomo.physics.tilts import TiltBatch
from opustomo.training import schedules
from opustomo.training.config import RunConfig, TrainingConfig
from opustomo.training.memory import LatentMemory, PoseMemory
from opustomo.training.runlog import RunLog, epoch_line

SNR_START = 0.001
SNR_DECAY = 0.99
VALIDATION = 1_000_000
"""Offset of validation steps in the keys of the random draws (they only draw neighbours)."""


class Trainer:
    """Trains one model on one particle set.

    Parameters
    ----------
    model
        On the device of ``run``.
    particles, source, norm
        The set, its voxels, and the (shift, scale) that normalises them.
    training_index, validation_index
        Particles that train and particles that are held out.
    config, run, log
        Settings and the open log.
    """

    def __init__(
        self,
        model: Autoencoder,
        particles: ParticleSet,
        source: VoxelSource,
        norm: tuple[float, float],
        training_index: np.ndarray,
        validation_index: np.ndarray,
        config: TrainingConfig,
        run: RunConfig,
        log: RunLog,
    ) -> None:
        self.model, self.particles, self.source, self.norm = model, particles, source, norm
        self.training_index, self.validation_index = training_index, validation_index
        self.config, self.run, self.log = config, run, log
        self.device = torch.device(run.device)
        self.groups = viewing_groups(particles.poses.eulers_deg)
        self.tilts = TiltBatch.pad(particles.tables).to(self.device)
        self.table = torch.from_numpy(particles.table).to(self.device)
        self.latents = LatentMemory(self.groups, model.config.latent_dim, self.device, config.seed)
        self.poses = PoseMemory(particles.poses, particles.box, self.device)
        fused = self.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=fused
        )
        self.snr = torch.tensor(SNR_START, device=self.device)
        self.particles_seen = 0
        self.updates = 0

    def fit(self) -> None:
        """Train all epochs; checkpoints are written on the way."""
        for epoch in range(self.config.epochs):
            self._pass(epoch, "training", self.training_index)
            if len(self.validation_index):
                self._pass(epoch, "validation", self.validation_index)
            last = epoch + 1 == self.config.epochs
            if last or (epoch + 1) % self.run.checkpoint == 0:
                write_epoch(self.run.outdir, epoch, self.model, self.latents.values.cpu().numpy(), self.poses.poses())

    def _pass(self, epoch: int, kind: str, members: np.ndarray) -> None:
        """Visit all ``members`` once and log their means."""
        started = time.monotonic()
        training = kind == "training"
        self.model.train(training)
        sums = torch.zeros(len(TERM_NAMES), device=self.device)
        with torch.set_grad_enabled(training):
            for step, batch in enumerate(self._batches(epoch, kind, members)):
                output = self._step(epoch, step, batch, training)
                sums += output.terms.stacked() * len(batch)
        means = dict(zip(TERM_NAMES, (sums / len(members)).tolist(), strict=True))
        elapsed = time.monotonic() - started
        self.log.raw(epoch_line(epoch, kind, means["gen"], means["snr"], means["total"], elapsed))

    def _batches(self, epoch: int, kind: str, members: np.ndarray) -> Iterator[Batch]:
        rng = np.random.default_rng([self.config.seed, epoch, int(kind == "training")])
        batches = viewing_batches(members, self.groups, self.config.batch_size, rng)
        progress = tqdm(
            total=len(members),
            desc=f"epoch {epoch + 1} {kind}",
            unit="part",
            disable=not sys.stderr.isatty(),
            leave=False,
        )
        with progress:
            for indices, volumes in load_batches(self.source, batches, self.device, self.norm, self.run.workers):
                yield self._assemble(indices, volumes)
                progress.update(len(indices))

    def _assemble(self, indices: np.ndarray, volumes: Tensor) -> Batch:
        index = torch.from_numpy(indices).to(self.device)
        distinct, table = torch.unique(self.table[index], return_inverse=True)
        rotation, origin_px = self.poses.current(index)
        return Batch(index, volumes, self.tilts[distinct], table, rotation, origin_px)

    def _step(self, epoch: int, step: int, batch: Batch, training: bool) -> StepOutput:
        config = self.config
        key = (config.seed, epoch, step if training else VALIDATION + step)
        random = StepRandom(key, self.device, len(batch))
        state = StepState(
            bfactor_A2=schedules.bfactor_at(self.model.physics.bfactor_A2, epoch),
            beta=schedules.beta_at(config.beta, self.particles_seen),
            beta_control=config.beta_control,
            lamb=config.lamb,
            snr=self.snr,
            random=random if training else None,
        )
        neighbours = self.latents.neighbours(batch.index, random.generator)
        output = self.model(batch, neighbours, state)
        if training:
            (output.terms.total / config.accum_step).backward()
            if (step + 1) % config.accum_step == 0:
                self._update(epoch)
            self.particles_seen += len(batch)
            self.snr = SNR_DECAY * self.snr + (1.0 - SNR_DECAY) * output.terms.snr.detach()
            if (
                self.particles_seen // self.run.log_interval
                != (self.particles_seen - len(batch)) // self.run.log_interval
            ):
                self._report(epoch, output, batch)
        self.latents.update(batch.index, output.mu)
        if self.model.config.estimate_pose:
            self.poses.update(batch.index, output.turn, output.shift_px)
        return output

    def _update(self, epoch: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = schedules.learning_rate_at(self.config.lr, epoch, self.updates)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.updates += 1

    def _report(self, epoch: int, output: StepOutput, batch: Batch) -> None:
        terms = dict(zip(TERM_NAMES, output.terms.stacked().tolist(), strict=True))
        self.log.say(
            f"# [epoch {epoch + 1}, {self.particles_seen} particles] "
            + ", ".join(f"{name} {value:.5g}" for name, value in terms.items())
        )
        with torch.no_grad():
            template = self.model.decoder(output.mu[:1, : self.model.config.zdim])[0]
        boxes = self.model.boxes
        spacing = (boxes.crop - 1) * boxes.render_apix / (template.shape[-1] - 1)
        write_volume(self.run.outdir / f"{self.run.tmp_prefix}.mrc", template.cpu().numpy(), spacing)
