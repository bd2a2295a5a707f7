"""Body motion recovered from independently simulated subtomograms with CTF and missing wedge.

Networks are replaced by what they would have learnt: the true consensus as template, and free rows for every particle,
which descend the step's own energies.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from opustomo.data.batches import load_batches
from opustomo.data.config import DataConfig
from opustomo.data.particles import load_particles
from opustomo.data.voxels import VoxelSource
from opustomo.dynamics.body_masks import center_of_mass, geometry_of_densities
from opustomo.geometry.rigid_bodies import RigidMotions, screw_of
from opustomo.model import autoencoder
from opustomo.model.autoencoder import Autoencoder
from opustomo.model.config import ModelConfig, PhysicsConfig
from opustomo.model.step_records import Batch, Inference, StepState
from opustomo.physics.body_motion import nominal_motion
from opustomo.physics.boxes import Boxes
from opustomo.physics.ctf import TiltBatch
from opustomo.simulate.acquisition import regular_scheme
from opustomo.simulate.dataset import SimulationConfig, simulate_dataset
from opustomo.simulate.volumes import gather_volumes

COUNT, APIX = 6, 12.0
ANGLES = np.array([-12.0, 12.0])


def turned(volume: np.ndarray, axis: np.ndarray, centre: np.ndarray, angle_deg: float) -> np.ndarray:
    back = Rotation.from_rotvec(np.radians(angle_deg) * axis).as_matrix().T[::-1, ::-1]
    middle = centre[::-1] + len(volume) // 2
    return ndimage.affine_transform(volume, back, middle - back @ middle, order=3)


class KnownTemplate(nn.Module):
    """Gives one volume, and rows that are parameters; body 1 keeps still, so that the particle's frame is fixed."""

    def __init__(self, volume: Tensor) -> None:
        super().__init__()
        self.volume = volume
        self.rows = nn.Parameter(torch.zeros(COUNT, 1, 6))

    def forward(self, composition: Tensor) -> Tensor:
        return self.volume.expand(len(composition), -1, -1, -1)

    def pose_rows(self, conformation: Tensor) -> Tensor:
        still = torch.zeros_like(self.rows)
        return torch.cat([still, self.rows, still], dim=1)


@pytest.mark.slow
def test_turned_bodies_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (fixed, moving), _ = gather_volumes([], ["50S", "30S"], APIX, 32)
    fixed, moving = np.maximum(fixed, 0), np.maximum(moving, 0)
    centre = center_of_mass(moving)
    # oblique to the line between the bodies: a turn about the lever alone could hide a wrong frame
    axis = np.array([0.6, -0.5, -0.62]) / np.linalg.norm([0.6, -0.5, -0.62])
    states = np.stack([fixed + turned(moving, axis, centre, angle) for angle in ANGLES]).astype(np.float32)
    scheme = regular_scheme(-60.0, 60.0, 4.0, 1.0)
    config = SimulationConfig(count=COUNT, apix=APIX, scheme=scheme, snr=np.inf, shift=1.0)
    simulate_dataset(states, config, tmp_path / "a set")
    labels = np.load(tmp_path / "a set" / "truth.npz")["labels"]

    particles = load_particles(DataConfig(tmp_path / "a set" / "particles.star"))
    boxes = Boxes(32, APIX, 32, 28)
    geometry = geometry_of_densities(np.stack([fixed, moving]), 1.0, (1, 0))
    crop = torch.from_numpy((fixed + moving)[2:-2, 2:-2, 2:-2].copy())[None]
    stub = KnownTemplate(crop)

    class Known(nn.Module):
        def __init__(self, *sizes: int) -> None:
            super().__init__()
            self.template = stub

        def forward(self, composition: Tensor) -> Tensor:
            return self.template(composition)

    monkeypatch.setattr(autoencoder, "Decoder", Known)
    model = Autoencoder(
        ModelConfig(2, 2, 32, encode_mode="fixed", estimate_pose=True, bodies=geometry),
        PhysicsConfig(ctf_normalized=True, jitter=False),
        boxes,
        torch.ones(28, 28, 28),
    )
    model.candidates = torch.eye(3)[None]
    every = np.arange(COUNT)
    ((_, voxels),) = load_batches(
        VoxelSource(particles.images), [every], torch.device("cpu"), (0.0, 1.0), 1, lambda index, reason: None
    )
    batch = Batch(
        torch.arange(COUNT),
        voxels,
        TiltBatch.pad(particles.tables),
        torch.from_numpy(particles.table),
        torch.from_numpy(particles.poses.rotations),
        torch.from_numpy(particles.poses.origins * 32).float(),
    )
    state = StepState(4.0, 0.5, 0.5, 1.0, torch.tensor(0.05), None)
    with torch.no_grad():
        inferred: Inference = model.inference(batch, state)
    optimizer = torch.optim.Adam([stub.rows], lr=0.4)
    for _ in range(35):
        energies = model.generative(batch, inferred, state).energies
        loss = energies.total.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    with torch.no_grad():
        motion = model.pose_correction(inferred.z).motion
        bodies = model.posing.bodies
        assert motion is not None and bodies is not None
        turn, shift = nominal_motion(motion, bodies)
    motions = RigidMotions(turn.double().numpy(), shift.double().numpy() / boxes.grid_per_pixel)
    relative = motions[:, 0].inverse().after(motions[:, 1])
    for i, label in enumerate(labels):
        screw = screw_of(relative[i])
        assert screw.axis @ axis * np.sign(ANGLES[label]) > np.cos(np.radians(10.0))
        assert 0.75 * 12.0 < screw.angle_deg < 1.15 * 12.0
        assert np.linalg.norm(relative[i].apply(centre) - centre) < 0.5
