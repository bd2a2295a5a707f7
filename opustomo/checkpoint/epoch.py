"""The files of one epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from opustomo.checkpoint.weights import write_weights
from opustomo.io.latents import write_latents
from opustomo.io.poses import Poses, write_poses
from opustomo.model.autoencoder import Autoencoder


def write_epoch(outdir: Path, epoch: int, model: Autoencoder, latents: np.ndarray, poses: Poses) -> None:
    """Write the files of one epoch; the weights come last, so that an epoch with weights is complete."""
    zdim = model.config.zdim
    multi = latents[:, zdim:] if model.config.zaffinedim else None
    write_latents(outdir / f"z.{epoch}.pkl", latents[:, :zdim], multi)
    write_poses(outdir / f"pose.{epoch}.pkl", poses)
    write_weights(outdir / f"weights.{epoch}.pkl", model, epoch)
