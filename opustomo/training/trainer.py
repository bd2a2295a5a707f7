"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opustomo.checkpoint.epoch_files import prune_weights, require_room, write_epoch, write_state
from opustomo.data.batches import load_batches, viewing_batches
from opustomo.data.particles import ParticleSet
from opustomo.data.voxels import VoxelSource
from opustomo.geometry.rotations import viewing_groups
from opustomo.io.latents import write_coordinates
from opustomo.model.autoencoder import Autoencoder
from opustomo.model.loss import TERM_NAMES
from opustomo.model.residual_spectra import gain_from
from opustomo.model.separation import separate_latents
from opustomo.model.step_records import StepOutput
from opustomo.physics import kernels
from opustomo.physics.ctf import TiltBatch
from opustomo.training import schedules
from opustomo.training.config import RunConfig, TrainingConfig
from opustomo.training.consensus import missing_consensus, updates_due
from opustomo.training.cuda_graphs import Steps
from opustomo.training.encoding import Reading, infer_latents
from opustomo.training.finite_values import Recovery
from opustomo.training.loop_state import TRAINING, VALIDATION, LoopState, note_broken
from opustomo.training.monitoring import epoch_record, interval_record, notify, write_template
from opustomo.training.monitors.records import Monitor
from opustomo.training.optimizer import AdamW
from opustomo.training.particle_memory import LatentMemory, PoseMemory
from opustomo.training.pose_search import search_poses, wide_prior
from opustomo.training.processes import OneProcess, Ranks, StopRequest
from opustomo.training.run_log import RunLog, RunProgress, SpeedMeter, epoch_line, term_line, visits_left
from opustomo.training.training_step import Engine, Schedule, Visit

AUTOSAVE_SECONDS = 600.0
VALIDATION_KEY = 1_000_000
"""Offset of validation steps in the keys of random draws."""
POOL_KEY = 1
"""Part of the key of the pool of the prior, which is drawn on the host."""
AGREE_STEPS = 8
"""Number of steps between which several processes agree whether to stop."""
Loaded = tuple[np.ndarray, Tensor]  # particle indices and their voxels


class Trainer:
    """Training of a model on a set of particles.

    Parameters
    ----------
    model
        Model on the device of ``run``.
    particles, source, norm
        Particles, their voxels, and the (shift, scale) that normalizes voxels.
    members
        Indices of the particles that train and of those that are held out.
    config, run, log
        Settings and the open log.
    monitors
        Monitors of the run.
    ranks
        Processes that share the batches; the first of them writes files.
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
        monitors: Sequence[Monitor] = (),
        ranks: OneProcess | Ranks | None = None,
    ) -> None:
        self.ranks = OneProcess() if ranks is None else ranks
        self.leads = self.ranks.rank == 0
        self.model, self.particles, self.source, self.norm = model, particles, source, norm
        self.members = dict(zip((TRAINING, VALIDATION), members, strict=True))
        self.config, self.run, self.log, self.monitors = config, run, log, list(monitors)
        self.device = torch.device(run.device)
        self.groups = viewing_groups(particles.poses.eulers_deg)
        latents = LatentMemory(self.groups, model.config.latent_dim, self.device, config.seed)
        if model.config.encode_mode == "fixed":
            latents.values.copy_(model.fixed_latent.expand_as(latents.values))
        self.engine = Engine(
            model,
            AdamW(model.parameters(), config.weight_decay),
            latents,
            PoseMemory(particles.poses, particles.box, self.device, model.start_pose_variance()),
            TiltBatch.pad(particles.tables).to(self.device),
            torch.from_numpy(particles.table).to(self.device),
            config,
            self.device,
            self.ranks,
        )
        self._steps = Steps(self.engine, record=kernels.usable(self.engine.tilts.scale))
        self.progress = LoopState()
        self._saved_at, self._speed = time.monotonic(), SpeedMeter()
        self._shown = RunProgress(log.say if self.leads else None, self._loss_so_far)
        self._recovery = Recovery(self.engine, log.say, run.outdir)
        self._batches: list[np.ndarray] = []
        self._summing = False  # gradients that no update has taken yet
        self._passed: dict[str, float] = {}  # mean terms of the last pass
        self.waited = 0.0
        self._written: tuple[int, np.ndarray] | None = None  # the last latents written, and their epoch

    # The course of a run

    def fit(self, stop: StopRequest | None = None) -> bool:
        """Train the remaining epochs; return False if the run stopped on request, after saving its state."""
        stop = StopRequest() if stop is None else stop
        while self.progress.epoch < self.config.epochs:
            for kind in (TRAINING, VALIDATION):
                if kind == TRAINING and self.progress.kind == VALIDATION:
                    continue  # resumed in the middle of a validation
                if self.progress.kind != kind:
                    self.progress.start_pass(kind)
                if not self.pass_over(stop):
                    self.save_state()
                    return False
            self._finish_epoch()
        return True

    def prepare(self) -> None:
        """Compile the kernels of a step, on a GPU."""
        self._steps.prepare(self.log.say if self.leads else None)

    def close(self) -> None:
        """Wait for the other processes and disconnect from them."""
        self._steps.close()
        self.ranks.close()

    def state(self) -> dict[str, Any]:
        """Return everything that training changes, for :func:`opustomo.checkpoint.epoch_files.write_state`."""
        return {
            "progress": self.progress.as_dict(),
            "config": {k: str(v) for k, v in asdict(self.config).items()},
            "particles": len(self.particles),
            "norm": list(self.norm),
            "scale_per_particle": self.source.per_particle,
            "mask": self.model.mask,
            **self.engine.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Resume from a state that :meth:`state` returned."""
        self.engine.load_state(state)
        self.progress = LoopState.from_dict(state["progress"])
        self._speed = SpeedMeter(self.progress.particles_seen)
        self._recovery.start()

    def save_state(self) -> None:
        """Replace state.pkl of the run, with the weights and both moments of the optimizer."""
        if self.leads:
            require_room(self.run.outdir, self.model, len(self.particles), epoch_files=False)
            write_state(self.run.outdir, self.state())
        self._saved_at = time.monotonic()

    def update_consensus(self) -> None:
        """Add to the consensus volume what it lacks at the current poses and weights."""
        training, consensus = self.model.training, self.model.decoder.consensus
        bfactor_A2 = schedules.bfactor_at(self.model.physics.bfactor_A2, self.progress.epoch)
        members = self.members[TRAINING]
        if self.progress.particles_seen and wide_prior(self.engine):
            every = np.concatenate(list(self.members.values()))
            search_poses(self.engine, self._reading(), every, bfactor_A2, self.log.say)
        found = missing_consensus(self.engine, self.source, members, self.norm, bfactor_A2, self.run.workers)
        consensus += found
        share = float(found.norm() / consensus.norm().clamp(min=1e-12))
        self.log.say(
            f"# the consensus volume is updated after {self.progress.particles_seen} visits ({share:.1%} is new)"
        )
        self.progress.consensus_updates = updates_due(self.progress.particles_seen, len(members))
        self.model.train(training)

    def _reading(self) -> Reading:
        return Reading(self.source, self.norm, self.run.workers)

    def _finish_epoch(self) -> None:
        progress = self.progress
        epoch, seconds = progress.epoch, progress.training_seconds + progress.seconds
        together = self.config.batch_size * self.ranks.size * self.config.accum_step
        self._recovery.require_updates(epoch, -(-len(self.members[TRAINING]) // together))
        validation = self._passed if len(self.members[VALIDATION]) else None
        self.model.gain.copy_(gain_from(self.engine.gain_sums))
        training, progress.training_means = progress.training_means, {}
        progress.epoch += 1
        progress.start_pass(TRAINING)
        encoded = None
        if progress.epoch == self.config.epochs or progress.epoch % self.run.checkpoint == 0:
            reading, bfactor_A2 = self._reading(), schedules.bfactor_at(self.model.physics.bfactor_A2, epoch)
            inferred = infer_latents(self.engine, reading, self.members.values(), bfactor_A2)
            encoded = inferred.encoded
            latents = self._recovery.finite_latents(epoch, inferred.values, self.engine.latents.values.cpu().numpy())
            if self.leads:
                require_room(self.run.outdir, self.model, len(self.particles))
                separation = separate_latents(latents, self.model.config) if self.config.separate else None
                poses = self.engine.poses.poses()
                write_coordinates(self.run.outdir / f"coordinates.{epoch}.npy", inferred.coordinates)
                self._written = epoch, write_epoch(self.run.outdir, epoch, self.model, latents, poses, separation)
            progress.note_written(epoch, validation)
            self.save_state()
            if self.leads:
                prune_weights(self.run.outdir, epoch, self.run.keep, progress.best_epoch)
                self.log.say(f"# epoch {epoch} is written: weights.{epoch}.pkl, z.{epoch}.pkl, pose.{epoch}.pkl")
        if self.leads:  # a small set never reaches a log interval
            self._write_template(self.engine.latents.values[:1])
        if self.monitors:
            losses = training, validation
            record = epoch_record(self.engine, epoch, losses, seconds, self._seen(), self._written)
            notify(self.monitors, replace(record, encoded=encoded), self.log.say)

    # One pass over the training or the validation particles

    def pass_over(self, stop: StopRequest) -> bool:
        """Visit the remaining batches of the pass; return False if it stopped on request before its end."""
        progress = self.progress
        training = progress.kind == TRAINING
        started = time.monotonic() - progress.seconds
        self.model.train(training)
        self._summing = False
        sums = self.engine.sums
        sums.copy_(torch.tensor(progress.sums or [0.0] * len(TERM_NAMES)))
        self.engine.counted.fill_(progress.counted)
        if progress.step == 0:
            self.engine.start_pass()
        for visit in (visits := self._visits()):
            if visit is not None:
                count = len(visit) if self.ranks.size == 1 else len(self._batches[progress.step])
                self._step(visit, count)
            progress.step += 1
            progress.seconds = time.monotonic() - started
            due = time.monotonic() - self._saved_at > AUTOSAVE_SECONDS
            if progress.step % self.config.accum_step and progress.step < len(self._batches):
                continue
            if self._asked(stop):
                self._read_sums()
                visits.close()
                return False
            if due and self._recovery.is_steady:
                self._read_sums()
                self.save_state()
        self._read_sums()
        progress.seconds = time.monotonic() - started
        self._recovery.report()
        means = self._passed = {**self._means(), "nll": self.engine.likelihood(progress.counted)}
        if training:
            progress.training_means, progress.training_seconds = means, progress.seconds
        if progress.counted:
            self.log.raw(epoch_line(progress.epoch, progress.kind, means, progress.seconds))
        return True

    def _read_sums(self) -> None:
        self.progress.sums, self.progress.counted = self.engine.sums.tolist(), int(self.engine.counted)

    def _loss_so_far(self) -> float:
        self._read_sums()
        return self._means()["gen"]

    def _means(self) -> dict[str, float]:
        count = max(1, self.progress.counted)
        return {name: value / count for name, value in zip(TERM_NAMES, self.progress.sums, strict=True)}

    def _visits(self) -> Generator[Visit | None]:
        """Yield the remaining batches of the pass, None for a batch without usable particles."""
        progress = self.progress
        members = self.members[progress.kind]
        rng = np.random.default_rng([self.config.seed, progress.epoch, int(progress.kind == TRAINING)])
        if 0 < len(members) < self.ranks.size:  # no process can do without a particle
            members = np.resize(members, self.ranks.size)
        together = self.config.batch_size * self.ranks.size
        self._batches = viewing_batches(members, self.groups, together, rng, smallest=self.ranks.size)
        batches = [self.ranks.part_of(batch) for batch in self._batches[progress.step :]]
        shown = self._shown.begin(
            f"epoch {progress.epoch} {progress.kind}",
            len(members),
            len(members) - self.ranks.size * sum(len(batch) for batch in batches),
            visits_left(progress, len(self.members[TRAINING]), len(self.members[VALIDATION]), self.config.epochs),
        )
        with closing(shown):
            leave_out = partial(note_broken, progress.broken, len(self.particles), self.log.say)
            loaded = load_batches(self.source, batches, self.device, self.norm, self.run.workers, leave_out)
            for indices, volumes in self._wait_for(loaded):
                wanted = self.ranks.part_of(self._batches[progress.step])
                yield self.make_visit(indices, volumes, wanted) if len(indices) or self.ranks.size > 1 else None
                shown.advance(len(indices) * self.ranks.size)

    def _wait_for(self, loaded: Iterator[Loaded]) -> Iterator[Loaded]:
        """Yield the batches and measure how long the loop waits for data."""
        while True:
            started = time.monotonic()
            item = next(loaded, None)
            self.waited += time.monotonic() - started
            if item is None:
                return
            yield item

    # One step

    def make_visit(self, indices: np.ndarray, volumes: Tensor, wanted: np.ndarray | None = None) -> Visit:
        """Return a batch for the engine; in parallel runs, places without a usable subtomogram have no weight."""
        config, progress, latents = self.config, self.progress, self.engine.latents
        batch = indices if self.ranks.size == 1 else self._batches[progress.step]
        pool = np.zeros(1, dtype=np.int64)  # not used without the disentanglement prior
        if config.lamb > 0:
            pool = latents.draw_pool(batch, np.random.default_rng([*self._key(), POOL_KEY]))
        weight = None
        if self.ranks.size > 1 and wanted is not None:
            weight = np.isin(wanted, indices)
            if len(indices) < len(wanted):
                filled = volumes.new_zeros(len(wanted), *(self.particles.box,) * 3)
                filled[torch.from_numpy(weight).to(filled.device)] = volumes
                indices, volumes = wanted, filled
        count = None
        if self.device.type == "cuda":  # one shape for all steps
            count = self._to_device(np.array(len(pool)))
            if config.lamb > 0:
                pool = np.pad(pool, (0, latents.pool_capacity - len(pool)))
        schedule = Schedule(
            schedules.bfactor_at(self.model.physics.bfactor_A2, progress.epoch),
            schedules.beta_at(config.beta, progress.particles_seen),
            schedules.learning_rate_at(config.lr, progress.epoch, progress.updates),
            schedules.composition_scale_at(progress.updates),
        )
        return Visit(
            self._to_device(indices),
            volumes,
            self._to_device(pool),
            count,
            self._to_device(np.array(schedule, dtype=np.float32)),
            None if weight is None else self._to_device(weight.astype(np.float32)),
        )

    def _to_device(self, values: np.ndarray) -> Tensor:
        """Copy values to the device without waiting for it."""
        tensor = torch.from_numpy(values)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def _key(self) -> tuple[int, int, int]:
        """Return the key of the random draws of the next step."""
        progress = self.progress
        offset = 0 if progress.kind == TRAINING else VALIDATION_KEY
        return self.config.seed, progress.epoch, progress.step + offset

    def _asked(self, stop: StopRequest) -> bool:
        """Return whether to stop; several processes agree on it every few steps and at the end of a pass."""
        if self.ranks.size == 1:
            return bool(stop)
        step = self.progress.step
        return (step % AGREE_STEPS == 0 or step == len(self._batches)) and self.ranks.any(bool(stop))

    def _step(self, visit: Visit, count: int) -> None:
        config, progress = self.config, self.progress
        if progress.kind != TRAINING:
            self._steps(visit, count, self._key(), training=False)
            return
        last = (progress.step + 1) % config.accum_step == 0 or progress.step + 1 == len(self._batches)
        output = self._steps(visit, count, self._key(), training=True, first=not self._summing, last=last)
        self._summing = not last
        progress.updates += last
        before = progress.particles_seen // self.run.log_interval
        progress.particles_seen += count
        due = updates_due(progress.particles_seen, len(self.members[TRAINING]))
        if last and due > progress.consensus_updates and not self.model.physics.original:
            self.update_consensus()
        if progress.particles_seen // self.run.log_interval != before:
            self._recovery.require_updates(progress.epoch)
            if self.leads:
                self._report(visit, output)

    # Reports

    def _report(self, visit: Visit, output: StepOutput) -> None:
        self._recovery.report()
        speed = self._speed.read(self.progress.particles_seen)
        record = interval_record(self.engine, self.progress, visit, speed, self.run.plot)
        self.log.say(term_line(record))
        notify(self.monitors, record, self.log.say)
        self._write_template(output.mu[:1])

    def _write_template(self, latent: Tensor) -> None:
        write_template(self.run.outdir / f"{self.run.tmp_prefix}.mrc", self.model, latent, self.log.say)

    def _seen(self) -> np.ndarray:
        """Return which particles (N,) belong to the run and could be read."""
        seen = np.isin(np.arange(len(self.particles)), np.concatenate(list(self.members.values())))
        seen[list(self.progress.broken)] = False
        return seen
