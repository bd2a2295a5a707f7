"""Simulated data: `dsd simulate`, and `dsd demo`, which runs the complete pipeline on a simulated set."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from opustomo.commands.registry import Command

if TYPE_CHECKING:
    import numpy as np

    from opustomo.simulate.acquisition import TiltScheme


def add_simulate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsd simulate``."""
    add = parser.add_argument
    add("volumes", nargs="*", metavar="VOLUMES", help="one MRC file per state, or one .npy stack (K,D,D,D)")
    add("--builtin", nargs="+", default=[], metavar="NAME", help="built-in densities ('list' prints their names)")
    add("-o", "--outdir", type=Path, metavar="DIR", help="output folder")
    add("--overwrite", action="store_true", help="replace an earlier simulated data set in DIR")
    add("-n", "--count", type=int, default=300, help="number of subtomograms")
    add("--seed", type=int, default=0, help="random seed")
    add("--device", help="cpu, cuda or cuda:N (default: a GPU if available)")

    group = parser.add_argument_group("subtomograms")
    add = group.add_argument
    add("--apix", type=float, metavar="Å", help="pixel size of the subtomograms (default: that of the volumes)")
    add("--box", type=int, metavar="D", help="even box size in voxels (default: that of the volumes)")
    add("--raw", action="store_true", help="do not divide the back-projection by the sampling weights")
    add("--float16", action="store_true", help="write MRC mode 12 (float16) instead of mode 2 (float32)")
    add("--relion31", action="store_true", help="write a STAR file with an optics block and origins in Å (RELION 3.1)")

    group = parser.add_argument_group("particles")
    add = group.add_argument
    add("--weights", type=float, nargs="+", metavar="W", help="relative frequency of each volume (default: equal)")
    add(
        "--empty",
        type=float,
        default=0.0,
        metavar="FRACTION",
        help="fraction of subtomograms that contain only noise (label -1)",
    )
    add(
        "--shift",
        type=float,
        default=2.0,
        metavar="PX",
        help="maximum origin along each axis",
    )
    add("--rot-err", type=float, default=0.0, metavar="DEG", help="standard deviation of the errors of the angles")
    add(
        "--shift-err",
        type=float,
        default=0.0,
        metavar="PX",
        help="standard deviation of the errors of the origins",
    )

    group = parser.add_argument_group("tilt series and microscope")
    add = group.add_argument
    add(
        "--tilt-range",
        type=float,
        nargs="+",
        default=[60.0],
        metavar="DEG",
        help="maximum tilt angle (±), or minimum and maximum tilt angle",
    )
    add("--tilt-step", type=float, default=3.0, metavar="DEG", help="tilt increment")
    add("--tilts", type=Path, metavar="FILE", help="text file: tilt angle and, optionally, accumulated dose per line")
    add("--dose", type=float, default=3.0, help="dose per tilt in e/Å² (dose-symmetric scheme)")
    add("--snr", type=float, default=0.1, help="signal-to-noise ratio of the 0° image in the whole box; inf: no noise")
    add(
        "--defocus",
        type=float,
        nargs=2,
        default=[20000.0, 40000.0],
        metavar=("LO", "HI"),
        help="range of the underfocus in Å",
    )
    add("--astigmatism", type=float, default=0.0, metavar="Å", help="maximum difference of the two defocus values")
    add("--voltage", type=float, default=300.0, metavar="KV", help="acceleration voltage")
    add("--cs", type=float, default=2.7, metavar="MM", help="spherical aberration")
    add("--amplitude", type=float, default=0.07, help="amplitude contrast")


def run_simulate(args: argparse.Namespace) -> None:
    """Check the options, read the volumes and write the simulated data set."""
    from opustomo.errors import UserError
    from opustomo.simulate.acquisition import Optics
    from opustomo.simulate.dataset import SimulationConfig, check_target, simulate_dataset
    from opustomo.simulate.densities import list_densities
    from opustomo.simulate.volumes import gather_volumes

    if args.builtin == ["list"]:
        print("\n".join(list_densities()))
        return
    if args.outdir is None:
        raise UserError("The output folder is missing. Give it with -o DIR.")
    _check_numbers(args)
    check_target(args.outdir, args.overwrite)
    device = _device(args.device)
    volumes, apix = gather_volumes([Path(name) for name in args.volumes], args.builtin, args.apix, args.box)
    if args.weights is not None and len(args.weights) != len(volumes):
        raise UserError(
            f"--weights has {len(args.weights)} values, but there are {len(volumes)} volumes. "
            "Give one value per volume."
        )
    _check_fits(volumes, args.shift)
    config = SimulationConfig(
        count=args.count,
        apix=apix,
        scheme=_scheme(args),
        optics=Optics(args.voltage, args.cs, args.amplitude),
        snr=args.snr,
        defocus=(args.defocus[0], args.defocus[1]),
        astigmatism=args.astigmatism,
        weights=None if args.weights is None else tuple(args.weights),
        rot_err=args.rot_err,
        shift=args.shift,
        shift_err=args.shift_err,
        empty=args.empty,
        normalize=not args.raw,
        float16=args.float16,
        relion31=args.relion31,
        seed=args.seed,
        device=device,
    )
    simulate_dataset(volumes, config, args.outdir, overwrite=args.overwrite)
    size = f"{volumes.shape[-1]}³ voxels of {apix:g} Å"
    print(f"Wrote {args.count} subtomograms of {len(volumes)} volumes ({size}) to {args.outdir}")


SIMULATE = Command(
    "simulate subtomograms of known volumes: STAR file, MRC files, CTF tables, mask and ground truth",
    add_simulate_arguments,
    run_simulate,
)


def _check_numbers(args: argparse.Namespace) -> None:
    """Raise ``UserError`` for option values outside of their valid range."""
    from opustomo.errors import UserError

    checks = {
        f"--tilt-range has {len(args.tilt_range)} values, but it takes one (±) or two": len(args.tilt_range) > 2,
        "--defocus must be two ascending values": not args.defocus[0] <= args.defocus[1],
        f"--defocus is {args.defocus[1]:g}, but it must be given in Å (2 µm are 20000)": 0 < args.defocus[1] < 100,
    }
    for message, is_invalid in checks.items():
        if is_invalid:
            raise UserError(f"{message}.")


def _scheme(args: argparse.Namespace) -> TiltScheme:
    from opustomo.simulate.acquisition import regular_scheme, scheme_from_file

    if args.tilts is not None:
        return scheme_from_file(args.tilts, args.dose)
    ends = args.tilt_range if len(args.tilt_range) == 2 else [-args.tilt_range[0], args.tilt_range[0]]
    return regular_scheme(ends[0], ends[1], args.tilt_step, args.dose)


def _device(name: str | None) -> str:
    import torch

    from opustomo.errors import UserError

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"The device {name} does not exist. Use --device cpu, cuda or cuda:N.") from error
    num_gpus = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= num_gpus:
        raise UserError(f"--device is {name}, but this machine has {num_gpus} usable GPUs. Use --device cpu.")
    return name


def _check_fits(volumes: np.ndarray, shift: float) -> None:
    from opustomo.errors import UserError

    if shift >= volumes.shape[-1] / 2:
        raise UserError(
            f"--shift is {shift:g}, which would move particles out of their boxes of {volumes.shape[-1]} voxels."
        )


MARKER = "demo.json"


def add_demo_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsd demo``."""
    add = parser.add_argument
    add(
        "-o",
        "--outdir",
        type=Path,
        default=Path("demo"),
        metavar="DIR",
        help="output folder; an earlier demo in it is replaced (default: %(default)s)",
    )
    add(
        "--quick",
        action="store_true",
        help="use few particles and epochs, which tests the installation but not the quality of the results",
    )
    add("--epochs", type=int, metavar="N", help="number of training epochs")
    add("--seed", type=int, default=0, help="random seed")
    add("--device", help="cpu or cuda (default: a GPU if available)")


def run_demo(args: argparse.Namespace) -> None:
    """Run the commands in order and report the scores."""
    import json
    import time

    from opustomo.demo import plan as settings
    from opustomo.demo.scores import collect_result, remove_resume_state, report_lines
    from opustomo.demo.summary_figure import draw_summary

    plan = settings.DemoPlan(
        root=args.outdir,
        particles=settings.QUICK_PARTICLES if args.quick else settings.PARTICLES,
        epochs=args.epochs or (settings.QUICK_EPOCHS if args.quick else settings.EPOCHS),
        seed=args.seed,
        device=args.device,
    )
    _clear(plan.root, (plan.data, plan.run))
    plan.root.mkdir(parents=True, exist_ok=True)
    steps = plan.steps()
    (plan.root / MARKER).write_text(json.dumps({"commands": [str(step) for step in steps]}, indent=1) + "\n")
    begin = time.monotonic()
    for step in steps:
        _run_step(step.program, step.words, str(step))
    result = collect_result(plan.data, plan.analysis, plan.run / f"pose.{plan.epoch}.pkl", settings.STATES)
    draw_summary(plan.root / "demo.png", result)
    print(f"\nDone in {(time.monotonic() - begin) / 60:.1f} minutes.")
    print("\n".join([*report_lines(result, plan), *remove_resume_state(plan)]))


DEMO = Command(
    "simulate a small heterogeneous data set, run all commands on it and score the result", add_demo_arguments, run_demo
)


def _run_step(program: str, words: tuple[str, ...], line: str) -> None:
    """Run one command line in this process."""
    import analysis_scripts.main
    import opustomo.main
    from opustomo.errors import UserError

    print(f"\n$ {line}", flush=True)
    main = {"dsd": opustomo.main.main, "dsdsh": analysis_scripts.main.main}[program]
    code = main(list(words))
    if code == 130:
        raise KeyboardInterrupt
    if code:
        raise UserError(f"The demo stopped because '{program} {words[0]}' failed with exit code {code} (see above).")


def _clear(root: Path, folders: tuple[Path, ...]) -> None:
    """Remove the data of an earlier demo from `root`; raise ``UserError`` if `root` has any other content."""
    import shutil

    from opustomo.errors import UserError

    if root.exists() and not root.is_dir():
        raise UserError(f"{root} is a file. Give a folder with -o.")
    if not root.is_dir() or not any(root.iterdir()):
        return
    if not (root / MARKER).is_file():
        raise UserError(f"{root} is not empty and does not contain an earlier demo. Give another folder with -o.")
    for folder in folders:
        if folder.is_dir():
            shutil.rmtree(folder)
