"""Pose search: a particle far from its true pose is corrected, and others stay."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from opustomo.geometry.rotations import matrix_to_euler
from opustomo.io.poses import Poses
from opustomo.model.autoencoder import Autoencoder
from opustomo.model.composition_posterior import ComparedSpectra, compared_spectra
from opustomo.model.config import ModelConfig, PhysicsConfig
from opustomo.model.step_records import Batch, StepState
from opustomo.physics.boxes import Boxes, mask_on_crop
from opustomo.physics.ctf import TiltBatch
from opustomo.physics.fourier import irfft3, pad_spectrum, rfft3, shift_phases
from opustomo.physics.sampling import sample_posed
from opustomo.training import pose_search
from opustomo.training.particle_memory import PoseMemory
from opustomo.training.pose_search import best_poses, confirmed, moved_batch, wide_prior
from tests.physics.optics import tilt_table

SIZE = 24
STATE = StepState(0.0, 0.0, 0.0, 0.0, torch.tensor(0.0), None, moves_pose=False)


def density() -> Tensor:
    """Return a density without symmetry, (24, 24, 24)."""
    z, y, x = torch.meshgrid(*[torch.arange(SIZE) - SIZE / 2] * 3, indexing="ij")
    blobs = ((4.0, 1.0, 0.0, 3.0), (-3.0, 4.0, 1.0, 2.0), (0.0, -3.0, -4.0, 1.5))
    return torch.stack(
        [height * torch.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 4) for a, b, c, height in blobs]
    ).sum(0)


def engine(poses: PoseMemory) -> Any:
    """Return an untrained model and poses in the form of an engine."""
    boxes = Boxes(SIZE, 8.0, SIZE, 20)
    sizes = ModelConfig(4, templateres=32, encoderres=8, estimate_pose=True)
    model = Autoencoder(sizes, PhysicsConfig(), boxes, mask_on_crop(None, boxes)).eval()
    return SimpleNamespace(model=model, poses=poses, infers_poses=True)


@dataclass(frozen=True)
class Searched:
    """Four simulated particles of two densities, and the rotations of the given poses that are drawn."""

    engine: Any
    batch: Batch
    finer: Tensor
    drawn: Tensor
    offset: Tensor

    def spectra(self, batch: Batch) -> ComparedSpectra:
        """Return what volumes are compared with at the poses of a batch."""
        return compared_spectra(self.engine.model, batch, STATE, SIZE)


def searched(kind: list[int]) -> Searched:
    """Simulate particles of densities 0 or 1: particles 0 and 1 are given 25° and 35° from their poses, 2 and 3 right.

    Particle 0 is also two voxels off.
    """
    rng = np.random.default_rng(0)
    true = torch.from_numpy(Rotation.random(4, rng).as_matrix())
    vectors = rng.normal(size=(6, 3))
    vectors *= np.radians([25.0, 35.0, 20.0, 30.0, 25.0, 40.0])[:, None] / np.linalg.norm(vectors, axis=1)[:, None]
    drawn = torch.from_numpy(Rotation.from_rotvec(vectors).as_matrix())
    given = true.clone()
    given[:2] = true[:2] @ drawn[[1, 4]].mT  # so that given times a draw is the truth
    poses = PoseMemory(
        Poses(matrix_to_euler(given).numpy(), np.zeros((4, 3))), SIZE, torch.device("cpu"), torch.tensor([0.1, 4.0])
    )
    simulated = engine(poses)
    tilts = TiltBatch.pad([tilt_table(np.arange(-60.0, 61, 4))])
    table = torch.zeros(4, dtype=torch.long)
    ctf = simulated.model.ctf(tilts, table)
    densities = torch.stack([density(), density().flip(0).transpose(1, 2)])
    posed = sample_posed(densities[kind], true.float().mT[:, None], SIZE)[:, 0]
    offset = torch.tensor([[2.0, 0.0, -1.0], [0.0] * 3, [0.0] * 3, [0.0] * 3])  # of particle 0, x, y, z
    clean = irfft3(rfft3(posed) * ctf * shift_phases(offset, SIZE, SIZE))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    batch = Batch(torch.arange(4), 4.0 * clean / clean.std() + noise, tilts, table, given.float(), torch.zeros(4, 3))
    finer = irfft3(pad_spectrum(rfft3(densities), 2 * SIZE))
    return Searched(simulated, batch, finer, drawn.float(), offset)


def test_the_drawn_pose_of_a_particle_is_found_and_right_poses_stay() -> None:
    case = searched([0, 0, 0, 0])
    found = best_poses(case.engine, case.finer[:1], case.batch, case.spectra(case.batch), case.drawn)
    assert found[:, 0].tolist() == [2, 5, 0, 0]  # numbers of the draws from 1
    assert found[0, 1:].tolist() == pytest.approx((-case.offset[0]).tolist())


def test_a_particle_of_another_kind_is_not_aligned_to_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """A false pick at its own pose resembles the mean more in another one; its own volume contradicts that."""
    kind = torch.tensor([0, 0, 1, 1])
    case = searched(kind.tolist())
    mu = torch.nn.functional.one_hot(kind, 4).float()
    monkeypatch.setattr(case.engine.model, "posterior", lambda *args: (mu, mu))
    monkeypatch.setattr(pose_search, "volumes_of", lambda model, latents, size: case.finer[latents.argmax(1)])
    found = best_poses(case.engine, case.finer[:1], case.batch, case.spectra(case.batch), case.drawn)
    assert (found[:, 0] > 0).all()
    moved = moved_batch(case.engine, found, case.batch, case.drawn)
    kept = confirmed(case.engine, found, (case.batch, case.spectra(case.batch)), (moved, case.spectra(moved)))
    assert kept[:, 0].tolist() == [2, 5, 0, 0]


@pytest.mark.parametrize(
    ("found_deg", "uncertain_deg", "wide"), [(2.0, 0.5, False), (5.0, 0.5, True), (0.5, 5.0, False), (5.0, 6.0, False)]
)
def test_poses_are_searched_where_they_deviate_by_many_degrees(
    found_deg: float, uncertain_deg: float, wide: bool
) -> None:
    """Not where the prior is wide because the data determine no pose."""
    variance = torch.tensor([np.radians(uncertain_deg) ** 2, 1.0]).float()
    memory = PoseMemory(Poses(np.zeros((3, 3)), np.zeros((3, 3))), SIZE, torch.device("cpu"), variance)
    vectors = np.radians(found_deg) * np.array([[1.0, 1.0, 1.0], [-1.0, 1.0, 1.0], [1.0, 1.0, -1.0]])
    rotations = torch.from_numpy(Rotation.from_rotvec(vectors).as_matrix()).float()
    memory.replace(torch.arange(3), rotations, torch.zeros(3, 3))
    assert wide_prior(engine(memory)) is wide
