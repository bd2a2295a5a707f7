"""`dsd simulate`: simulated subtomograms of known volumes, poses and classes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from opustomo.simulate.acquisition import TiltScheme

HELP = "simulate subtomograms of known volumes: STAR file, MRC files, CTF tables, mask and truth"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add = parser.add_argument
    add("volumes", nargs="*", metavar="VOLUMES", help="one MRC file per state, or one .npy stack (K,D,D,D)")
    add("--builtin", nargs="+", default=[], metavar="NAME", help="shipped densities ('list' names them)")
    add("-o", "--outdir", type=Path, metavar="DIR", help="new folder for the set")
    add("--overwrite", action="store_true", help="replace an earlier simulated set in DIR")
    add("-n", "--count", type=int, default=300, help="number of subtomograms")
    add("--seed", type=int, default=0, help="of all random numbers")
    add("--device", help="cpu, cuda or cuda:N (default: a GPU if there is one)")

    group = parser.add_argument_group("subtomograms")
    add = group.add_argument
    add("--apix", type=float, metavar="Å", help="pixel size; other volumes are resampled (default: theirs)")
    add("--box", type=int, metavar="D", help="box size in voxels, even (default: that of the volumes)")
    add("--raw", action="store_true", help="plain back-projection, not divided by the sampling weights")
    add("--float16", action="store_true", help="write MRC mode 12 instead of 2")
    add("--relion31", action="store_true", help="STAR file with optics block and origins in Å")

    group = parser.add_argument_group("particles")
    add = group.add_argument
    add("--weights", type=float, nargs="+", metavar="W", help="frequency of each volume (default: equal)")
    add(
        "--empty",
        type=float,
        default=0.0,
        metavar="FRACTION",
        help="fraction of boxes of mere noise (label -1)",
    )
    add(
        "--shift",
        type=float,
        default=2.0,
        metavar="PX",
        help="largest origin per component",
    )
    add("--rot-err", type=float, default=0.0, metavar="DEG", help="standard deviation of the error of angles")
    add(
        "--shift-err",
        type=float,
        default=0.0,
        metavar="PX",
        help="standard deviation of the error of the origins",
    )

    group = parser.add_argument_group("tilt series and microscope")
    add = group.add_argument
    add(
        "--tilt-range",
        type=float,
        nargs="+",
        default=[60.0],
        metavar="DEG",
        help="±DEG, or lowest and highest tilt",
    )
    add("--tilt-step", type=float, default=3.0, metavar="DEG", help="degrees between tilts")
    add("--tilts", type=Path, metavar="FILE", help="angles, one per line; second column: accumulated dose")
    add("--dose", type=float, default=3.0, help="e/Å² per tilt, exposed dose-symmetrically")
    add("--snr", type=float, default=0.1, help="of the 0° image, whole box; inf: no noise")
    add(
        "--defocus",
        type=float,
        nargs=2,
        default=[20000.0, 40000.0],
        metavar=("LO", "HI"),
        help="underfocus, Å",
    )
    add("--astigmatism", type=float, default=0.0, metavar="Å", help="largest difference of the two defoci")
    add("--voltage", type=float, default=300.0, metavar="KV", help="of the electrons")
    add("--cs", type=float, default=2.7, metavar="MM", help="spherical aberration")
    add("--amplitude", type=float, default=0.07, help="amplitude contrast")


def run(args: argparse.Namespace) -> None:
    """Check the options, read the volumes, write the set."""
    from opustomo.errors import UserError
    from opustomo.simulate.acquisition import Optics
    from opustomo.simulate.dataset import SimulationConfig, check_target, simulate_dataset
    from opustomo.simulate.densities import list_densities
    from opustomo.simulate.volumes import gather_volumes

    if args.builtin == ["list"]:
        print("\n".join(list_densities()))
        return
    if args.outdir is None:
        raise UserError("-o DIR is needed: the folder for the simulated set.")
    _check_numbers(args)
    check_target(args.outdir, args.overwrite)
    device = _device(args.device)
    volumes, apix = gather_volumes([Path(name) for name in args.volumes], args.builtin, args.apix, args.box)
    if args.weights is not None and len(args.weights) != len(volumes):
        raise UserError(f"--weights needs one number per volume: {len(volumes)}, not {len(args.weights)}.")
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
        normalise=not args.raw,
        float16=args.float16,
        relion31=args.relion31,
        seed=args.seed,
        device=device,
    )
    simulate_dataset(volumes, config, args.outdir, overwrite=args.overwrite)
    size = f"{volumes.shape[-1]}³ voxels of {apix:g} Å"
    print(f"{args.count} subtomograms of {len(volumes)} volumes, {size}: {args.outdir}")


def _check_numbers(args: argparse.Namespace) -> None:
    """Ranges that argparse does not know."""
    from opustomo.errors import UserError

    wrong = {
        f"-n {args.count}: at least one subtomogram is needed": args.count < 1,
        f"--snr {args.snr:g}: must be positive (inf for no noise)": not args.snr > 0,
        f"--apix {args.apix}: must be positive": args.apix is not None and not args.apix > 0,
        f"--box {args.box}: must be even and at least 16": args.box not in (None, *range(16, 4096, 2)),
        f"--empty {args.empty:g}: must be at least 0 and below 1": not 0 <= args.empty < 1,
        f"--dose {args.dose:g}: must not be negative": not args.dose >= 0,
        f"--voltage {args.voltage:g}: must be positive, in kV": not 0 < args.voltage < 10000,
        f"--cs {args.cs:g}: must not be negative": not args.cs >= 0,
        f"--amplitude {args.amplitude:g}: must lie between 0 and 1": not 0 <= args.amplitude <= 1,
        f"--seed {args.seed}: must not be negative": args.seed < 0,
        f"--rot-err {args.rot_err:g}: must not be negative": not args.rot_err >= 0,
        f"--shift {args.shift:g}: must not be negative": not args.shift >= 0,
        f"--shift-err {args.shift_err:g}: must not be negative": not args.shift_err >= 0,
        f"--astigmatism {args.astigmatism:g}: must not be negative": not args.astigmatism >= 0,
        "--tilt-range takes one number (±) or two": len(args.tilt_range) > 2,
        "--defocus must rise, from 0 or more": not 0 <= args.defocus[0] <= args.defocus[1],
        f"--defocus {args.defocus[1]:g}: is meant in Å (2 µm are 20000)": 0 < args.defocus[1] < 100,
        "--weights must be positive": args.weights is not None and not min(args.weights) > 0,
    }
    for message, is_wrong in wrong.items():
        if is_wrong:
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
        raise UserError(f"--device {name}: no such device; use cpu, cuda or cuda:N.") from error
    found = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= found:
        raise UserError(f"--device {name}: {found} usable GPUs are on this machine; use --device cpu.")
    return name


def _check_fits(volumes: np.ndarray, shift: float) -> None:
    from opustomo.errors import UserError

    if shift >= volumes.shape[-1] / 2:
        raise UserError(f"--shift {shift:g}: would move particles out of their boxes ({volumes.shape[-1]} voxels).")
