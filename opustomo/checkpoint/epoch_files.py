"""Files of one epoch (weights, latents, poses) and the training state (state.pkl), from which a run resumes exactly."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from opustomo.checkpoint.weights import write_weights
from opustomo.errors import UserError
from opustomo.io.latents import write_latents
from opustomo.io.pickles import dump_torch, load_torch
from opustomo.io.poses import Poses, write_poses
from opustomo.model.autoencoder import Autoencoder
from opustomo.model.separation import Separation


def require_finite(path: Path, content: Any) -> None:
    """Check that all values are finite before ``path`` is replaced.

    Raises
    ------
    UserError
        If a tensor, array or number in nested containers is not finite.
    """
    bad = list(_not_finite(content, ""))
    if bad:
        more = f" and {len(bad) - 1} others" if len(bad) > 1 else ""
        raise UserError(
            f"{path} was not written, because {bad[0]}{more} contains values that are not finite. The files of earlier "
            "epochs are unchanged. Continue from one of them with --load weights.N.pkl and a lower --lr."
        )


def _not_finite(content: Any, name: str) -> Iterator[str]:
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _not_finite(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, (list, tuple)):
        for index, value in enumerate(content):
            yield from _not_finite(value, f"{name}[{index}]")
    elif isinstance(content, torch.Tensor):
        if not bool(torch.isfinite(content).all()):
            yield name
    elif isinstance(content, np.ndarray) and content.dtype.kind in "fc":
        if not np.isfinite(content).all():
            yield name
    elif isinstance(content, float) and not math.isfinite(content):
        yield name


STATE_FILE = "state.pkl"
WEIGHTS_NAME = re.compile(r"weights\.(\d+)\.pkl")
_MARGIN = 1.05


def require_space(folder: Path, needed_bytes: int, advice: str) -> None:
    """Check the free disk space before files are overwritten.

    Parameters
    ----------
    folder
        Output folder, which need not exist.
    needed_bytes
        Size of the files.
    advice
        Last sentence of the error message.

    Raises
    ------
    UserError
        If the free space is less than 1.05 times ``needed_bytes``.
    """
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < needed_bytes * _MARGIN:
        raise UserError(
            f"{folder} has {free / 1e6:.0f} MB of free disk space, but a checkpoint requires "
            f"{needed_bytes * _MARGIN / 1e6:.0f} MB. No file was overwritten. {advice}"
        )


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Replace the state.pkl of a run; raise ``UserError`` if the state contains values that are not finite."""
    require_finite(folder / STATE_FILE, state)
    dump_torch(folder / STATE_FILE, state)


def read_state(folder: Path) -> dict[str, Any] | None:
    """Read the state of a run, or return None if there is none.

    Raises
    ------
    UserError
        If the file is damaged or not a training state.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return None
    try:
        state = load_torch(path)
    except UserError as error:
        newest = newest_weights(folder)
        if newest is None:
            raise
        raise UserError(
            f"{str(error).rstrip('.')}. Use --load {newest} to continue from the newest weights."
        ) from error
    if not isinstance(state, dict) or "progress" not in state:
        raise UserError(f"{path} is not the state of a training run. Remove it, or choose another folder with -o.")
    return state


def newest_weights(folder: Path) -> Path | None:
    """Return the weights.N.pkl with the largest N in a folder, or None."""
    found = {int(match[1]): path for path in folder.iterdir() if (match := WEIGHTS_NAME.fullmatch(path.name))}
    return found[max(found)] if found else None


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


def prune_weights(outdir: Path, epoch: int, keep: int | None, best: int | None = None) -> list[Path]:
    """Remove all but the newest ``keep`` weights up to ``epoch`` and those of the epoch ``best``; None keeps all.

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
    removed = [outdir / f"weights.{number}.pkl" for number in epochs[:-keep] if number != best]
    for path in removed:
        path.unlink()
    return removed
