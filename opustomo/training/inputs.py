"""Inputs of a training run: everything that is read, checked and decided before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opustomo.checkpoint.config import dataset_settings, read_config, run_settings
from opustomo.checkpoint.epoch_files import STATE_FILE
from opustomo.checkpoint.weights import read_weights, solvent_mask
from opustomo.data.batches import read_split, split_particles, training_count
from opustomo.data.config import DataConfig
from opustomo.data.particles import ParticleSet, load_particles
from opustomo.data.voxels import ScaleReport, VoxelSource, examine_scale, pooled_std
from opustomo.errors import UserError
from opustomo.io.body_files import load_bodies
from opustomo.io.masks import load_mask
from opustomo.io.mrc import pixel_sizes_differ
from opustomo.model.config import ModelConfig, PhysicsConfig
from opustomo.physics.boxes import DEFAULT_WINDOW, Boxes, crop_window, mask_on_crop
from opustomo.physics.sampling import resample_cube
from opustomo.quality.checks.gpu_memory import require_training_memory
from opustomo.quality.checks.inspection import PlannedRun
from opustomo.quality.checks.reconstruction_kind import Divided, ReconstructionKind, examine_reconstruction
from opustomo.training.config import RunConfig, TrainingConfig
from opustomo.training.resume import Start, checked_start, choose_start, earlier_split
from opustomo.training.resume_checks import content_entries


@dataclass(frozen=True)
class InheritedSolvent:
    """A solvent mask from a checkpoint.

    Attributes
    ----------
    mask
        The mask on the crop of the earlier run, (Dc, Dc, Dc), float32.
    before
        Boxes of the earlier run.
    source
        File that the mask comes from.
    """

    mask: Tensor
    before: Boxes
    source: Path

    @property
    def window(self) -> float:
        """Fraction of the box that the crop keeps."""
        return self.before.crop / self.before.render

    def on_crop(self, boxes: Boxes) -> Tensor:
        """Return the mask on the crop of a run that may have another ``--downfrac``, not negative."""
        if boxes.render == self.before.render:
            return self.mask.clamp(min=0.0)
        return resample_cube(self.mask[None], self.before.render / boxes.render, boxes.crop)[0].clamp(min=0.0)

    def on_box(self) -> np.ndarray:
        """Return the mask in the box of the subtomograms, (N, N, N), zero outside the crop."""
        spacing = self.before.apix / self.before.render_apix
        return resample_cube(self.mask[None], spacing, self.before.box)[0].numpy()


def inherit_solvent(start: Start, particles: ParticleSet) -> InheritedSolvent | None:
    """Return the solvent mask of the run that ``--load`` continues.

    Parameters
    ----------
    start
        Where the run starts.
    particles
        Subtomograms of the new run.

    Returns
    -------
    InheritedSolvent or None
        None if nothing is loaded, the checkpoint holds no mask, or that run had none either.

    Raises
    ------
    UserError
        The mask belongs to subtomograms of another box or pixel size, or is damaged.
    """
    content: dict[str, Any]
    if start.state is not None and start.folder is not None:
        source, config = start.folder / STATE_FILE, start.folder / "config.pkl"
        content = {"mask": start.state.get("mask"), "decoder_state_dict": {}}
    elif start.weights is not None:
        source, config = start.weights, start.weights.with_name("config.pkl")
        content = read_weights(source)
    else:
        return None
    if not config.is_file():
        return None
    before = read_config(config, particles.box)[1]
    mask = solvent_mask(content, source, before.crop)
    if mask is None or _is_default(mask, before):
        return None
    if before.box != particles.box or pixel_sizes_differ(before.apix, particles.apix):
        raise UserError(
            f"the solvent mask in {source} is for subtomograms of {before.box} voxels of {before.apix:.4g} Å, but "
            f"these have {particles.box} voxels of {particles.apix:.4g} Å. Give a mask for them with -r."
        )
    return InheritedSolvent(mask.cpu(), before, source)


def _is_default(mask: Tensor, boxes: Boxes) -> bool:
    """Return whether a mask is the ball that a run without ``-r`` has, in the crop that it has."""
    usual = Boxes.from_window(boxes.box, boxes.apix, boxes.render / boxes.box, DEFAULT_WINDOW)
    return usual.crop == boxes.crop and torch.equal(mask.cpu(), mask_on_crop(None, boxes))


DIVIDED_SAMPLE = 32
"""Number of subtomograms that are divided by their sampling weights, which takes transforms, to find their scale."""


@dataclass(frozen=True)
class RunSettings:
    """Settings of ``dsd train_tomo``: one config per concern, and the fraction ``downfrac`` of the box that is kept."""

    data: DataConfig
    model: ModelConfig
    physics: PhysicsConfig
    downfrac: float
    training: TrainingConfig
    run: RunConfig


@dataclass(frozen=True)
class Inputs:
    """Inputs of a run.

    Attributes
    ----------
    particles, source
        Particles and their voxels.
    model, physics
        Configs with the bodies, and with the decision whether subtomograms are divided by their sampling weights.
    boxes, solvent, focus
        Boxes of the run, and masks of the solvent and of ``--focus`` (None if not given) on the crop, (Dc, Dc, Dc).
    mask, inherited
        Mask of ``-r`` in the box of the subtomograms, and mask of the run that is resumed; None if not used.
    start
        Where the run starts.
    permutation
        (N,) particles in the order of the split: those that train first.
    norm, scale
        (shift, scale) that normalizes voxels, and how it was found.
    kind
        Kind of reconstruction that the data show; None if it was not examined.
    config
        Content of config.pkl.
    """

    particles: ParticleSet
    source: VoxelSource
    model: ModelConfig
    physics: PhysicsConfig
    boxes: Boxes
    solvent: Tensor
    focus: Tensor | None
    mask: np.ndarray | None
    inherited: InheritedSolvent | None
    start: Start
    permutation: np.ndarray
    norm: tuple[float, float]
    scale: ScaleReport
    kind: ReconstructionKind | None
    config: Mapping[str, Any]

    def members(self, valfrac: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of the particles that train and of those that are held out."""
        cut = training_count(len(self.particles), valfrac)
        return self.permutation[:cut], self.permutation[cut:]

    def planned(self, settings: RunSettings) -> PlannedRun:
        """Return the run as the checks before training judge it."""
        mask = self.mask if self.inherited is None else self.inherited.on_box()
        data, batch_size = settings.data, settings.training.batch_size
        tilts = (data.tilt_range_deg, data.tilt_step_deg)
        return PlannedRun(self.boxes, mask, self.physics, self.model, batch_size, *tilts)


def read_inputs(settings: RunSettings) -> Inputs:
    """Read, check and decide everything that a run needs; nothing is written.

    Raises
    ------
    UserError
        If an input is missing, damaged, or does not fit the others or the run that is resumed.
    """
    data, model, physics, config, run = (
        settings.data,
        settings.model,
        settings.physics,
        settings.training,
        settings.run,
    )
    particles = load_particles(data, tolerant=run.load is not None)
    if data.bodies is not None:
        bodies = load_bodies(data.bodies, particles.box, particles.apix)
        model = replace(model, bodies=bodies, estimate_pose=True)
    mask, focus = (load_mask(path, particles.box, particles.apix, data.force) for path in (data.mask, data.focus))
    start = choose_start(run, len(particles))
    inherited = None if data.mask is not None else inherit_solvent(start, particles)
    window = crop_window(mask, model.templateres) if inherited is None else inherited.window
    boxes = _boxes(particles, window, settings.downfrac)
    if torch.device(run.device).type == "cpu":
        require_training_memory(boxes, model, min(config.batch_size, len(particles)))
    solvent = mask_on_crop(mask, boxes) if inherited is None else inherited.on_crop(boxes)
    if not (solvent > 0).any():
        raise UserError(f"The mask {data.mask} is zero everywhere in the box that is compared. Center it.")
    inside = None if focus is None else focus_on_crop(focus, solvent, boxes, data.focus)
    permutation = _permutation(config, run, len(particles))
    contents = content_entries(data, particles, (mask, focus), model.bodies, permutation, config.split)
    if inherited is not None:
        del contents["-r"]  # it is that of the earlier run

    def content(physics: PhysicsConfig, norm: tuple[float, float] | None) -> dict[str, Any]:
        dataset = dataset_settings(asdict(data), norm) | {"valfrac": config.valfrac}
        found = run_settings(model, physics, boxes, dataset, config.seed)
        found["opustomo"] |= {"contents": contents, "options": dict(run.options)}
        return found

    asked = replace(physics, divide=start.divide if physics.divide is None else physics.divide)
    start = checked_start(start, run, content(asked, data.norm or start.norm))
    source = VoxelSource(particles.images)
    allow = data.norm is None if start.per_particle is None else start.per_particle
    scale = examine_scale(source, len(particles), allow)
    norm = start.norm or data.norm or (0.0, pooled_std(source, len(particles)))
    physics, kind = _divided_or_not(physics, start, particles, source, mask, run.device)
    if physics.divide and start.norm is None and data.norm is None:
        norm = 0.0, pooled_std(Divided(particles, source), len(particles), DIVIDED_SAMPLE)
    final = content(physics, norm)
    final["dataset_args"]["scale_per_particle"] = scale.per_particle
    return Inputs(
        particles=particles,
        source=source,
        model=model,
        physics=physics,
        boxes=boxes,
        solvent=solvent,
        focus=inside,
        mask=mask,
        inherited=inherited,
        start=start,
        permutation=permutation,
        norm=norm,
        scale=scale,
        kind=kind,
        config=final,
    )


def focus_on_crop(focus: np.ndarray, solvent: Tensor, boxes: Boxes, path: Path | None) -> Tensor:
    """Return the mask of ``--focus`` on the crop, (Dc, Dc, Dc); raise ``UserError`` if the solvent mask excludes it."""
    inside = mask_on_crop(focus, boxes).clamp(max=1.0)
    if not (inside * solvent > 0.01).any():
        raise UserError(
            f"The mask {path} of --focus does not overlap the solvent mask. Give a mask of a part of the particle."
        )
    return inside


def _divided_or_not(
    physics: PhysicsConfig,
    start: Start,
    particles: ParticleSet,
    source: VoxelSource,
    mask: np.ndarray | None,
    device: str,
) -> tuple[PhysicsConfig, ReconstructionKind | None]:
    """Decide whether subtomograms are divided by their sampling weights: as the run began, as asked, or by the data."""
    if start.divide is not None:
        return replace(physics, divide=start.divide), None
    if physics.divide is not None or physics.ctf_normalized:
        return physics, None
    kind = examine_reconstruction(particles, source, mask, device)
    return replace(physics, divide=kind.plain), kind


def _boxes(particles: ParticleSet, window: float, downfrac: float) -> Boxes:
    try:
        return Boxes.from_window(particles.box, particles.apix, downfrac, window)
    except ValueError as error:
        raise UserError(
            f"Subtomograms of {particles.box} voxels with --downfrac {downfrac:g} are too small to compare ({error})."
        ) from error


def _permutation(config: TrainingConfig, run: RunConfig, count: int) -> np.ndarray:
    """Return the split in the file of ``--split``, else that of the run that is resumed, else a new one."""
    if config.split is not None and config.split.exists():
        return read_split(config.split, count)
    earlier = None if run.load is None else earlier_split(run, count)
    if earlier is not None:
        return earlier
    return split_particles(count, config.valfrac, np.random.default_rng(config.seed))
