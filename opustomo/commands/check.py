"""``dsd check``: what training would find, without training."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opustomo.model.config import ModelConfig
    from opustomo.quality.checks.missing_inputs import Readiness

HELP = "look at a set before training: files, pixel size, tilts, CTF, missing wedge, memory"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; those of ``train_tomo`` have its names and defaults."""
    add = parser.add_argument
    add("particles", type=Path, metavar="STAR", help="particle table (RELION, WARP, M)")
    add("--poses", type=Path, help="pose pickle of dsdsh prepare (default: the table's own poses)")
    add("-r", "--ref-vol", type=Path, dest="mask", metavar="MASK", help="solvent mask (MRC)")
    add("--datadir", type=Path, help="folder that the image paths are relative to")
    add("--angpix", type=float, help="pixel size in Å (default: MRC header)")
    add("--force", action="store_true", help="go on where --angpix disagrees with the headers, or origins look like Å")
    add("--warp", action="store_true", help="CTF tables are WARP csv files")
    add("--no-ctf", action="store_true", help="missing-wedge-only model from --tilt-range")
    add("--tilt-range", type=float, help="± degrees that are expected")
    add("--tilt-step", type=float, help="step in degrees that is expected")
    add("--tilt-limit", type=float, help="leave out tilts beyond ± this")
    add("--normalizectf", action="store_true", help="reconstructions divided by sampling weights")
    add("--downfrac", type=float, default=1.0, help="Fourier-crop to this fraction of the box (default: %(default)s)")
    add("--templateres", type=int, default=160, help="side of the template (default: %(default)s)")
    add("--zdim", type=int, default=12, help="composition latent (default: %(default)s)")
    add("-b", "--batch-size", type=int, default=20, help="particles per GPU and step (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write the findings as JSON")
    add("--figure", type=Path, metavar="PNG", help="draw the power of the data beside the 3D CTF")


def run(args: argparse.Namespace) -> None:
    """Look, print, and exit with 1 when training could not start."""
    from opustomo.commands.options import data_config
    from opustomo.errors import UserError
    from opustomo.quality.checks.missing_inputs import examine

    model = _model(args)
    readiness = examine(data_config(args))
    text, content = _findings(args, readiness, model)
    print(text)
    for item in readiness.missing:
        print(f"  {item.line}")
    if args.json is not None:
        _write_json(args.json, readiness, content)
    if not readiness.can_train:
        raise UserError("training could not start: see what is missing above.")
    print("Training can start.")


def _model(args: argparse.Namespace) -> ModelConfig:
    from opustomo.errors import UserError
    from opustomo.model.config import ModelConfig

    try:
        # as train_tomo rounds it
        return ModelConfig(zdim=args.zdim, templateres=-(-args.templateres // 16) * 16)
    except ValueError as error:
        raise UserError(f"--{error}") from error


def _findings(args: argparse.Namespace, readiness: Readiness, model: ModelConfig) -> tuple[str, str | None]:
    """Findings as text and JSON; draws the figure."""
    from opustomo.data.scale import examine_scale
    from opustomo.data.voxels import VoxelSource
    from opustomo.errors import UserError
    from opustomo.model.config import PhysicsConfig
    from opustomo.physics.boxes import Boxes, crop_window
    from opustomo.quality.checks.preflight import inspect_particles
    from opustomo.quality.checks.wedge import draw_wedges, wedge_planes

    particles, mask = readiness.particles, readiness.mask
    if particles is None:
        return "Pre-flight: no subtomogram can be looked at", None
    try:
        boxes = Boxes.from_window(particles.box, particles.apix, args.downfrac, crop_window(mask, model.templateres))
    except ValueError as error:
        raise UserError(f"these boxes are too small to train on ({error}); extract larger ones") from error
    source = VoxelSource(particles.images)
    scale = examine_scale(source, len(particles))
    physics = PhysicsConfig(ctf_normalised=args.normalizectf)
    planes = wedge_planes(particles, source, physics.ctf_normalised)
    report = inspect_particles(
        particles,
        source,
        boxes,
        mask,
        physics,
        model,
        args.batch_size,
        asked_range_deg=args.tilt_range,
        asked_step_deg=args.tilt_step,
        planes=planes,
        scale=scale,
    )
    if args.figure is not None:
        draw_wedges(args.figure, planes, report.wedge)
    return report.as_text(), report.as_json()


def _write_json(path: Path, readiness: Readiness, findings: str | None) -> None:
    import json
    from dataclasses import asdict

    from opustomo.io.atomic import atomic_path

    content = {
        "can_train": readiness.can_train,
        "missing": [asdict(item) for item in readiness.missing],
        "preflight": None if findings is None else json.loads(findings),
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
