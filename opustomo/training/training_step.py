"""One step on the device: assemble the batch, run the model, update weights and the state of the particles.

Nothing waits for the device or depends on the values it holds, so that a step can be recorded as a CUDA graph.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from opustomo.model.autoencoder import Autoencoder
from opustomo.model.loss import TERM_NAMES
from opustomo.model.random_draws import StepRandom, seed_of
from opustomo.model.residual_spectra import NoiseSums, profile_likelihood
from opustomo.model.step_records import Batch, StepOutput, StepState
from opustomo.model.streams import POSES
from opustomo.physics import kernels
from opustomo.physics.ctf import TiltBatch
from opustomo.training.config import TrainingConfig
from opustomo.training.finite_values import add_if_finite, average_if_finite, finite_rows, replace_rows
from opustomo.training.optimizer import AdamW
from opustomo.training.particle_memory import LatentMemory, PoseMemory
from opustomo.training.processes import OneProcess, Ranks

SNR_DECAY = 0.99


Number = TypeVar("Number", float, Tensor)


class Schedule(NamedTuple, Generic[Number]):
    """Scheduled values of a step: numbers on the host, scalar tensors on the device."""

    bfactor_A2: Number
    beta: Number
    learning_rate: Number
    composition_scale: Number


@dataclass(frozen=True)
class Visit:
    """Batch from the host.

    Attributes
    ----------
    index
        (B,) particle indices.
    volumes
        (B, D, D, D) normalized voxels.
    pool
        (P,) particles that the disentanglement prior compares with, padded to a fixed length if ``pool_count`` is
        given.
    pool_count
        Scalar number of particles in the pool without padding.
    schedule_values
        (4,) values of :class:`Schedule` in its order; one tensor is copied to the device at once.
    weight
        (B,) 1, or 0 for a place without a usable subtomogram; None stands for ones.
    """

    index: Tensor
    volumes: Tensor
    pool: Tensor
    pool_count: Tensor | None
    schedule_values: Tensor
    weight: Tensor | None = None

    def __len__(self) -> int:
        return len(self.index)

    @property
    def schedule(self) -> Schedule[Tensor]:
        """Scheduled values by name."""
        return Schedule(*self.schedule_values.unbind())


class Engine:
    """Model, optimizer and particle state of a run, and the step that updates them.

    Parameters
    ----------
    model, optimizer
        Model and optimizer on ``device``.
    latents, poses
        Latents and poses of all particles.
    tilts, table
        Distinct CTF tables (U, T), and the index of the table of each particle (N,).
    config
        Settings of the training.
    ranks
        Processes that share the batches.
    """

    def __init__(
        self,
        model: Autoencoder,
        optimizer: AdamW,
        latents: LatentMemory,
        poses: PoseMemory,
        tilts: TiltBatch,
        table: Tensor,
        config: TrainingConfig,
        device: torch.device,
        ranks: OneProcess | Ranks | None = None,
    ) -> None:
        self.ranks = OneProcess() if ranks is None else ranks
        self.forward: Callable[..., StepOutput] = model
        self.model, self.optimizer, self.latents, self.poses = model, optimizer, latents, poses
        self.tilts, self.table, self.config, self.device = tilts, table, config, device
        self.generator = torch.Generator(device=device)
        self.snr = torch.zeros((), device=device)
        self.sums = torch.zeros(len(TERM_NAMES), device=device)
        self.counted = torch.zeros((), device=device)
        self.terms = torch.zeros_like(self.sums)
        # skipped updates, skipped updates since the last regular one, and visits that changed no latent and pose
        self.skipped, self.stalled, self.rejected = (torch.zeros((), device=device) for _ in range(3))
        self.gain_sums = torch.zeros(2, len(model.gain), device=device)
        # residual power and voxels per shell over the particles of a pass, and parameters fitted to them
        self.residuals = NoiseSums(*torch.zeros(2, len(model.gain), dtype=torch.float64, device=device))
        self.fitted = torch.zeros((), device=device)
        self._not_finite = torch.zeros((), device=device)
        # heads would move poses and bodies within a branch; collective operations need one order
        model.streams.enabled = self.ranks.size == 1 and not model.reads_head
        if self.motion_first:
            model.decoder.composition_scale.zero_()

    @property
    def motion_first(self) -> bool:
        """Whether the composition is switched on only after bodies have learned to move."""
        return self.model.config.bodies is not None and not self.model.physics.original

    @property
    def infers_poses(self) -> bool:
        """Whether poses are updated by Newton steps; OPUS-TOMO corrects them by its pose head."""
        return self.model.config.estimate_pose and not self.model.physics.original

    def parallelize(self) -> None:
        """Average gradients over the processes."""
        if self.ranks.size > 1:
            unused = self.model.encoder is None  # the pose head of a homogeneous run may get no gradient
            with warnings.catch_warnings():  # torch 2.13 renames broadcast_buffers
                warnings.simplefilter("ignore", FutureWarning)
                self.forward = torch.nn.parallel.DistributedDataParallel(
                    self.model, broadcast_buffers=False, gradient_as_bucket_view=True, find_unused_parameters=unused
                )

    def seed(self, key: tuple[int, ...]) -> None:
        """Seed the random draws of the next step with ``key``."""
        self.generator.manual_seed(seed_of(key))

    def step(self, visit: Visit, count: int, training: bool, first: bool = True, last: bool = True) -> StepOutput:
        """Process one batch.

        Parameters
        ----------
        visit
            Part of the batch in this process.
        count
            Number of particles of the batch in all processes.
        training
            Whether to update the weights.
        first, last
            Whether this is the first and the last of the batches whose gradients are summed for an update.
        """
        config, ranks, schedule = self.config, self.ranks, visit.schedule
        random = StepRandom(self.generator, count, ranks.prepare(count))
        if training and self.motion_first:
            scale = self.model.decoder.composition_scale
            scale.copy_(torch.maximum(scale, schedule.composition_scale))  # loaded weights keep theirs
        state = StepState(
            bfactor_A2=schedule.bfactor_A2,
            beta=schedule.beta,
            beta_control=config.beta_control,
            lamb=config.lamb,
            snr=self.snr.clone(),  # the average may change during the backward pass
            random=random if training else None,
            ranks=ranks,
        )
        if self.infers_poses:
            self.model.pose_prior.copy_(self.poses.prior_variance())
        neighbors = None
        if config.lamb > 0:
            neighbors = self.latents.neighbors(visit.index, visit.pool, random, visit.pool_count)
        with torch.set_grad_enabled(training):
            forward = self.forward if training else self.model
            batch = self.assemble(visit)
            output: StepOutput = forward(batch, neighbors, state)
        streams = self.model.streams
        if training:
            streams.fork(POSES, self.device)
            if first:
                self.optimizer.clear_gradients()
            (output.terms.total / config.accum_step).backward()
            if last:
                self.update(schedule.learning_rate)
        with streams.on(POSES):
            self._average(output, count, training)
            self._remember(visit, output)
        streams.join(POSES)
        return output

    @torch.no_grad()
    def _average(self, output: StepOutput, count: int, training: bool) -> None:
        """Update the running averages and the sums over the particles of a pass."""
        ranks = self.ranks
        if training:
            average_if_finite(self.snr, output.terms.snr, SNR_DECAY)
            if output.noise is not None:
                for running, found in zip(self.model.noise, output.noise, strict=True):
                    average_if_finite(running, ranks.total(found), SNR_DECAY)
        elif output.gain is not None:
            add_if_finite(self.gain_sums, ranks.total(output.gain))
        if output.fitted is not None:
            add_if_finite(self.fitted, ranks.total(output.fitted))
        if output.noise is not None:
            for total, found in zip(self.residuals, output.noise, strict=True):
                add_if_finite(total, ranks.total(found).double())
        self.terms.copy_(ranks.total(output.terms.stacked()) / ranks.size)
        self.counted += count * add_if_finite(self.sums, self.terms * count)

    @torch.no_grad()
    def _remember(self, visit: Visit, output: StepOutput) -> None:
        """Update latents and poses of the particles of all processes, in every process."""
        index, mu, turn, shift_px, weight = visit.index, output.mu, output.turn, output.shift_px, visit.weight
        variance = mu[:, :0] if output.variance is None else output.variance
        usable = finite_rows(mu, turn, shift_px, variance)
        mu, shift_px, variance = (replace_rows(part, usable) for part in (mu, shift_px, variance))
        turn = replace_rows(turn, usable, torch.eye(3, device=turn.device))
        wanted = torch.ones_like(usable) if weight is None else weight
        weight, lost = wanted * usable, wanted * (1.0 - usable)
        if self.ranks.size > 1:
            parts = [weight[:, None], lost[:, None], mu, turn.flatten(1), shift_px, variance]
            rows = self.ranks.gather(torch.cat(parts, 1)).split([part.shape[1] for part in parts], 1)
            index = self.ranks.gather(index)
            weight, lost = rows[0][:, 0], rows[1][:, 0]
            mu, turn, shift_px, variance = rows[2], rows[3].unflatten(1, (3, 3)), rows[4], rows[5]
        self.rejected += lost.sum()
        self.latents.update(index, mu, weight)
        if self.model.config.estimate_pose:
            self.poses.update(index, turn, shift_px, weight, None if output.variance is None else variance)

    def start_pass(self) -> None:
        """Clear what is summed over the particles of a pass."""
        for total in (self.gain_sums, *self.residuals, self.fitted):
            total.zero_()

    def likelihood(self, count: int) -> float:
        """Return the negative log-likelihood per particle of the ``count`` particles of the pass, up to a constant.

        Poses of held-out particles are fitted to their own data, which is corrected as in the loss (docs/method.md,
        section 7). NaN for the algorithm of OPUS-TOMO, which estimates no noise spectrum.
        """
        if self.model.physics.original:
            return math.nan
        return float(profile_likelihood(self.residuals) + self.fitted) / max(1, count)

    def assemble(self, visit: Visit) -> Batch:
        """Return the batch with its current poses and CTF tables."""
        tilts, table = self.tilts_of(visit.index)
        rotation, origin_px = self.poses.current(visit.index)
        deviation = self.poses.deviation(visit.index) if self.infers_poses else None
        return Batch(visit.index, visit.volumes, tilts, table, rotation, origin_px, visit.weight, deviation)

    def tilts_of(self, index: Tensor) -> tuple[TiltBatch, Tensor | None]:
        """Return the CTF tables of particles (B,), and the index of the table of each; None for one each, in order."""
        mine = self.table[index]
        if kernels.usable(self.tilts.scale):
            return self.tilts[mine], None
        distinct, table = torch.unique(mine, return_inverse=True)
        return self.tilts[distinct], table

    def update(self, lr: Tensor) -> None:
        """Update the weights, unless a gradient is not finite."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        finite = torch.isfinite(torch.stack(torch._foreach_norm(gradients))).all()
        self._not_finite.copy_(~finite)
        self.skipped += self._not_finite
        self.stalled.copy_(torch.where(finite, 0.0, self.stalled + 1.0))
        self.optimizer.step(lr, self._not_finite)

    def state(self) -> dict[str, Any]:
        """Return everything that training changes on the device."""
        return {
            "model": self.model.state_dict(),
            "fixed_latent": self.model.fixed_latent,
            "optimizer": self.optimizer.state_dict(),
            "divide": bool(self.model.physics.divide),
            "snr": self.snr,
            "gain_sums": self.gain_sums,
            "residuals": torch.stack([*self.residuals]),
            "fitted": self.fitted,
            "skipped": self.skipped,
            "stalled": self.stalled,
            "rejected": self.rejected,
            "latents": self.latents.values,
            "pose_turn": self.poses.turn,
            "pose_shift_px": self.poses.shift_px,
            "pose_variance": self.poses.variance,
            "composition_scale": self.model.decoder.composition_scale,
            "consensus": self.model.decoder.consensus,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state` returned; all tensors keep their place in memory."""
        self.model.load_state_dict(state["model"])
        self.model.fixed_latent.copy_(state["fixed_latent"])
        self.optimizer.load_state_dict(state["optimizer"])
        for tensor, name in (
            (self.snr, "snr"),
            (self.skipped, "skipped"),
            (self.latents.values, "latents"),
            (self.poses.turn, "pose_turn"),
            (self.poses.shift_px, "pose_shift_px"),
            (self.poses.variance, "pose_variance"),
            (self.model.decoder.composition_scale, "composition_scale"),
        ):
            tensor.copy_(state[name])
        consensus = self.model.decoder.consensus
        for tensor, name in (
            (self.stalled, "stalled"),
            (self.rejected, "rejected"),
            (consensus, "consensus"),
            (self.gain_sums, "gain_sums"),
            (self.fitted, "fitted"),
        ):
            tensor.copy_(state.get(name, torch.zeros(())))  # missing in states of earlier versions
        for total, saved in zip(self.residuals, state.get("residuals", torch.zeros(2, 1)), strict=True):
            total.copy_(saved)
        self.poses.note_deviations()
