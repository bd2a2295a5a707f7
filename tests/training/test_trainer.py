"""The training loop: order of visits, updates, schedules and files.

A one-parameter model stands in for the networks, so that every number can be foretold.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from opustomo.data.config import DataConfig
from opustomo.data.particles import ParticleSet, load_particles
from opustomo.data.voxels import BrokenSubtomogramError, VoxelSource
from opustomo.io.latents import read_latents
from opustomo.io.log_files import read_training_log
from opustomo.io.poses import read_poses
from opustomo.model.config import ModelConfig, PhysicsConfig
from opustomo.model.loss import LossTerms, Neighbors
from opustomo.model.residual_spectra import NoiseSums
from opustomo.model.step_records import Batch, StepOutput, StepState
from opustomo.model.streams import SideStreams
from opustomo.physics.boxes import Boxes
from opustomo.training.config import RunConfig, TrainingConfig
from opustomo.training.loop_state import VALIDATION
from opustomo.training.optimizer import AdamW
from opustomo.training.run_log import RunLog
from opustomo.training.schedules import learning_rate_at
from opustomo.training.trainer import Trainer

SNR = 0.5
MU = (1.0, 2.0, 3.0)


class Cube(nn.Module):
    """Decode any composition to a density of ones."""

    composition_scale = torch.ones(())
    consensus = torch.zeros(4, 4, 4)

    def forward(self, composition: Tensor) -> Tensor:
        return torch.ones(len(composition), 4, 4, 4)


class Known(nn.Module):
    """Loss w · mean of the particles' numbers: its gradient is that mean, wherever w is."""

    def __init__(self, numbers: np.ndarray, estimate_pose: bool = False) -> None:
        super().__init__()
        self.config = ModelConfig(zdim=2, zaffinedim=1, templateres=32, estimate_pose=estimate_pose)
        self.physics = PhysicsConfig(bfactor_A2=4.0, original=True)
        self.boxes, self.focused = Boxes(24, 12.0, 24, 22), False
        self.streams, self.reads_head = SideStreams(), True
        self.encoder = None
        self.w = nn.Parameter(torch.zeros(()))
        self.decoder = Cube()
        self.mask, self.fixed_latent = torch.ones(22, 22, 22), torch.zeros(3)
        self.noise = NoiseSums(torch.ones(13), torch.ones(13))
        self.pose_prior, self.gain = torch.ones(2), torch.ones(13)
        self.numbers = torch.from_numpy(numbers)
        self.visits: list[tuple[Batch, Neighbors | None, StepState, bool]] = []

    def forward(self, batch: Batch, neighbors: Neighbors | None, state: StepState) -> StepOutput:
        self.visits.append((batch, neighbors, replace(state, snr=state.snr.clone()), self.training))
        gen = self.w * self.numbers[batch.index].float().mean() + batch.index.float().mean()
        zero = torch.zeros(())
        terms = LossTerms(gen, gen, zero, torch.tensor(SNR), *[zero] * 7)
        count = len(batch)
        shift = torch.ones(count, 3)
        return StepOutput(terms, torch.tensor(MU).expand(count, 3), torch.eye(3).expand(count, 3, 3), shift)

    def start_pose_variance(self) -> Tensor:
        return torch.ones(2)

    def batches(self, training: bool) -> list[np.ndarray]:
        return [batch.index.numpy() for batch, _, _, kind in self.visits if kind == training]


@pytest.fixture(scope="module")
def particles(tiny_set: Path) -> ParticleSet:
    return load_particles(DataConfig(tiny_set / "particles.star"))


class PlainDescent(AdamW):
    """Steps of the learning rate times the gradient, which are noted."""

    def __init__(self, w: nn.Parameter) -> None:
        super().__init__([w], 0.0)
        self.w, self.gradients, self.rates, self.omitted = w, list[float](), list[float](), list[float]()

    def step(self, learning_rate: Tensor, omitted: Tensor) -> None:
        assert self.w.grad is not None
        self.gradients.append(float(self.w.grad))
        self.rates.append(float(learning_rate))
        self.omitted.append(float(omitted))
        with torch.no_grad():
            self.w -= learning_rate * (1.0 - omitted) * torch.nan_to_num(self.w.grad)


class Session:
    """A trainer with the known model, run over 12 training and 4 held-out particles."""

    def __init__(self, particles: ParticleSet, outdir: Path, estimate_pose: bool = False, **settings: object) -> None:
        numbers = np.random.default_rng(0).normal(size=16)
        self.model = Known(numbers, estimate_pose)
        own = {key: settings.pop(key) for key in ("checkpoint", "log_interval") if key in settings}
        config = replace(TrainingConfig(epochs=1, batch_size=4, lr=0.5, lamb=1.0), **settings)
        permutation = np.random.default_rng(1).permutation(16)
        self.train, self.held = permutation[:12], permutation[12:]
        self.outdir = outdir
        self.log = RunLog(outdir / "run.log")
        run = RunConfig(outdir, workers=1, **own)  # type: ignore[arg-type]
        source, norm = VoxelSource(particles.images), (0.0, 2.0)
        self.trainer = Trainer(
            self.model,
            particles,
            source,
            norm,
            (self.train, self.held),
            config,
            run,
            self.log,  # type: ignore[arg-type]
        )
        self.updates: list[float] = []

    def use_plain_descent(self) -> PlainDescent:
        """Replace the optimizer by steps of the learning rate times the gradient."""
        optimizer = PlainDescent(self.model.w)
        self.trainer.engine.optimizer, self.updates = optimizer, optimizer.gradients
        return optimizer

    def fit(self) -> Session:
        self.trainer.fit()
        self.log.close()
        return self


MakeSession = Callable[..., Session]


@pytest.fixture
def session(particles: ParticleSet, tmp_path: Path) -> MakeSession:
    return functools.partial(Session, particles, tmp_path)


def test_every_particle_is_visited_once_per_epoch(session: MakeSession) -> None:
    run = session(epochs=3, batch_size=5).fit()
    training, validation = run.model.batches(True), run.model.batches(False)
    assert len(training) == 9 and len(validation) == 3
    for epoch in range(3):
        assert sorted(np.concatenate(training[3 * epoch : 3 * epoch + 3])) == sorted(run.train)
        assert sorted(validation[epoch]) == sorted(run.held)
    assert [list(b) for b in training[:3]] != [list(b) for b in training[3:6]]


def test_a_batch_holds_the_particles_own_data(session: MakeSession, particles: ParticleSet) -> None:
    run = session().fit()
    source = VoxelSource(particles.images)
    for batch, neighbors, _, _ in run.model.visits:
        for row, index in enumerate(batch.index.tolist()):
            np.testing.assert_array_equal(batch.volumes[row], source.read(index).astype(np.float32) / 2.0)
            np.testing.assert_allclose(batch.rotation[row], particles.poses.rotations[index], atol=1e-6)
            np.testing.assert_allclose(batch.origin_px[row], particles.poses.origins[index] * 24, atol=1e-5)
            table = particles.tables[particles.table[index]]
            for name in ("tilt_deg", "defocus_u_A", "scale"):
                padded = getattr(batch.tilts, name)[batch.table[row]]
                np.testing.assert_allclose(padded[: len(table)], getattr(table, name), rtol=1e-5, atol=1e-4)
                assert name != "scale" or not padded[len(table) :].any()
        assert neighbors is not None and len(neighbors.near) == len(batch)


def test_the_log_holds_means_over_particles_not_batches(session: MakeSession) -> None:
    run = session(batch_size=5, lr=0.0).fit()  # batches of 5, 5 and 2: w stays 0
    curves = read_training_log(run.outdir / "run.log")
    assert curves["training"].gen_loss[0] == pytest.approx(run.train.mean(), abs=1e-5)
    assert curves["validation"].gen_loss[0] == pytest.approx(run.held.mean(), abs=1e-5)
    assert curves["training"].snr[0] == pytest.approx(SNR, abs=1e-5)


def test_validation_neither_learns_nor_draws(session: MakeSession) -> None:
    run = session(epochs=2).fit()
    assert run.trainer.progress.particles_seen == 24
    for _, _, state, training in run.model.visits:
        assert (state.random is None) == (not training)
    alone = session(epochs=2)
    alone.trainer.members[VALIDATION] = run.held[:0]
    alone.fit()
    assert float(alone.model.w.detach()) == float(run.model.w.detach())
    assert not alone.model.batches(False)


def test_schedules_follow_epochs_and_particles_seen(session: MakeSession) -> None:
    run = session(epochs=2, lr=0.5, beta="cos")
    optimizer = run.use_plain_descent()
    run.fit()
    assert optimizer.rates == pytest.approx([learning_rate_at(0.5, update // 3, update) for update in range(6)])
    states = [state for _, _, state, training in run.model.visits if training]
    assert [float(s.beta) for s in states] == pytest.approx([0.1 + 0.9 * seen / 20_000 for seen in range(0, 24, 4)])
    assert [float(s.bfactor_A2) for s in states[2:4]] == pytest.approx([4.25, 4 + 1 / (1 + 3 * np.exp(-0.1))])
    expected = [0.0]
    for _ in range(6):
        expected.append(0.99 * expected[-1] + 0.01 * SNR)
    assert [float(s.snr) for s in states] == pytest.approx(expected[:-1])
    assert float(run.trainer.engine.snr) == pytest.approx(expected[-1])


def test_accumulated_steps_move_as_one_step_of_the_joint_batch(
    session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = session(batch_size=2, accum_step=2)
    run.use_plain_descent()
    run.fit()
    means = [float(run.model.numbers[torch.from_numpy(b)].mean()) for b in run.model.batches(True)]
    assert run.updates == pytest.approx([np.mean(means[i : i + 2]) for i in (0, 2, 4)], rel=1e-5)


def test_a_batch_of_broken_subtomograms_lets_no_old_gradient_in(
    session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first batch of the second update is empty: the update is that of the other one."""
    order = np.concatenate(session(batch_size=1, accum_step=2).fit().model.batches(True))
    run = session(batch_size=1, accum_step=2)
    run.use_plain_descent()
    read = VoxelSource.read

    def broken(self: VoxelSource, index: int) -> np.ndarray:
        if index == order[2]:
            raise BrokenSubtomogramError("it is broken")
        return read(self, index)

    monkeypatch.setattr(VoxelSource, "read", broken)
    run.fit()
    numbers = run.model.numbers.numpy()
    pairs = [order[0:2], order[3:4], *(order[i : i + 2] for i in range(4, 12, 2))]
    assert run.updates == pytest.approx([numbers[pair].sum() / 2 for pair in pairs], rel=1e-5)


@pytest.mark.parametrize("accum_step", [5, 8, 100])
def test_batches_that_do_not_fill_an_update_count_in_their_own_epoch(session: MakeSession, accum_step: int) -> None:
    """With six batches per epoch, none is lost or added to the first update of the next epoch."""
    run = session(epochs=2, batch_size=2, accum_step=accum_step)
    run.use_plain_descent()
    run.fit()
    per_epoch = -(-6 // accum_step)
    assert len(run.updates) == 2 * per_epoch
    means = [float(run.model.numbers[torch.from_numpy(b)].mean()) for b in run.model.batches(True)]
    second = means[6 : 6 + min(accum_step, 6)]
    assert np.sign(run.updates[per_epoch]) == np.sign(np.sum(second))
    ratio = run.updates[per_epoch] / np.sum(second)
    assert any(ratio == pytest.approx(1 / n, rel=1e-4) for n in (1, len(second), accum_step))


def test_latents_and_poses_are_remembered_of_all_particles(session: MakeSession, particles: ParticleSet) -> None:
    run = session(epochs=2, estimate_pose=True)
    start = run.trainer.engine.latents.values.clone()
    run.fit()
    expected = 0.49 * start + 0.51 * torch.tensor(MU)
    torch.testing.assert_close(run.trainer.engine.latents.values, expected)
    mu, multi = read_latents(run.outdir / "z.1.pkl")
    assert multi is not None
    np.testing.assert_allclose(np.concatenate([mu, multi], 1), expected.numpy(), atol=1e-6)
    poses = read_poses(run.outdir / "pose.1.pkl")
    np.testing.assert_array_equal(poses.eulers_deg, particles.poses.eulers_deg)  # δA was 1
    moved = 2 * 0.3 * particles.poses.rotations.astype(float) @ np.ones(3)
    np.testing.assert_allclose(poses.origins * 24, particles.poses.origins * 24 + moved, atol=1e-5)


def test_without_pose_estimation_poses_are_written_as_read(session: MakeSession, particles: ParticleSet) -> None:
    run = session().fit()
    poses = read_poses(run.outdir / "pose.0.pkl")
    np.testing.assert_array_equal(poses.eulers_deg, particles.poses.eulers_deg)
    np.testing.assert_allclose(poses.origins, particles.poses.origins, atol=1e-7)


def test_checkpoints_come_at_their_interval_and_at_the_end(session: MakeSession) -> None:
    run = session(epochs=5, checkpoint=2).fit()
    names = {path.name for path in run.outdir.iterdir()}
    for kind in ("weights", "z", "pose"):
        assert {name for name in names if name.startswith(kind)} == {f"{kind}.{n}.pkl" for n in (1, 3, 4)}


def test_draws_belong_to_seed_epoch_and_step(session: MakeSession) -> None:
    def draws(seed: int) -> list[float]:
        run = session(epochs=2, seed=seed)
        found: list[float] = []
        forward = run.model.forward

        def noting(batch: Batch, neighbors: Neighbors | None, state: StepState) -> StepOutput:
            if state.random is not None:
                found.append(float(state.random.normal()[0]))
            assert isinstance(neighbors, Neighbors)
            found.append(_sum(neighbors.far))
            return forward(batch, neighbors, state)

        run.model.forward = noting
        run.fit()
        return found

    one, two, other = draws(3), draws(3), draws(4)
    assert one == two
    assert not set(one) & set(other)
    assert len(set(one)) == len(one)  # another draw at every step of every epoch


def test_gradients_that_are_not_finite_are_left_out(session: MakeSession) -> None:
    """Twelve particles in twelve steps: one number is infinite."""
    run = session(batch_size=1, valfrac=0.0)
    run.model.numbers[:] = 1.0
    run.model.numbers[int(run.train[0])] = float("inf")
    optimizer, engine = run.use_plain_descent(), run.trainer.engine
    run.fit()
    kept = [gradient for gradient, omitted in zip(optimizer.gradients, optimizer.omitted, strict=True) if not omitted]
    assert kept == [1.0] * 11 and sum(optimizer.omitted) == 1 and float(engine.skipped) == 1
    assert "1 updates are left out" in (run.outdir / "run.log").read_text()


def _sum(values: Tensor) -> float:
    return float(values.double().sum())
