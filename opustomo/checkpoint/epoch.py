"""Files of one epoch: weights, latents and poses."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from opustomo.checkpoint.state import WEIGHTS_NAME, require_finite, require_space
from opustomo.checkpoint.weights import write_weights
from opustomo.io.latents import write_latents
from opustomo.io.poses import Poses, write_poses
from opustomo.model.autoencoder import Autoencoder
from opustomo.model.separation import Separation


def write_epoch(
    outdir: Path,
    epoch: int,
    model: Autoencoder,
    latents: np.ndarray,
    poses: Poses,
    separation: Separation | None = None,
) -> np.ndarray:
    """Write the files of one epoch.

    The weights are written last, so that an epoch with weights is complete.

    Parameters
    ----------
    outdir, epoch, model
        Output folder, number of the epoch and model.
    latents
        Latents of all particles from the encoder, (N, zdim + zaffinedim). Conformations are written only if the decoder
        uses them.
    poses
        Poses of all particles.
    separation
        Separation that is subtracted from the compositions in z.N.pkl and written to weights.N.pkl.

    Returns
    -------
    ndarray, (N, zdim + zaffinedim) or (N, zdim)
        Written latents.

    Raises
    ------
    UserError
        If values are not finite; nothing is written in this case.
    """
    zdim = model.config.zdim
    conformation = model.config.zaffinedim > 0 and model.config.estimate_pose  # otherwise the decoder ignores it
    mu, multi = latents[:, :zdim], latents[:, zdim:] if conformation else None
    if separation is not None:
        mu = separation.apart(mu, latents[:, zdim:])
    weights = outdir / f"weights.{epoch}.pkl"
    require_finite(weights, [latents, mu, poses.eulers_deg, poses.origins, model.state_dict(), model.fixed_latent])
    write_latents(outdir / f"z.{epoch}.pkl", mu, multi)
    write_poses(outdir / f"pose.{epoch}.pkl", poses)
    write_weights(weights, model, epoch, separation)
    return mu if multi is None else np.concatenate([mu, multi], 1)


def checkpoint_bytes(model: Autoencoder, particles: int, epoch_files: bool = True) -> int:
    """Return the size in bytes of state.pkl, with both moments of the optimizer, and of the files of an epoch."""
    trained = 4 * sum(p.numel() for p in model.parameters())
    weights = 4 * sum(w.numel() for part in (model.encoder, model.decoder) if part for w in part.state_dict().values())
    mask, consensus = model.mask.numel(), 4 * model.decoder.consensus.numel()
    state_row, epoch_row = 4 * (model.config.latent_dim + 13), 4 * model.config.latent_dim + 84
    state = weights + 2 * trained + 4 * mask + consensus + particles * state_row
    return state + (weights + 2 * mask + consensus + particles * epoch_row if epoch_files else 0)


def require_room(outdir: Path, model: Autoencoder, particles: int, epoch_files: bool = True) -> None:
    """Raise ``UserError`` if state.pkl and the files of an epoch do not fit on the disk."""
    needed = checkpoint_bytes(model, particles, epoch_files)
    require_space(outdir, needed, "Free disk space and resume with --load latest.")


def prune_weights(outdir: Path, epoch: int, keep: int | None) -> list[Path]:
    """Remove all but the newest ``keep`` weights up to ``epoch``; None keeps all.

    Latents and poses, which are small, are not removed.

    Returns
    -------
    list of Path
        Removed files.
    """
    if keep is None:
        return []
    found = (WEIGHTS_NAME.fullmatch(path.name) for path in outdir.iterdir())
    epochs = sorted(number for match in found if match is not None and (number := int(match[1])) <= epoch)
    removed = [outdir / f"weights.{number}.pkl" for number in epochs[:-keep]]
    for path in removed:
        path.unlink()
    return removed
