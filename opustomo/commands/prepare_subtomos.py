"""`dsd prepare_subtomos`: reconstruct subtomograms and write their CTF tables from 2D particle series of M."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "reconstruct subtomograms with CTF tables from 2D particle series of M (one row per tilt image)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsd prepare_subtomos``."""
    add = parser.add_argument
    add("particles", type=Path, metavar="STAR", help="table with one row per image, rlnImageName as 000001@stack.mrcs")
    add("-o", "--outdir", type=Path, required=True, metavar="DIR", help="output folder")
    add("--datadir", type=Path, metavar="DIR", help="folder of the image stacks (default: that of STAR)")
    add(
        "--group-col", metavar="COLUMN", help="column that identifies particles (default: names of particles or stacks)"
    )
    add(
        "--axis-tolerance",
        type=float,
        default=5.0,
        metavar="DEG",
        help="maximum angle between the tilt axis of an image and the common tilt axis of its particle",
    )
    add(
        "--off-axis",
        choices=("leave-out", "keep"),
        default="leave-out",
        help="treatment of images whose tilt axis deviates more",
    )
    add("--box", type=int, metavar="D", help="even box size in voxels (default: that of the images)")
    add("--apix", type=float, metavar="Å", help="pixel size of the subtomograms (default: that of the images)")
    add("--invert", action="store_true", help="invert the contrast, because particles are dark in the images")
    add("--raw", action="store_true", help="do not divide by the sampling weights (train without --normalizectf)")
    add("--float16", action="store_true", help="write half-precision subtomograms")
    add("--workers", type=int, default=2, help="number of worker processes")


def run(args: argparse.Namespace) -> None:
    """Reconstruct and write the subtomograms, and print their number."""
    from opustomo.errors import UserError
    from opustomo.io.star_tables import read_particles
    from opustomo.prepare.particle_series import SeriesConfig, prepare_series

    if args.box is not None and (args.box < 8 or args.box % 2):
        raise UserError(f"--box is {args.box}, but it must be even and at least 8.")
    if args.apix is not None and not 0 < args.apix < 1e6:
        raise UserError(f"--apix is {args.apix:g}, but it must be positive.")
    if not 0 < args.axis_tolerance < 90:
        raise UserError(f"--axis-tolerance is {args.axis_tolerance:g}°, but it must be between 0° and 90°.")
    star = read_particles(args.particles)
    config = SeriesConfig(
        folder=args.outdir,
        apix=args.apix,
        box=args.box,
        datadir=args.datadir,
        group_column=args.group_col,
        axis_tolerance_deg=args.axis_tolerance,
        keep_off_axis=args.off_axis == "keep",
        invert=args.invert,
        normalise=not args.raw,
        float16=args.float16,
        workers=max(1, args.workers),
    )
    report = prepare_series(star, config)
    print(f"Reconstructed {report.particles} subtomograms from {len(star)} images in {args.particles}")
    for note in report.notes:
        print(f"Note: {note}")
    print(f"Wrote {report.star}. Train {'without' if args.raw else 'with'} --normalizectf.")
