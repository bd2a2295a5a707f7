"""Validation of an analysed run: the work of ``dsdsh validate``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from opustomo.analysis.results import ResultDir, Round
from opustomo.analysis.selection import load_labels
from opustomo.checkpoint.config import read_config
from opustomo.data.particles import ParticleSet, load_mask, load_particles
from opustomo.errors import UserError
from opustomo.evaluate.clusters import validate_clusters
from opustomo.evaluate.files import write_validation
from opustomo.evaluate.heldout import particle_losses
from opustomo.evaluate.inputs import (
    held_out_particles,
    load_model,
    remembered_data,
    remembered_norm,
    remembered_per_particle,
    remembered_physics,
)
from opustomo.model.device import choose_device
from opustomo.training.schedules import bfactor_at


@dataclass(frozen=True)
class ValidationRequest:
    """Which clusters to validate; inputs that are None are those of the training.

    Attributes
    ----------
    results, which, num_clusters, folder
        The run, the round of analysis, K, and the name of the clustering's folder (``kmeans{K}``).
    star, mask, datadir, ind, apix, warp, ctf_normalised
        Inputs, where they changed since.
    likelihood
        Also the generative loss of the held-out particles.
    batch_size, workers, device
        Held-out particles at a time, threads that read ahead, where to compute.
    """

    results: ResultDir
    which: Round
    num_clusters: int
    folder: str
    star: Path | None = None
    mask: Path | None = None
    datadir: Path | None = None
    ind: Path | None = None
    apix: float | None = None
    warp: bool = False
    ctf_normalised: bool = False
    likelihood: bool = True
    batch_size: int = 8
    workers: int = 2
    device: str | None = None


def validate_run(request: ValidationRequest, say: Callable[[str], None] = print) -> list[Path]:
    """Write the evidence for each cluster into the folder of the clustering; returns the files.

    Raises
    ------
    UserError
        The analysis or an input is missing, or they do not belong together.
    """
    results, epoch = request.results, request.which.epoch
    path = results.analysed_file(request.which, request.folder, "labels.pkl")
    labels = load_labels(path)
    config = results.config()
    data = remembered_data(
        config,
        request.star,
        poses=results.epoch_file("pose", epoch),
        mask=request.mask,
        datadir=request.datadir,
        ind=request.ind,
        apix=request.apix,
        warp=request.warp or None,
    )
    device = choose_device(request.device)
    particles = load_particles(data)
    if len(particles) != len(labels):
        raise UserError(
            f"{data.star} has {len(particles)} particles but {path} has {len(labels)} labels; "
            "give the STAR file that was used for training"
        )
    mask = load_mask(data.mask, particles.box, particles.apix, data.force)
    held_out, losses = np.empty(0, dtype=np.int64), np.empty(0)
    if request.likelihood:
        held_out, losses = _held_out(request, config, particles, labels, device, say)
    physics = remembered_physics(read_config(config)[2])
    validation = validate_clusters(
        particles,
        labels,
        request.num_clusters,
        mask,
        held_out,
        losses,
        ctf_normalised=request.ctf_normalised or physics.ctf_normalised,
        device=device,
        workers=request.workers,
    )
    if validation.left_out:
        say(f"{len(validation.left_out)} subtomograms are left out, the first because {validation.left_out[0]}.")
    say(f"Half sets: {validation.half_origin}. FSC {'without a mask' if mask is None else f'inside {data.mask}'}.")
    return write_validation(path.parent, validation, particles.apix)


def _held_out(
    request: ValidationRequest,
    config: Path,
    particles: ParticleSet,
    labels: np.ndarray,
    device: str,
    say: Callable[[str], None],
) -> tuple[np.ndarray, np.ndarray]:
    """Held-out particles that belong to a cluster, and their losses."""
    epoch = request.which.epoch
    held_out = held_out_particles(config, len(particles))
    held_out = held_out[labels[held_out] < request.num_clusters]
    weights = request.results.root / f"weights.{epoch}.pkl"
    if not len(held_out):
        say("No likelihood: the run held no particle of these clusters out.")
    elif not weights.is_file():
        say(f"No likelihood: {weights} does not exist.")
        held_out = held_out[:0]
    if not len(held_out):
        return held_out, np.empty(0)
    model = load_model(weights, config, device)
    if read_config(config)[2].get("opustomo") is None:
        say(f"Note: {config} of OPUS-TOMO does not hold the settings of the comparison; defaults are used.")
    bfactor = bfactor_at(model.physics.bfactor_A2, epoch)
    losses = particle_losses(
        model,
        particles,
        held_out,
        remembered_norm(config),
        bfactor,
        request.batch_size,
        request.workers,
        remembered_per_particle(config),
    )
    say(f"Generative loss of {len(held_out)} held-out particles: {np.nanmean(losses):.6f} on average.")
    return held_out, losses
