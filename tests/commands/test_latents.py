"""Content of z.N.pkl of a trained run."""

from pathlib import Path

import numpy as np
import torch

from opustomo.data.particles import load_particles
from opustomo.data.voxels import VoxelSource
from opustomo.io.latents import read_latents
from opustomo.io.poses import read_poses
from opustomo.physics.ctf import TiltBatch
from opustomo.quality.evidence.trained_model import data_of_run, load_model, norm_of_run


def test_latents_follow_from_the_encoder_of_their_epoch(trained_run: Path) -> None:
    """Of training and held-out particles alike, at the poses written beside them.

    Conformations are means of the encoder. Compositions are averages over those of the encoder, weighted by the
    likelihood, so that none lies outside their range.
    """
    config = trained_run / "config.pkl"
    particles = load_particles(data_of_run(config))
    source = VoxelSource(particles.images, cache_bytes=0)
    shift, scale = norm_of_run(config)
    voxels = np.stack([source.read(i) for i in range(len(particles))]).astype(np.float32)
    poses = read_poses(trained_run / "pose.1.pkl")
    model = load_model(trained_run / "weights.1.pkl", config, "cpu")
    expected = model.encode(
        torch.from_numpy((voxels - shift) / scale),
        torch.from_numpy(poses.rotations).float(),
        torch.from_numpy(poses.origins * particles.box).float(),
        TiltBatch.pad(particles.tables),
        torch.from_numpy(particles.table),
    )
    mu, conformation = read_latents(trained_run / "z.1.pkl")
    assert conformation is not None
    np.testing.assert_allclose(conformation, expected[:, 2:].numpy(), atol=1e-4)
    lowest, highest = expected[:, :2].numpy().min(0), expected[:, :2].numpy().max(0)
    assert (mu > lowest - 1e-4).all() and (mu < highest + 1e-4).all() and np.ptp(mu, axis=0).min() > 0
