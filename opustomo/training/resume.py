"""Start of a run: new, from the state of an interrupted run, or from the weights of an epoch."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from opustomo.checkpoint.epoch_files import STATE_FILE, WEIGHTS_NAME, read_state
from opustomo.checkpoint.weights import (
    describe_mismatch,
    load_decoder,
    load_network,
    load_noise_and_prior,
    read_separation,
    read_weights,
)
from opustomo.data.batches import read_split
from opustomo.errors import UserError
from opustomo.io.latents import read_latents
from opustomo.io.pickles import load_torch
from opustomo.io.poses import read_poses
from opustomo.model.separation import Separation
from opustomo.training.config import RunConfig
from opustomo.training.consensus import updates_due
from opustomo.training.loop_state import TRAINING, LoopState
from opustomo.training.resume_checks import changes, listed, require_same_networks, require_same_run
from opustomo.training.run_log import RunLog
from opustomo.training.trainer import Trainer


@dataclass(frozen=True)
class Start:
    """State to restore before the first step.

    Attributes
    ----------
    state
        Complete state, with which the run continues as if it had not stopped.
    folder
        Folder that the state comes from.
    weights
        weights.N.pkl with the networks; the state of the optimizer is initialized.
    latents
        z.N.pkl for the latents; None for the file beside the weights, if it exists.
    note
        Note for the log.
    """

    state: dict[str, Any] | None = None
    folder: Path | None = None
    weights: Path | None = None
    latents: Path | None = None
    note: str | None = None

    @property
    def is_new(self) -> bool:
        """Whether the run starts with untrained networks."""
        return self.state is None and self.weights is None

    @property
    def norm(self) -> tuple[float, float] | None:
        """Normalization of the voxels in the run that is resumed."""
        return None if self.state is None else (self.state["norm"][0], self.state["norm"][1])

    @property
    def per_particle(self) -> bool | None:
        """Whether that run divides each subtomogram by its own deviation; earlier versions did not."""
        return None if self.state is None else bool(self.state.get("scale_per_particle", False))

    @property
    def divide(self) -> bool | None:
        """Whether that run divides subtomograms by their sampling weights; earlier versions did not."""
        return None if self.state is None else bool(self.state.get("divide", False))

    @property
    def particles_seen(self) -> int | None:
        """Training visits before the point from which a run goes on, None for a run that starts."""
        return None if self.state is None else LoopState.from_dict(self.state["progress"]).particles_seen

    def apply(self, trainer: Trainer, log: RunLog) -> None:
        """Restore ``trainer`` and log what was restored."""
        if self.note:
            log.say(f"# {self.note}")
        if self.state is not None:
            try:
                trainer.load_state(self.state)
            except (RuntimeError, ValueError, KeyError) as error:
                raise UserError(
                    f"{trainer.run.outdir / STATE_FILE} does not fit this run: "
                    f"{describe_mismatch(self.state.get('model', {}), trainer.model)}. "
                    "Resume with the options of the first start."
                ) from error
            log.say(f"# resuming at epoch {trainer.progress.epoch} after {trainer.progress.particles_seen} visits")
        elif self.weights is not None:
            _restore_weights(trainer, self.weights, self.latents, log)


def choose_start(run: RunConfig, particles: int) -> Start:
    """Return where the run starts, from ``--load`` and the existing files.

    Raises
    ------
    UserError
        If the folder contains a run and ``--load`` and ``--overwrite`` are not given, or a file to load is missing or
        belongs to another set.
    """
    here = run.outdir / STATE_FILE
    if run.load is None:
        if here.exists() and not run.overwrite:
            raise UserError(
                f"{run.outdir} contains the state of a run. Resume it with --load latest, choose another folder with "
                "-o, or replace it with --overwrite."
            )
        return Start()
    if run.load == "latest":
        state = read_state(run.outdir)
        if state is None:
            return Start(note=f"{run.outdir} contains no state to resume, so the training starts at the beginning")
        return Start(state=_checked(state, here, particles), folder=run.outdir)
    path = Path(run.load)
    if run.latents is not None and not run.latents.is_file():
        raise UserError(f"--latents {run.latents} does not exist. Give a z.N.pkl, or omit it to use that of --load.")
    if not path.exists():
        raise UserError(f"--load {path} does not exist. Give a weights.N.pkl, or latest.")
    if path.parent.resolve() != run.outdir.resolve() and here.exists() and not run.overwrite:
        raise UserError(
            f"{run.outdir} contains the state of another run. Choose another folder with -o, or replace it with "
            "--overwrite."
        )
    state, epoch, note = read_state(path.parent), epoch_of(path), None
    if state is not None and epoch is not None and state.get("particles") == particles:
        progress = LoopState.from_dict(state["progress"])
        own_latents = run.latents is None or run.latents.resolve() == path.with_name(f"z.{epoch}.pkl").resolve()
        if own_latents and progress.epoch == epoch + 1 and progress.step == 0 and progress.kind == TRAINING:
            note = f"{path.parent / STATE_FILE} holds the full state after that epoch"
            return Start(state=state, folder=path.parent, note=note)
        if (progress.epoch, progress.step) > (epoch + 1, 0):
            note = (
                f"{path.parent / STATE_FILE} is of a later step: --load latest would resume in epoch {progress.epoch}"
            )
    return Start(weights=path, latents=run.latents, note=note)


def checked_start(start: Start, run: RunConfig, settings: Mapping[str, Any]) -> Start:
    """Check that the settings fit the run that is resumed, and return where to start.

    A state requires the same settings. Weights of an epoch require the same networks only; if the comparison differs,
    the state of the optimizer is initialized.

    Raises
    ------
    UserError
        If an option changes a setting that the run keeps, or the networks.
    """
    if run.load == "latest":
        if start.state is not None:
            require_same_run(run.outdir, settings)
        return start
    if run.load is None:
        return start
    weights = Path(run.load)
    try:
        found = changes(weights.parent, settings) or []
    except UserError:  # a config.pkl of others; the weights say themselves whether they fit
        found = []
    require_same_networks(weights, found)
    if not found:
        return start
    note = f"{listed(found)} in the run of these weights"
    return Start(weights=weights, latents=run.latents, note=note)


def earlier_split(run: RunConfig, particles: int) -> np.ndarray | None:
    """Return the split of the run that ``--load`` resumes; None if it has none for this number of particles.

    Held-out particles remain held out, regardless of the seed or file of the split.
    """
    folder = run.outdir if run.load in (None, "latest") else Path(str(run.load)).parent
    path = folder / "split.pkl"
    if not path.exists():
        return None
    load_torch(path)  # a damaged one is refused
    try:
        return read_split(path, particles)
    except UserError:
        return None


def epoch_of(path: Path) -> int | None:
    """Return N for a file named weights.N.pkl, else None."""
    match = WEIGHTS_NAME.fullmatch(path.name)
    return int(match.group(1)) if match else None


def resume_command(command: tuple[str, ...]) -> str:
    """Return the command line that resumes a stopped run."""
    words = list(command)
    for option in ("--load", "--latents"):
        while option in words:
            at = words.index(option)
            del words[at : at + 2]
    words = [word for word in words if word != "--overwrite" and not word.startswith(("--load=", "--latents="))]
    return shlex.join([*words, "--load", "latest"])


def _checked(state: dict[str, Any], path: Path, particles: int) -> dict[str, Any]:
    if state.get("particles") != particles:
        raise UserError(
            f"{path} is the state of a run with {state.get('particles')} particles, but now there are {particles}. "
            "Give the same STAR file and --ind."
        )
    return state


def _restore_weights(trainer: Trainer, path: Path, latents: Path | None, log: RunLog) -> None:
    content = read_weights(path)
    model, progress = trainer.model, trainer.progress
    stored: dict[str, Any] = content["decoder_state_dict"]
    network: nn.Module = model.decoder
    try:
        new_head = load_decoder(model.decoder, content)
        if model.encoder is not None:
            stored, network = content.get("encoder_state_dict", {}), model.encoder
            load_network(model.encoder, stored)
        load_noise_and_prior(model, content)
        if "fixed_latent" in content:
            model.fixed_latent.copy_(content["fixed_latent"])
    except (RuntimeError, KeyError) as error:
        raise UserError(
            f"{path} does not fit this run: {describe_mismatch(stored, network)}. "
            "Give the options of the run that it comes from."
        ) from error
    if new_head:
        log.say("# note: these weights have no pose head, so --estpose starts with a new one")
    epoch = epoch_of(path)
    if epoch is not None:
        progress.epoch = epoch + 1
        progress.particles_seen = progress.epoch * len(trainer.members[TRAINING])
        progress.consensus_updates = updates_due(progress.particles_seen, len(trainer.members[TRAINING]))
        poses = _existing(path.with_name(f"pose.{epoch}.pkl"))
        if poses is not None and model.config.estimate_pose:
            refined = read_poses(poses)
            if len(refined) == len(trainer.particles):
                trainer.engine.poses.set_poses(refined)
            else:
                log.say(f"# note: {poses} holds {len(refined)} poses of another set, so the given poses are used")
    _restore_latents(trainer, path, content, latents, log)
    if model.encoder is None and "fixed_latent" not in content:  # the original's
        model.fixed_latent.copy_(trainer.engine.latents.values[0])
    log.say(
        f"# resuming at epoch {progress.epoch} after {progress.particles_seen} visits with the networks of {path}; "
        "the state of the optimizer is initialized"
    )


def _restore_latents(trainer: Trainer, weights: Path, content: dict[str, Any], asked: Path | None, log: RunLog) -> None:
    """Restore the given latents, or those beside the weights if they belong to this set, as they were encoded."""
    epoch, memory = epoch_of(weights), trainer.engine.latents.values
    path = _existing(weights.with_name(f"z.{epoch}.pkl")) if asked is None and epoch is not None else asked
    if path is None:
        return
    mu, multi = read_latents(path)
    stored = mu if multi is None else np.concatenate([mu, multi], 1)
    sizes = trainer.model.config
    if multi is None and not sizes.estimate_pose:  # conformations, which nothing reads then, start anew
        memory = memory[:, : sizes.zdim]
    if stored.shape == tuple(memory.shape):
        if multi is not None:
            separation = _separation_of(path, weights, content, (mu.shape[1], multi.shape[1]))
            stored = stored if separation is None else np.concatenate([separation.together(mu, multi), multi], 1)
        memory.copy_(torch.from_numpy(stored))
    elif asked is None:
        log.say(f"# note: {path} belongs to another particle set, so the latents are initialized")
    else:
        raise UserError(
            f"{path} contains latents of shape {stored.shape}, but this run requires {tuple(memory.shape)}. "
            "Give the z.N.pkl of this particle set and model."
        )


def _separation_of(latents: Path, loaded: Path, content: dict[str, Any], sizes: tuple[int, int]) -> Separation | None:
    """Return the separation of ``latents``, from the weights of their epoch if they exist, else from the loaded."""
    match = re.fullmatch(r"z\.(\d+)\.pkl", latents.name)
    own = None if match is None else _existing(latents.with_name(f"weights.{match[1]}.pkl"))
    if own is not None and own.resolve() != loaded.resolve():
        return read_separation(read_weights(own), own, *sizes)
    return read_separation(content, loaded, *sizes)


def _existing(path: Path) -> Path | None:
    return path if path.exists() else None
