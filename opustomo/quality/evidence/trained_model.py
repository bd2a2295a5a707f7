"""Particles and model of a run, restored from ``config.pkl`` and the weights, and the loss of each particle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from opustomo.checkpoint.config import read_config, stored_path, with_present_names
from opustomo.checkpoint.weights import (
    describe_mismatch,
    focus_mask,
    load_decoder,
    load_network,
    load_noise_and_prior,
    read_weights,
    solvent_mask,
)
from opustomo.data.batches import load_batches, read_split, training_count
from opustomo.data.config import DataConfig
from opustomo.data.particles import ParticleSet
from opustomo.data.voxels import VoxelSource, examine_scale
from opustomo.errors import UserError
from opustomo.io.pickles import load_pickles
from opustomo.io.progress_bar import progress
from opustomo.model.autoencoder import Autoencoder
from opustomo.model.config import PhysicsConfig
from opustomo.model.step_records import Batch, StepState
from opustomo.physics.ctf import TiltBatch

USUAL_VALFRAC = 0.2
_PATHS = ("star", "poses", "mask", "focus", "datadir", "ind")


def data_of_run(config: Path, star: Path | None = None, **changes: Any) -> DataConfig:
    """Return the input settings of a run from its ``config.pkl``, with given values replaced.

    Parameters
    ----------
    config
        ``config.pkl`` of the run.
    star
        Particle table that replaces the stored one; None keeps it.
    changes
        Fields of :class:`DataConfig` to replace; None keeps the stored value.

    Raises
    ------
    UserError
        If the particle table is neither given nor stored, or if it does not exist.
    """
    settings = read_config(config)[2]
    remembered: dict[str, Any] = {}
    if settings.get("opustomo") is not None:
        stored = settings.get("dataset_args", {})
        known = {field.name for field in fields(DataConfig)}
        remembered = {name: value for name, value in stored.items() if name in known}
        remembered.pop("norm", None)
        given = {name: Path(str(remembered[name])) for name in _PATHS if remembered.get(name) is not None}
        remembered |= {name: stored_path(path, config) for name, path in given.items()}
    remembered["star"] = star if star is not None else remembered.get("star")
    if remembered["star"] is None:
        raise UserError(f"{config} does not contain the STAR file used for training. Give the STAR file.")
    if not remembered["star"].is_file():
        raise UserError(f"The STAR file {remembered['star']} does not exist. Give the STAR file used for training.")
    data = DataConfig(**remembered)
    return replace(data, **{name: value for name, value in changes.items() if value is not None})


def norm_of_run(config: Path) -> tuple[float, float]:
    """Return the shift and scale of the voxel normalization of a run."""
    shift, scale = read_config(config)[2]["dataset_args"]["norm"]
    return float(shift), float(scale)


def divides_per_particle(config: Path) -> bool:
    """Return whether a run divided each subtomogram by its standard deviation before applying the common scale."""
    return bool(read_config(config)[2]["dataset_args"].get("scale_per_particle", False))


def physics_of_run(settings: Mapping[str, Any]) -> PhysicsConfig:
    """Return the physics settings of a run from its ``config.pkl``, with defaults for missing values."""
    stored = (with_present_names(settings).get("opustomo") or {}).get("physics", {})
    known = {field.name for field in fields(PhysicsConfig)}
    return PhysicsConfig(**{name: value for name, value in stored.items() if name in known})


def load_model(weights: Path, config: Path, device: str) -> Autoencoder:
    """Load the complete model of an epoch in evaluation mode.

    Parameters
    ----------
    weights, config
        ``weights.N.pkl`` and ``config.pkl`` of a run of opustomo.
    device
        Device of the model, ``cpu`` or ``cuda``.

    Raises
    ------
    UserError
        If the files are missing, belong to different runs, or contain no mask.
    """
    sizes, boxes, settings = read_config(config)
    content = read_weights(weights)
    mask = solvent_mask(content, weights, boxes.crop)
    if mask is None:
        raise UserError(
            f"{weights} contains no mask, so the comparison with the data cannot be repeated. Train with opustomo."
        )
    focus = focus_mask(content, boxes.crop)
    model = Autoencoder(sizes, physics_of_run(settings), boxes, mask, focus=focus)
    stored: Mapping[str, Any] = content["decoder_state_dict"]
    network: nn.Module = model.decoder
    try:
        load_decoder(model.decoder, content)
        if model.encoder is not None:
            stored, network = content.get("encoder_state_dict", {}), model.encoder
            load_network(model.encoder, stored)
    except (RuntimeError, KeyError) as error:
        raise UserError(
            f"The network in {weights} does not match {config}: {describe_mismatch(stored, network)}. "
            "Give both files of the same run."
        ) from error
    load_noise_and_prior(model, content)
    if "fixed_latent" in content:
        model.fixed_latent.copy_(content["fixed_latent"])
    return model.to(device).eval()


def held_out_particles(config: Path, count: int) -> np.ndarray:
    """Return the ascending indices of the particles that a run of `count` particles held out from training.

    The permutation of the particles is read from ``split.pkl`` in the folder of ``config.pkl``, and the fraction of
    held-out particles from the settings or, if absent, from the stored command line.
    """
    split = config.with_name("split.pkl")
    if not split.is_file():
        return np.empty(0, dtype=np.int64)
    permutation = read_split(split, count)
    return np.sort(permutation[training_count(count, _valfrac(config)) :])


def _valfrac(config: Path) -> float:
    settings, about = load_pickles(config)[:2]
    stored = settings.get("dataset_args", {}).get("valfrac")
    if stored is not None:
        return float(stored)
    words = [str(word) for word in about.get("cmd", [])]
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, _, value = word.partition("=")
        if name == "--valfrac":
            try:
                return float(value or following)
            except ValueError:
                break
    return USUAL_VALFRAC


@dataclass(frozen=True)
class ComparisonSettings:
    """How the training compares voxels with the model.

    Attributes
    ----------
    norm
        Shift and scale of the voxels.
    bfactor_A2
        B factor of the comparison at the epoch of the model.
    per_particle
        Whether each subtomogram was divided by its own standard deviation.
    """

    norm: tuple[float, float]
    bfactor_A2: float
    per_particle: bool = False


@torch.no_grad()
def particle_losses(
    model: Autoencoder,
    particles: ParticleSet,
    indices: np.ndarray,
    settings: ComparisonSettings,
    batch_size: int = 8,
    workers: int = 2,
) -> np.ndarray:
    """Return the generative loss of each particle, as validation computes it: no augmentation, z = mu.

    Parameters
    ----------
    model
        In evaluation mode, on its device.
    particles
        The set, with the poses to be used.
    indices
        Particle indices, (n,).
    settings
        How the training compares voxels with the model.
    batch_size, workers
        Number of particles per batch and of prefetching threads.

    Returns
    -------
    ndarray
        (n,) float64, ``Σ x² - 2 Σ x r`` over N_norm (docs/method.md, sections 3 and 7): 0 for a model that explains
        nothing, and lower for a model that explains more; NaN for a subtomogram that cannot be used. Poses were
        inferred from the same data, so the gain that this brings on average is added.
    """
    device = model.mask.device
    tilts = TiltBatch.pad(particles.tables).to(device)
    table = torch.from_numpy(particles.table)
    rotations = torch.from_numpy(particles.poses.rotations)
    origins = torch.from_numpy((particles.poses.origins * particles.box).astype(np.float32))
    # pose.N.pkl holds poses as corrected
    state = StepState(settings.bfactor_A2, 0.0, 0.0, 0.0, torch.tensor(0.0, device=device), None, moves_pose=False)
    inferred = model.config.estimate_pose and not model.physics.original
    losses = np.full(len(particles), np.nan)
    batches = [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]
    source = VoxelSource(particles.images, cache_bytes=0)
    examine_scale(source, len(particles), settings.per_particle)
    with progress(len(indices), "held-out particles") as advance:
        for chosen, volumes in load_batches(
            source, batches, device, settings.norm, workers, lambda index, reason: None
        ):
            if len(chosen):
                index = torch.from_numpy(chosen)
                distinct, rows = torch.unique(table[index], return_inverse=True)
                batch = Batch(
                    index.to(device),
                    volumes,
                    tilts[distinct.to(device)],
                    rows.to(device),
                    rotations[index].to(device),
                    origins[index].to(device),
                    deviation=torch.zeros(len(index), 6, device=device) if inferred else None,
                )
                generated = model.generative(batch, model.inference(batch, state), state)
                losses[chosen] = model.reconstruction(generated, held_out=True)[0].double().cpu().numpy()
            advance(len(chosen))
    return losses[indices]
