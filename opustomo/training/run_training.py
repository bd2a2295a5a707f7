"""A training run from its settings to its results."""

from __future__ import annotations

import math
import shlex
from pathlib import Path

import torch

from opustomo.checkpoint.config import SELECTED_STAR, write_config
from opustomo.checkpoint.epoch_files import checkpoint_bytes, require_space
from opustomo.data.batches import write_split
from opustomo.errors import UserError
from opustomo.io.atomic import atomic_path, remove_leftovers
from opustomo.io.mrc import write_volume
from opustomo.model.autoencoder import Autoencoder
from opustomo.model.config import ModelConfig, PhysicsConfig
from opustomo.model.device import choose_device, keep_freed_memory, prepare_convolutions
from opustomo.physics.fourier import centered_full
from opustomo.quality.checks.inspection import inspect_particles
from opustomo.quality.checks.reconstruction_kind import training_lines
from opustomo.training.config import TrainingConfig
from opustomo.training.inputs import Inputs, RunSettings, read_inputs
from opustomo.training.monitors.records import MonitorFactory, RunJudge
from opustomo.training.processes import Place, join, lost_contact, stop_on_signal
from opustomo.training.resume import resume_command
from opustomo.training.run_log import RunLog
from opustomo.training.schedules import MOTION_FIRST, longer_run
from opustomo.training.trainer import Trainer


def train(settings: RunSettings, make_monitors: MonitorFactory | None = None, place: Place | None = None) -> None:
    """Train a model from files (``dsd train_tomo``).

    Nothing is written before all inputs have been read and checked.

    Parameters
    ----------
    settings
        Settings of the run.
    make_monitors
        Function that creates the monitors of the run.
    place
        Place of this process among several, of which the first writes; None for one process.

    Raises
    ------
    UserError
        If the inputs or the settings are wrong, or the run cannot continue.
    """
    run, training = settings.run, settings.training
    leads = place is None or place.rank == 0
    if choose_device(run.device) == "cpu":
        keep_freed_memory()
    inputs = read_inputs(settings)
    model = build_model(inputs, settings)
    count = len(inputs.particles)
    if place is not None and place.size > count:
        raise UserError(f"{place.size} processes are too many for {count} particles. Reduce --num-gpus.")
    needed = checkpoint_bytes(model, count)
    require_space(run.outdir, needed, "Free disk space, or choose a folder on another disk with -o.")

    new_split = training.split if training.split is not None and not training.split.exists() else None
    if new_split is not None and leads:
        write_split(new_split, inputs.permutation)
    run.outdir.mkdir(parents=True, exist_ok=True)
    log = RunLog(run.outdir / "run.log" if leads else None)
    ranks = join(place, torch.device(run.device))
    try:
        describe(inputs, settings, log, ranks.size)
        if new_split is not None:
            log.say(f"# note: --split {new_split} did not exist; the split of this run is written to it")
        if leads:
            remove_leftovers(run.outdir)
            write_inputs(inputs, settings, log)
        members = inputs.members(training.valfrac)
        trainer = Trainer(model, inputs.particles, inputs.source, inputs.norm, members, training, run, log, ranks=ranks)
        if run.write_ctf and leads:
            write_first_ctf(run.outdir / "ctf.mrc", trainer)
        inputs.start.apply(trainer, log)
        trainer.prepare()
        if inputs.start.is_new and not inputs.physics.original:
            trainer.update_consensus()
        if (done := trainer.progress.epoch) >= training.epochs:
            log.say(f"# note: nothing is left to train: {done} epochs are done, -n {training.epochs} asks for no more")
        if make_monitors is not None and leads:
            trainer.monitors = list(make_monitors(run.outdir, log.say, inputs.start.particles_seen))
        fit(trainer, inputs)
    except UserError as error:
        log.keep(f"# error: {error}")
        raise
    finally:
        log.close()


def build_model(inputs: Inputs, settings: RunSettings) -> Autoencoder:
    """Return a model with the initial weights of the seed, on the device of the run."""
    amp = settings.run.amp
    torch.manual_seed(settings.training.seed)
    prepare_convolutions(amp)
    model = Autoencoder(inputs.model, inputs.physics, inputs.boxes, inputs.solvent, amp=amp, focus=inputs.focus)
    return model.to(settings.run.device)


def describe(inputs: Inputs, settings: RunSettings, log: RunLog, processes: int) -> None:
    """Log the command, what was ignored or decided, and the sizes of the run."""
    run, particles, boxes = settings.run, inputs.particles, inputs.boxes
    log.say("# " + " ".join(run.command))
    trained = len(inputs.members(settings.training.valfrac)[0])
    notes = about_conformations(inputs.model, inputs.physics)
    if inputs.model.bodies is not None and not inputs.physics.original:
        notes += about_short_runs(trained, settings.training, processes)
    for note in run.notes + particles.notes + notes:
        log.say(f"# note: {note}")
    log.say(
        f"# {len(particles)} subtomograms, box {boxes.box}, {boxes.apix:g} Å/pixel; render box {boxes.render}, "
        f"crop {boxes.crop}; {len(particles.tables)} CTF tables; voxels are divided by {inputs.norm[1]:.6g}; "
        f"device {run.device}" + (f", {processes} processes" if processes > 1 else "")
    )
    if inputs.inherited is not None:
        log.say(f"# note: no mask is given with -r; the solvent mask in {inputs.inherited.source} is used")
    if inputs.kind is not None:
        for line in training_lines(inputs.kind, bool(inputs.physics.divide)):
            log.say(f"# {line}")


def about_conformations(model: ModelConfig, physics: PhysicsConfig) -> tuple[str, ...]:
    """Return notes on conformation latents that no decoder reads."""
    if not model.zaffinedim:
        return ()
    if not model.estimate_pose:
        return ("conformations are not written, because no decoder reads them without --estpose",)
    if model.bodies is None and not physics.original:
        return (
            "conformations are written because scripts of OPUS-TOMO expect them, but no decoder reads them: poses are "
            "inferred without them",
        )
    return ()


def about_short_runs(trained: int, config: TrainingConfig, processes: int) -> tuple[str, ...]:
    """Return a note on a run with bodies that ends before its composition reaches full strength."""
    start, full = MOTION_FIRST
    per_epoch = math.ceil(trained / (config.batch_size * config.accum_step * processes))
    updates = config.epochs * per_epoch
    if updates >= full:
        return ()
    return (
        f"with bodies, the composition is off during the first {start:,} updates and reaches full strength after "
        f"{full:,}, but this run has {updates:,} updates; give -n {math.ceil(full / per_epoch)} or a smaller -b",
    )


def write_inputs(inputs: Inputs, settings: RunSettings, log: RunLog) -> None:
    """Write preflight.json, config.pkl, split.pkl and, with ``--ind``, the selected particles, and log the checks."""
    outdir, particles = settings.run.outdir, inputs.particles
    if inputs.start.state is None:
        report = inspect_particles(particles, inputs.source, inputs.planned(settings), scale=inputs.scale)
        for line in report.as_text().splitlines():
            log.say(f"# {line}")
        with atomic_path(outdir / "preflight.json") as temporary:
            temporary.write_text(report.as_json(), encoding="utf-8")
    if particles.selected is not None:
        particles.star.write(outdir / SELECTED_STAR)
        log.say(f"# --ind selects {len(particles)} particles; all results number them as in {SELECTED_STAR}")
    write_config(outdir / "config.pkl", dict(inputs.config), settings.run.command)
    write_split(outdir / "split.pkl", inputs.permutation)


def write_first_ctf(path: Path, trainer: Trainer) -> None:
    """Write the 3D CTF of the first particle with the zero frequency in the center."""
    model, engine = trainer.model, trainer.engine
    ctf = model.ctf(engine.tilts[engine.table[:1]], None)
    write_volume(path, centered_full(ctf)[0].cpu().numpy(), model.boxes.render_apix)
    trainer.log.say(f"# wrote the 3D CTF of the first particle, zero frequency in the center: {path}")


def fit(trainer: Trainer, inputs: Inputs) -> None:
    """Train the epochs that are left and log how the run ended.

    Raises
    ------
    UserError
        If another process of the run has failed, or the run cannot recover.
    """
    run, ranks, log = trainer.run, trainer.ranks, trainer.log
    try:
        with stop_on_signal() as stop:
            finished = trainer.fit(stop)
        trainer.close()
    except RuntimeError as error:
        if ranks.size == 1 or not lost_contact(error):
            raise
        raise UserError(
            f"Process {ranks.rank} lost contact to another process of this run, whose own message says why it ended. "
            f"Resume with: {resume_command(run.command)}"
        ) from error
    finally:
        for monitor in trainer.monitors:
            monitor.close()
    if not finished and stop.signal is not None:
        log.say(f"# stopped by {stop.signal.name}; the state is saved; resume with: {resume_command(run.command)}")
        return
    if broken := inputs.source.not_finite:
        first = inputs.particles.images[min(broken)].path
        log.say(f"# warning: {len(broken)} subtomograms (first: {first}) contain values that are not finite (set to 0)")
    judges = [monitor for monitor in trainer.monitors if isinstance(monitor, RunJudge)]
    for why in filter(None, (judge.why_unfinished() for judge in judges)):
        options = longer_run(trainer.config.epochs, trainer.config.lr)
        longer = ["dsd", "train_tomo", "--load", "latest", *options, "-o", str(run.outdir)]
        log.say(f"# note: the training has not converged: {why}. To train longer, type: {shlex.join(longer)}")
    epochs = [str(epoch) for judge in judges if (epoch := judge.proposed_epoch()) is not None]
    after = shlex.join(["dsdsh", "results", str(run.outdir), *epochs[:1]])
    log.say(f"# finished: results in {run.outdir}; evaluate them with: {after}")
