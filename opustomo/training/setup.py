"""From settings to a trainer: reads the inputs, checks them, builds the model."""

from __future__ import annotations

import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opustomo.checkpoint.config import dataset_settings, run_settings, write_config
from opustomo.checkpoint.epoch import checkpoint_bytes
from opustomo.checkpoint.state import require_space
from opustomo.data.batches import read_split, split_particles, training_count, write_split
from opustomo.data.config import DataConfig
from opustomo.data.particles import ParticleSet, load_mask, load_particles
from opustomo.data.voxels import VoxelSource, examine_scale, pooled_std
from opustomo.errors import UserError
from opustomo.io.atomic import atomic_path, remove_leftovers
from opustomo.io.body_files import load_bodies
from opustomo.io.mrc import write_volume
from opustomo.model.autoencoder import Autoencoder
from opustomo.model.config import ModelConfig, PhysicsConfig
from opustomo.model.device import choose_device
from opustomo.physics.boxes import Boxes, crop_window, mask_on_crop
from opustomo.physics.fourier import centered_full
from opustomo.quality.checks.gpu_memory import require_training_memory
from opustomo.quality.checks.preflight import PlannedRun, inspect_particles
from opustomo.quality.checks.reconstruction_kind import Divided, examine_reconstruction, training_line
from opustomo.training.config import RunConfig, TrainingConfig
from opustomo.training.host import keep_freed_memory
from opustomo.training.inherited_mask import inherit_solvent
from opustomo.training.monitors.records import MonitorFactory
from opustomo.training.ranks import Place, join, lost_contact
from opustomo.training.resume import checked_start, choose_start, earlier_split, resume_command
from opustomo.training.run_identity import content_entries
from opustomo.training.runlog import RunLog
from opustomo.training.stop import stop_on_signal
from opustomo.training.trainer import Trainer

DIVIDED_SAMPLE = 32
"""Subtomograms that are divided, which takes transforms, to find their scale."""
SELECTED_STAR = "particles.selected.star"


def train(
    data: DataConfig,
    model: ModelConfig,
    physics: PhysicsConfig,
    downfrac: float,
    config: TrainingConfig,
    run: RunConfig,
    make_monitors: MonitorFactory | None = None,
    place: Place | None = None,
) -> None:
    """Train a model from files (the work of ``dsd train_tomo``).

    Nothing is written before all inputs have been read and checked. ``place`` says which of several processes this is;
    the first of them writes.
    """
    if choose_device(run.device) == "cpu":
        keep_freed_memory()
    leads = place is None or place.rank == 0
    particles = load_particles(data, tolerant=run.load is not None)
    if data.bodies is not None:
        bodies = load_bodies(data.bodies, particles.box, particles.apix)
        model = replace(model, bodies=bodies, estimate_pose=True)
    mask = load_mask(data.mask, particles.box, particles.apix, data.force)
    focus = load_mask(data.focus, particles.box, particles.apix, data.force)
    start = choose_start(run, len(particles))
    inherited = None if data.mask is not None else inherit_solvent(start, particles)
    window = crop_window(mask, model.templateres) if inherited is None else inherited.window
    boxes = _boxes(particles, window, downfrac)
    if torch.device(run.device).type == "cpu":
        require_training_memory(boxes, model, min(config.batch_size, len(particles)))
    solvent = mask_on_crop(mask, boxes) if inherited is None else inherited.on_crop(boxes)
    if not (solvent > 0).any():
        raise UserError(f"mask {data.mask} has no voxel above zero inside the box that is compared; centre it")
    permutation = _permutation(config, run, len(particles))
    new_split = None if config.split is None or config.split.exists() else config.split
    source = VoxelSource(particles.images)
    contents = content_entries(data, particles, (mask, focus), model.bodies, permutation, config.split)
    if inherited is not None:
        del contents["-r"]  # it is that of the earlier run

    def settings_with(physics: PhysicsConfig, norm: tuple[float, float] | None) -> dict[str, Any]:
        dataset = dataset_settings(asdict(data), norm) | {"valfrac": config.valfrac}
        settings = run_settings(model, physics, boxes, dataset, config.seed)
        settings["opustomo"] |= {"contents": contents, "options": dict(run.options)}
        return settings

    asked = replace(physics, divide=start.divide if physics.divide is None else physics.divide)
    start = checked_start(start, run, settings_with(asked, data.norm or start.norm))
    given = start.norm or data.norm
    allow = data.norm is None if start.per_particle is None else start.per_particle
    scale = examine_scale(source, len(particles), allow)
    norm = given or (0.0, pooled_std(source, len(particles)))
    kind = None
    if start.divide is not None:
        physics = replace(physics, divide=start.divide)  # as the run began
    elif physics.divide is None and not physics.ctf_normalized:
        kind = examine_reconstruction(particles, source, mask)
        physics = replace(physics, divide=kind.plain)
    if physics.divide and given is None:
        norm = 0.0, pooled_std(Divided(particles, source), len(particles), DIVIDED_SAMPLE)

    torch.manual_seed(config.seed)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = run.amp  # full precision means full
    inside = None if focus is None else focus_on_crop(focus, solvent, boxes, data.focus)
    network = Autoencoder(model, physics, boxes, solvent, amp=run.amp, focus=inside).to(run.device)
    if place is not None and place.size > len(particles):
        raise UserError(f"{place.size} processes are too many for {len(particles)} particles; give --num-gpus less")

    needed = checkpoint_bytes(network, len(particles))
    require_space(run.outdir, needed, "Free disk space, or choose a folder on another disk with -o.")
    if new_split is not None and leads:
        write_split(new_split, permutation)
    run.outdir.mkdir(parents=True, exist_ok=True)
    log = RunLog(run.outdir / "run.log" if leads else None)
    ranks = join(place, torch.device(run.device))
    try:
        if leads:
            remove_leftovers(run.outdir)
        _describe(log, particles, boxes, norm, run, ranks.size, _about_conformations(model, physics))
        if inherited is not None:
            log.say(f"# note: no mask is given with -r; the solvent mask in {inherited.source} is used")
        if new_split is not None:
            log.say(f"# note: --split {new_split} did not exist; the split of this run has been written to it")
        if kind is not None:
            log.say(f"# {training_line(kind, bool(physics.divide))}")
        if start.state is None and leads:
            mask_on_box = mask if inherited is None else inherited.on_box()
            tilts = (data.tilt_range_deg, data.tilt_step_deg)
            planned = PlannedRun(boxes, mask_on_box, physics, model, config.batch_size, *tilts)
            report = inspect_particles(particles, source, planned, scale=scale)
            for line in report.as_text().splitlines():
                log.say(f"# {line}")
            with atomic_path(run.outdir / "preflight.json") as temporary:
                temporary.write_text(report.as_json(), encoding="utf-8")
        if particles.selected is not None and leads:
            particles.star.write(run.outdir / SELECTED_STAR)
            log.say(f"# --ind takes {len(particles)} particles; all results count them as in {SELECTED_STAR}")
        if leads:
            settings = settings_with(physics, norm)
            settings["dataset_args"]["scale_per_particle"] = scale.per_particle
            write_config(run.outdir / "config.pkl", settings, run.command)
            write_split(run.outdir / "split.pkl", permutation)
        cut = training_count(len(particles), config.valfrac)
        members = permutation[:cut], permutation[cut:]
        trainer = Trainer(network, particles, source, norm, members, config, run, log, ranks=ranks)
        if run.write_ctf and leads:
            _write_ctf(run.outdir / "ctf.mrc", trainer)
            log.say(f"# wrote the 3D CTF of the first particle, zero frequency in the centre: {run.outdir / 'ctf.mrc'}")
        start.apply(trainer, log)
        if start.is_new and not physics.original:
            trainer.update_consensus()
        if (done := trainer.progress.epoch) >= config.epochs:
            log.say(
                f"# note: nothing is left to train: {done} epochs are done and -n asks for {config.epochs}; raise -n"
            )
        if make_monitors is not None and leads:
            trainer.monitors = list(make_monitors(run.outdir, log.say, start.particles_seen))
        try:
            with stop_on_signal() as stop:
                finished = trainer.fit(stop)
            trainer.close()
        except RuntimeError as error:
            if ranks.size == 1 or not lost_contact(error):
                raise
            raise UserError(
                f"process {ranks.rank} lost contact to another process of this run, whose own message says why it "
                f"ended; go on with: {resume_command(run.command)}"
            ) from error
        finally:
            for monitor in trainer.monitors:
                monitor.close()
        if not finished and stop.signal is not None:
            log.say(f"# stopped by {stop.signal.name}; the state is saved, go on with: {resume_command(run.command)}")
            return
        _warn_not_finite(log, particles, source)
        after = shlex.join(["dsdsh", "results", str(run.outdir)])
        log.say(f"# finished: results in {run.outdir}; evaluate them with: {after}")
    except UserError as error:
        log.keep(f"# error: {error}")
        raise
    finally:
        log.close()


def focus_on_crop(focus: np.ndarray, solvent: Tensor, boxes: Boxes, path: Path | None) -> Tensor:
    """Return the mask of ``--focus`` on the crop, (Dc, Dc, Dc); raise ``UserError`` if the solvent mask excludes it."""
    inside = mask_on_crop(focus, boxes).clamp(max=1.0)
    if not (inside * solvent > 0.01).any():
        raise UserError(
            f"The mask {path} of --focus does not overlap the solvent mask. Give a mask of a part of the particle."
        )
    return inside


def _boxes(particles: ParticleSet, window: float, downfrac: float) -> Boxes:
    try:
        return Boxes.from_window(particles.box, particles.apix, downfrac, window)
    except ValueError as error:
        raise UserError(
            f"subtomograms of {particles.box} voxels with --downfrac {downfrac:g} leave too little to compare ({error})"
        ) from error


def _permutation(config: TrainingConfig, run: RunConfig, count: int) -> np.ndarray:
    """Return the split in the file of ``--split`` if it exists, else that of the run to go on with, else a new one."""
    if config.split is not None and config.split.exists():
        return read_split(config.split, count)
    earlier = None if run.load is None else earlier_split(run, count)
    if earlier is not None:
        return earlier
    return split_particles(count, config.valfrac, np.random.default_rng(config.seed))


def _write_ctf(path: Path, trainer: Trainer) -> None:
    model = trainer.model
    ctf = model.ctf(trainer.engine.tilts[trainer.engine.table[:1]], None)
    write_volume(path, centered_full(ctf)[0].cpu().numpy(), model.boxes.render_apix)


def _about_conformations(model: ModelConfig, physics: PhysicsConfig) -> tuple[str, ...]:
    """Return what the user should know of the conformation latents, if anything."""
    if not model.zaffinedim:
        return ()
    if not model.estimate_pose:
        return ("conformations are not written, as no decoder reads them without --estpose",)
    if model.bodies is None and not physics.original:
        return (
            "conformations are written because scripts of OPUS-TOMO expect them, but no decoder reads them: poses are "
            "inferred without them",
        )
    return ()


def _describe(
    log: RunLog,
    particles: ParticleSet,
    boxes: Boxes,
    norm: tuple[float, float],
    run: RunConfig,
    processes: int,
    about_conformations: tuple[str, ...],
) -> None:
    log.say("# " + " ".join(run.command))
    for note in run.notes + particles.notes + about_conformations:
        log.say(f"# note: {note}")
    log.say(
        f"# {len(particles)} subtomograms, box {boxes.box}, {boxes.apix:g} Å/pixel; render box {boxes.render}, "
        f"crop {boxes.crop}; {len(particles.tables)} CTF tables; voxels are divided by {norm[1]:.6g}; "
        f"device {run.device}" + (f", {processes} processes" if processes > 1 else "")
    )


def _warn_not_finite(log: RunLog, particles: ParticleSet, source: VoxelSource) -> None:
    broken = source.not_finite
    if broken:
        first = min(broken)
        path: Path = particles.images[first].path
        log.say(f"# warning: {len(broken)} subtomograms held values that are not finite, first {path}; taken as 0")
