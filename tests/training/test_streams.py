"""Side streams of a step do not change its results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from opustomo.data.config import DataConfig
from opustomo.data.particles import load_particles
from opustomo.data.voxels import VoxelSource, pooled_std
from opustomo.model.autoencoder import Autoencoder
from opustomo.model.config import ModelConfig, PhysicsConfig
from opustomo.model.streams import POSES, SideStreams
from opustomo.physics.boxes import Boxes, mask_on_crop
from opustomo.training.config import RunConfig, TrainingConfig
from opustomo.training.processes import StopRequest
from opustomo.training.run_log import RunLog
from opustomo.training.trainer import Trainer


def test_a_cpu_has_no_branches() -> None:
    streams = SideStreams()
    streams.enabled = True
    streams.fork(POSES, torch.device("cpu"))
    with streams.on(POSES):
        assert torch.ones(2).sum() == 2
    streams.join(POSES)


def trained(star: Path, outdir: Path, branches: bool) -> Trainer:
    particles = load_particles(DataConfig(star))
    boxes = Boxes.from_window(particles.box, particles.apix)
    torch.manual_seed(0)
    model = Autoencoder(
        ModelConfig(4, templateres=32, encoderres=8, estimate_pose=True),
        PhysicsConfig(ctf_normalized=True),
        boxes,
        mask_on_crop(None, boxes),
    ).to("cuda")
    outdir.mkdir()
    source = VoxelSource(particles.images)
    trainer = Trainer(
        model,
        particles,
        source,
        (0.0, pooled_std(source, len(particles))),
        (np.arange(12), np.arange(12, 16)),
        TrainingConfig(epochs=6, batch_size=4, lr=1e-4, valfrac=0.25),
        RunConfig(outdir, "cuda", checkpoint=10**6, log_interval=10**6, workers=1),
        RunLog(None),
    )
    assert model.streams.enabled
    model.streams.enabled = branches
    trainer.prepare()
    trainer.update_consensus()
    trainer.fit(StopRequest())
    return trainer


@pytest.mark.cuda
def test_recorded_steps_with_branches_give_the_same_weights_and_poses(tiny_set: Path, tmp_path: Path) -> None:
    """A GPU adds in any order; a race would change poses or averages by far more."""
    star = tiny_set / "particles.star"
    plain, beside = (trained(star, tmp_path / str(branches), branches) for branches in (False, True))
    for name in ("turn", "shift_px", "variance"):
        first, second = (getattr(trainer.engine.poses, name) for trainer in (plain, beside))
        torch.testing.assert_close(first, second, rtol=0.02, atol=2e-3)
    torch.testing.assert_close(plain.engine.latents.values, beside.engine.latents.values, rtol=0.05, atol=5e-3)
    for first, second in zip(plain.model.noise, beside.model.noise, strict=True):
        torch.testing.assert_close(first, second, rtol=5e-3, atol=1e-3)
    torch.testing.assert_close(plain.engine.snr, beside.engine.snr, rtol=0.02, atol=1e-6)
