"""The training loop."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from opustomo.checkpoint.epoch import write_epoch
from opustomo.checkpoint.state import require_space, write_state
from opustomo.data.batches import viewing_batches
from opustomo.data.loader import load_batches
from opustomo.data.particles import ParticleSet
from opustomo.data.source import VoxelSource
from opustomo.errors import UserError
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
from opustomo.training.progress import TRAINING, VALIDATION, Progress
from opustomo.training.records import EpochRecord, IntervalRecord, Projections, Watcher
from opustomo.training.runlog import RunLog, epoch_line
from opustomo.training.stop import StopRequest

SNR_START = 0.001
SNR_DECAY = 0.99
AUTOSAVE_SECONDS = 600.0
TOLERATED_BROKEN = 0.01
GRADIENT_LIMIT = 3.0
"""A gradient longer than this many times the running mean of their lengths is shortened (not in the original)."""
VALIDATION_KEY = 1_000_000
"""Offset of validation steps in the keys of the random draws (they only draw neighbours)."""


class Trainer:
    """Trains one model on one particle set.

    Parameters
    ----------
    model
        On the device of ``run``.
    particles, source, norm
        The set, its voxels, and the (shift, scale) that normalises them.
    members
        Indices of the particles that train and of those held out.
    config, run, log
        Settings and the open log.
    watchers
        Told of the run's course.
    """

    def __init__(
        self,
        model: Autoencoder,
        particles: ParticleSet,
        source: VoxelSource,
        norm: tuple[float, float],
        members: tuple[np.ndarray, np.ndarray],
        config: TrainingConfig,
        run: RunConfig,
        log: RunLog,
        watchers: Sequence[Watcher] = (),
    ) -> None:
        self.model, self.particles, self.source, self.norm = model, particles, source, norm
        self.members = dict(zip((TRAINING, VALIDATION), members, strict=True))
        self.config, self.run, self.log, self.watchers = config, run, log, list(watchers)
        self.device = torch.device(run.device)
        self.groups = viewing_groups(particles.poses.eulers_deg)
        self.tilts = TiltBatch.pad(particles.tables).to(self.device)
        self.table = torch.from_numpy(particles.table).to(self.device)
        self.latents = LatentMemory(self.groups, model.config.latent_dim, self.device, config.seed)
        if model.config.encode_mode == "fixed":
            self.latents.values.copy_(model.fixed_latent.expand_as(self.latents.values))
        self.poses = PoseMemory(particles.poses, particles.box, self.device)
        fused = self.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=fused
        )
        self.snr = torch.tensor(SNR_START, device=self.device)
        self.progress = Progress()
        self._saved_at = time.monotonic()
        self._reported = (time.monotonic(), 0)

    # The course of a run

    def fit(self, stop: StopRequest | None = None) -> bool:
        """Train the epochs that are left; True when all are done, False when stopped on request (state saved)."""
        stop = StopRequest() if stop is None else stop
        while self.progress.epoch < self.config.epochs:
            for kind in (TRAINING, VALIDATION):
                if kind == TRAINING and self.progress.kind == VALIDATION:
                    continue  # resumed in the middle of a validation
                if self.progress.kind != kind:
                    self.progress.start_pass(kind)
                if not self._pass(stop):
                    self.save_state()
                    return False
            self._finish_epoch()
        return True

    def state(self) -> dict[str, Any]:
        """Everything that changes in training, for :func:`opustomo.checkpoint.state.write_state`."""
        return {
            "progress": self.progress.as_dict(),
            "config": {k: str(v) for k, v in asdict(self.config).items()},
            "particles": len(self.particles),
            "norm": list(self.norm),
            "model": self.model.state_dict(),
            "fixed_latent": self.model.fixed_latent,
            "optimizer": self.optimizer.state_dict(),
            "snr": self.snr,
            "latents": self.latents.values,
            "pose_turn": self.poses.turn,
            "pose_shift_px": self.poses.shift_px,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a state that :meth:`state` gave."""
        self.model.load_state_dict(state["model"])
        self.model.fixed_latent.copy_(state["fixed_latent"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.snr = state["snr"].to(self.device)
        self.latents.values.copy_(state["latents"])
        self.poses.turn.copy_(state["pose_turn"])
        self.poses.shift_px.copy_(state["pose_shift_px"])
        self.progress = Progress.from_dict(state["progress"])
        self._reported = (time.monotonic(), self.progress.particles_seen)

    def save_state(self) -> None:
        """Replace the run's state.pkl (weights and both moments of the optimiser)."""
        require_space(self.run.outdir, 12 * self._parameter_count())
        write_state(self.run.outdir, self.state())
        self._saved_at = time.monotonic()

    def _finish_epoch(self) -> None:
        progress = self.progress
        epoch, seconds = progress.epoch, progress.seconds
        validation = self._means() if len(self.members[VALIDATION]) else None
        training, progress.training_means = progress.training_means, {}
        progress.epoch += 1
        progress.start_pass(TRAINING)
        if progress.epoch == self.config.epochs or progress.epoch % self.run.checkpoint == 0:
            require_space(self.run.outdir, 16 * self._parameter_count())
            write_epoch(self.run.outdir, epoch, self.model, self._latents(), self.poses.poses())
            self.save_state()
        if self.watchers:
            self._tell("epoch", self._epoch_record(epoch, training, validation, seconds))

    # One pass over the training or the validation particles

    def _pass(self, stop: StopRequest) -> bool:
        """Visit what is left of the pass; False when stopped on request before its end."""
        progress = self.progress
        training = progress.kind == TRAINING
        started = time.monotonic() - progress.seconds
        self.model.train(training)
        sums = torch.tensor(progress.sums or [0.0] * len(TERM_NAMES), device=self.device)
        batches = self._batches()
        with torch.set_grad_enabled(training):
            for batch in batches:
                if len(batch):
                    output = self._step(batch)
                    sums += output.terms.stacked() * len(batch)
                    progress.counted += len(batch)
                progress.step += 1
                progress.seconds = time.monotonic() - started
                due = time.monotonic() - self._saved_at > AUTOSAVE_SECONDS
                if (stop or due) and progress.step % self.config.accum_step == 0:
                    progress.sums = sums.tolist()
                    if stop:
                        batches.close()
                        return False
                    self.save_state()
        if training and progress.step % self.config.accum_step:
            self._update()
        progress.sums = sums.tolist()
        means = self._means()
        if training:
            progress.training_means = means
        if progress.counted:
            self.log.raw(
                epoch_line(progress.epoch, progress.kind, means["gen"], means["snr"], means["total"], progress.seconds)
            )
        return True

    def _means(self) -> dict[str, float]:
        count = max(1, self.progress.counted)
        return {name: value / count for name, value in zip(TERM_NAMES, self.progress.sums, strict=True)}

    def _batches(self) -> Generator[Batch]:
        progress = self.progress
        members = self.members[progress.kind]
        rng = np.random.default_rng([self.config.seed, progress.epoch, int(progress.kind == TRAINING)])
        batches = viewing_batches(members, self.groups, self.config.batch_size, rng)[progress.step :]
        bar = tqdm(
            total=len(members),
            initial=len(members) - sum(len(batch) for batch in batches),
            desc=f"epoch {progress.epoch + 1} {progress.kind}",
            unit=" particles",
            disable=not sys.stderr.isatty(),
            leave=False,
        )
        with bar:
            for indices, volumes in load_batches(
                self.source, batches, self.device, self.norm, self.run.workers, self._leave_out
            ):
                yield self._assemble(indices, volumes)
                bar.update(len(indices))

    def _leave_out(self, index: int, reason: str) -> None:
        """Note a subtomogram that cannot be used; more than 1 % of them (and more than one) stops the run."""
        broken = self.progress.broken
        if index in broken:
            return
        broken[index] = reason
        self.log.say(f"# warning: particle {index + 1} is left out: {reason} ({len(broken)} left out so far)")
        if len(broken) > max(1.0, TOLERATED_BROKEN * len(self.particles)):
            raise UserError(
                f"{len(broken)} of {len(self.particles)} subtomograms cannot be used, the last because {reason}; "
                "repair them or take them out of the STAR file"
            )

    def _assemble(self, indices: np.ndarray, volumes: Tensor) -> Batch:
        index = torch.from_numpy(indices).to(self.device)
        distinct, table = torch.unique(self.table[index], return_inverse=True)
        rotation, origin_px = self.poses.current(index)
        return Batch(index, volumes, self.tilts[distinct], table, rotation, origin_px)

    # One step

    def _step(self, batch: Batch) -> StepOutput:
        config, progress = self.config, self.progress
        training = progress.kind == TRAINING
        random = StepRandom(
            (config.seed, progress.epoch, progress.step + (0 if training else VALIDATION_KEY)), self.device, len(batch)
        )
        state = StepState(
            bfactor_A2=schedules.bfactor_at(self.model.physics.bfactor_A2, progress.epoch),
            beta=schedules.beta_at(config.beta, progress.particles_seen),
            beta_control=config.beta_control,
            lamb=config.lamb,
            snr=self.snr,
            random=random if training else None,
        )
        output: StepOutput = self.model(batch, self.latents.neighbours(batch.index, random.generator), state)
        if training:
            (output.terms.total / config.accum_step).backward()
            if (progress.step + 1) % config.accum_step == 0:
                self._update()
            self.snr = SNR_DECAY * self.snr + (1.0 - SNR_DECAY) * output.terms.snr.detach()
            before = progress.particles_seen // self.run.log_interval
            progress.particles_seen += len(batch)
            if progress.particles_seen // self.run.log_interval != before:
                self._report(batch, output, state)
        self.latents.update(batch.index, output.mu)
        if self.model.config.estimate_pose:
            self.poses.update(batch.index, output.turn, output.shift_px)
        return output

    def _update(self) -> None:
        progress = self.progress
        for group in self.optimizer.param_groups:
            group["lr"] = schedules.learning_rate_at(self.config.lr, progress.epoch, progress.updates)
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        limit = GRADIENT_LIMIT * progress.gradient_norm if progress.gradient_norm else math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, limit))
        if math.isfinite(norm):
            usual = min(norm, limit)
            progress.gradient_norm = usual + (
                0.99 * (progress.gradient_norm - usual) if progress.gradient_norm else 0.0
            )
            self.optimizer.step()
        else:
            progress.skipped += 1
            self.log.say(f"# warning: an update is left out, its gradient is not finite ({progress.skipped} so far)")
        self.optimizer.zero_grad(set_to_none=True)
        progress.updates += 1

    # What others see of it

    def _report(self, batch: Batch, output: StepOutput, state: StepState) -> None:
        progress = self.progress
        terms = dict(zip(TERM_NAMES, output.terms.stacked().tolist(), strict=True))
        self.log.say(
            f"# [epoch {progress.epoch + 1}, {progress.particles_seen} particles] "
            + ", ".join(f"{name} {value:.5g}" for name, value in terms.items())
        )
        now, (then, seen) = time.monotonic(), self._reported
        self._reported = (now, progress.particles_seen)
        cuda = self.device.type == "cuda"
        record = IntervalRecord(
            epoch=progress.epoch,
            particles_seen=progress.particles_seen,
            terms=terms,
            lr=self.optimizer.param_groups[0]["lr"],
            beta=state.beta,
            running_snr=float(self.snr),
            visits_per_second=(progress.particles_seen - seen) / max(now - then, 1e-9),
            memory_gb=torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0,
            projections=self._projections(batch, state) if self.run.plot else None,
        )
        self._tell("interval", record)
        template = self._template(output.mu[:1])
        boxes = self.model.boxes
        spacing = (boxes.crop - 1) * boxes.render_apix / (len(template) - 1)
        write_volume(self.run.outdir / f"{self.run.tmp_prefix}.mrc", template, spacing)

    def _projections(self, batch: Batch, state: StepState) -> Projections:
        one = Batch(
            batch.index[:1], batch.volumes[:1], batch.tilts, batch.table[:1], batch.rotation[:1], batch.origin_px[:1]
        )
        along_z = [volume[0].sum(0).cpu().numpy() for volume in self.model.pictures(one, replace(state, random=None))]
        return Projections(*along_z)

    def _epoch_record(
        self, epoch: int, training: dict[str, float], validation: dict[str, float] | None, seconds: float
    ) -> EpochRecord:
        seen = np.zeros(len(self.particles), dtype=bool)
        seen[np.concatenate(list(self.members.values()))] = True
        seen[list(self.progress.broken)] = False
        latents = self._latents()
        return EpochRecord(
            epoch=epoch,
            training=training,
            validation=validation,
            seconds=seconds,
            latents=latents,
            zdim=self.model.config.zdim,
            seen=seen,
            template=self._template(torch.from_numpy(latents[seen].mean(0, keepdims=True)).to(self.device)),
        )

    def _tell(self, what: str, record: IntervalRecord | EpochRecord) -> None:
        for watcher in list(self.watchers):
            try:
                getattr(watcher, what)(record)
            except OSError as error:
                self.watchers.remove(watcher)
                self.log.say(f"# warning: {type(watcher).__name__} stops: {error}")

    @torch.no_grad()
    def _template(self, latent: Tensor) -> np.ndarray:
        return self.model.decoder(latent[:, : self.model.config.zdim])[0].cpu().numpy()

    def _latents(self) -> np.ndarray:
        return self.latents.values.cpu().numpy()

    def _parameter_count(self) -> int:
        return sum(p.numel() for p in self.model.parameters())
