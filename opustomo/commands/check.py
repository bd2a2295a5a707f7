"""`dsd check`: inspect a particle set and propose the training command."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opustomo.commands.options import add_ctf, add_images

if TYPE_CHECKING:
    from opustomo.data.particles import ParticleSet
    from opustomo.data.voxels import VoxelSource
    from opustomo.model.config import ModelConfig
    from opustomo.quality.checks.inspection import PlannedRun
    from opustomo.quality.checks.missing_inputs import Readiness
    from opustomo.quality.checks.proposed_commands import Settings
    from opustomo.training.step_timing import StepTime

HELP = "inspect a particle set, judge whether it is usable, and print the training command with proposed settings"
PASSED_ON = (
    "poses mask masks datadir angpix force warp warp_bfactor_scale no_ctf tilt_range tilt_step tilt_limit"
).split()
"""Options that the printed command repeats."""
WORDS = {"mask": "-r"}
DEFAULTS = {"warp_bfactor_scale": 0.25}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsd check``; those of ``train_tomo`` have its names."""
    add = parser.add_argument
    add("particles", type=Path, metavar="STAR", help="particle table of RELION, WARP or M")
    add("--poses", type=Path, help="pose pickle of dsdsh prepare (default: poses of the particle table)")
    add("-r", "--ref-vol", type=Path, dest="mask", metavar="MASK", help="solvent mask (MRC, box of the subtomograms)")
    add(
        "--masks",
        type=Path,
        metavar="PKL",
        help="geometry of the bodies (mask_params.pkl of dsdsh prepare_multi), for a run in which they move",
    )
    add_images(parser)
    add_ctf(parser, verifies=True)
    add(
        "--normalizectf",
        action="store_true",
        help="subtomograms were divided by their sampling weights (default: determined from the data)",
    )
    add("--downfrac", type=float, help="fraction of the box that Fourier cropping keeps (default: proposed)")
    add("--templateres", type=int, help="box size of the template in voxels (default: proposed)")
    add("--zdim", type=int, help="dimension of the composition latent (default: proposed)")
    add("-b", "--batch-size", type=int, help="batch size per GPU (default: proposed)")
    add("-n", "--num-epochs", type=int, help="number of epochs (default: proposed)")
    add("-o", "--outdir", default="run", metavar="DIR", help="output folder in the printed command (default: run)")
    add("--no-timing", action="store_true", help="do not measure a training step, so that no time is estimated")
    add("--json", type=Path, metavar="FILE", help="also write the report as JSON")
    add(
        "--figure",
        type=Path,
        metavar="PNG",
        help="write a figure of the missing wedge, the 3D CTF, the average and the signal",
    )


def run(args: argparse.Namespace) -> None:
    """Inspect the set, print the verdict and the command; exit with 1 if the set is not usable."""
    from opustomo.commands.options import data_config
    from opustomo.errors import UserError
    from opustomo.quality.checks.missing_inputs import examine_inputs

    _model(args.zdim or 12, args.templateres or 160)
    readiness = examine_inputs(data_config(args))
    if readiness.particles is None:
        print("Pre-flight: the set cannot be inspected")
        _print_missing(readiness)
        content: dict[str, Any] = {"preflight": None}
        usable = False
    else:
        content, usable = _check(args, readiness, _repeated(vars(args)))
    if args.json is not None:
        _write_json(args.json, readiness, content)
    if not usable:
        raise UserError("The particle set cannot be used for training. Correct the faults that are listed above.")


def _print_missing(readiness: Readiness) -> None:
    for item in readiness.missing:
        print(f"  {item.line}")


def _model(zdim: int, templateres: int) -> ModelConfig:
    from opustomo.errors import UserError
    from opustomo.model.config import ModelConfig

    try:
        # train_tomo rounds --templateres in the same way
        return ModelConfig(zdim=zdim, templateres=-(-templateres // 16) * 16, estimate_pose=True)
    except ValueError as error:
        raise UserError(f"--{error}") from error


def _check(args: argparse.Namespace, readiness: Readiness, repeated: list[str]) -> tuple[dict[str, Any], bool]:
    """Inspect a set with subtomograms; return the findings for JSON and whether the set is usable."""
    import json
    from dataclasses import asdict, replace

    from opustomo.data.voxels import VoxelSource, examine_scale
    from opustomo.errors import UserError
    from opustomo.io.body_files import load_bodies
    from opustomo.model.config import PhysicsConfig
    from opustomo.physics.boxes import Boxes, crop_window
    from opustomo.quality.checks.check_figure import draw_check
    from opustomo.quality.checks.gpu_memory import free_gpu_bytes
    from opustomo.quality.checks.inspection import PlannedRun, contrast_of, inspect_particles, judge_particle_set
    from opustomo.quality.checks.proposed_commands import Extent, command_line, propose_settings
    from opustomo.quality.checks.reconstruction_kind import examine_reconstruction
    from opustomo.quality.checks.wedge_comparison import wedge_planes

    particles, mask = readiness.particles, readiness.mask
    assert particles is not None
    source = VoxelSource(particles.images)
    scale = examine_scale(source, len(particles))
    kind = examine_reconstruction(particles, source, mask)
    normalizectf = args.normalizectf or not kind.plain
    names = ("downfrac", "templateres", "zdim", "batch_size", "num_epochs")
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    try:
        window = crop_window(mask, int(given.get("templateres", 160)))
        extent = Extent(len(particles), particles.box, particles.apix, window, args.masks is not None)
        settings = propose_settings(extent, free_gpu_bytes(), normalizectf, given)
        boxes = Boxes.from_window(particles.box, particles.apix, settings.downfrac, window)
    except ValueError as error:
        raise UserError(f"The boxes are too small for training ({error}). Extract larger boxes.") from error
    model = replace(_model(settings.zdim, settings.templateres), encoderres=settings.encoderres)
    if args.masks is not None:
        model = replace(model, bodies=load_bodies(args.masks, particles.box, particles.apix))
    physics = PhysicsConfig(ctf_normalized=normalizectf, divide=not normalizectf and kind.plain)
    planes = wedge_planes(particles, source, normalizectf)
    run = PlannedRun(boxes, mask, physics, model, settings.batch_size, args.tilt_range, args.tilt_step)
    report = inspect_particles(particles, source, run, planes, scale)
    blocking = tuple(item.what for item in readiness.missing if item.blocks)
    verdict = judge_particle_set(report, kind, blocking, True if args.normalizectf else None)
    print(report.as_text(warnings=False))
    first, second = kind.line.split("\n")
    print(f"  weighting  {first}\n             {second}")
    print(f"  contrast   {_CONTRAST[contrast_of(kind)]}")
    _print_missing(readiness)
    print(f"\n{verdict.as_text()}")
    content = {
        "preflight": json.loads(report.as_json()),
        "verdict": asdict(verdict),
        "reconstruction": {
            "weighting": kind.weighting,
            "ctf_multiplied": kind.ctf_multiplied,
            "follows_absolute_ctf": kind.unsigned,
            "basis": kind.basis,
        },
        "contrast": contrast_of(kind),
    }
    if args.figure is not None:
        draw_check(args.figure, verdict, kind, planes, report.wedge, particles.apix * particles.box / _size(kind))
        print(f"\nWrote {args.figure}.")
    if not verdict.faults:
        line = command_line(str(args.particles), repeated, settings, args.outdir)
        timing = None if args.no_timing else _time_step(particles, source, run, settings)
        _print_proposal(line, settings, len(particles), timing, report.memory.line, args.outdir)
        content |= {"command": line, "settings": asdict(settings)}
        content["seconds_per_visit"] = None if timing is None else timing.seconds_per_particle
        content["timing"] = None if timing is None else asdict(timing)
    return content, not verdict.faults


_CONTRAST = {
    "bright": "the average of the particles is bright, as training requires",
    "dark": "the average of the particles is DARK",
    "unknown": "cannot be determined, because the average is too noisy",
}


def _size(kind: Any) -> int:
    return len(kind.signal.average) if kind.signal is not None else 1


def _repeated(options: dict[str, Any]) -> list[str]:
    """Return the options about the data that the user gave, as words of the training command."""
    words: list[str] = []
    for name in PASSED_ON:
        value = options[name]
        option = WORDS.get(name, "--" + name.replace("_", "-"))
        if value is True:
            words.append(option)
        elif value is not None and value is not False and value != DEFAULTS.get(name):
            words += [option, f"{value:g}" if isinstance(value, float) else str(value)]
    return words


def _time_step(particles: ParticleSet, source: VoxelSource, run: PlannedRun, settings: Settings) -> StepTime:
    """Measure the time of a training step with the proposed settings."""
    import torch

    from opustomo.training.config import TrainingConfig
    from opustomo.training.step_timing import measure_step

    config = TrainingConfig(batch_size=settings.batch_size, lr=settings.lr)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return measure_step(particles, source, run, config, device)


def _print_proposal(
    line: str, settings: Settings, particles: int, timing: StepTime | None, memory: str, outdir: str
) -> None:
    """Print the command, the reason for each setting, what it costs, and what to do next."""
    import shlex
    import textwrap

    print("\nCommand to train with the proposed settings:\n")
    print(f"{line}\n")
    names = {"batch_size": "-b", "num_epochs": "-n"}
    for name, reason in settings.reasons.items():
        print(f"  {names.get(name, '--' + name):<14}{reason}")
    if settings.warning:
        print(textwrap.fill(f"Warning: {settings.warning}", 118))
    cost = [memory, f"{settings.disk_bytes(particles) / 1e9:.1f} GB of disk space"]
    if timing is not None:
        seconds = timing.seconds_per_particle
        rate, total = 1.0 / seconds, settings.run_seconds(particles, seconds)
        cost.insert(0, f"{_duration(total)} on this machine ({rate:.3g} particles per second, from a measured step)")
    print(textwrap.fill(f"It takes {'; '.join(cost)}.", 118))
    if timing is not None:
        print(textwrap.fill(timing.basis(), 118))
    print(f"Then: {shlex.join(['dsdsh', 'results', outdir])}")


def _duration(seconds: float) -> str:
    if seconds < 5400:
        return f"about {max(1, round(seconds / 60))} minutes"
    return f"about {seconds / 3600:.1f} hours"


def _write_json(path: Path, readiness: Readiness, content: dict[str, Any]) -> None:
    import json
    from dataclasses import asdict

    from opustomo.io.atomic import atomic_path

    findings = {
        "can_train": readiness.can_train,
        "missing": [asdict(item) for item in readiness.missing],
        **content,
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(findings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
