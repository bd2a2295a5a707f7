"""`dsd prepare_subtomos`: subtomograms and CTF tables from M's two-dimensional particle series."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "turn M's 2D particle series (one row per tilt image) into subtomograms with a CTF table each"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("particles", type=Path, metavar="STAR", help="table with one row per image, rlnImageName as 000001@stack.mrcs")
    add("-o", "--outdir", type=Path, required=True, metavar="DIR", help="for subtomograms, tables and particles.star")
    add("--datadir", type=Path, metavar="DIR", help="folder of the stacks (default: that of STAR)")
    add("--group-col", metavar="COLUMN", help="column that tells particles apart (default: names of particles, stacks)")
    add(
        "--axis-tolerance",
        type=float,
        default=5.0,
        metavar="DEG",
        help="angle off the common tilt axis up to which an image of a particle is on it (default: %(default)s)",
    )
    add(
        "--off-axis",
        choices=("leave-out", "keep"),
        default="leave-out",
        help="what to do with images that are farther off (default: %(default)s)",
    )
    add("--box", type=int, metavar="D", help="side in voxels, even (default: the images')")
    add("--apix", type=float, metavar="Å", help="pixel size of the subtomograms (default: the images')")
    add("--invert", action="store_true", help="particles are dark in the images")
    add("--raw", action="store_true", help="do not divide by the sampling weights; train without --normalizectf then")
    add("--float16", action="store_true", help="write half precision")
    add("--workers", type=int, default=2, help="processes")


def run(args: argparse.Namespace) -> None:
    """Reconstruct, write, and say how many."""
    from opustomo.errors import UserError
    from opustomo.io.star_tables import read_particles
    from opustomo.prepare.particle_series import SeriesConfig, prepare_series

    if args.box is not None and (args.box < 8 or args.box % 2):
        raise UserError(f"--box {args.box}: must be even and at least 8.")
    if args.apix is not None and not 0 < args.apix < 1e6:
        raise UserError(f"--apix {args.apix:g}: must be positive.")
    if not 0 < args.axis_tolerance < 90:
        raise UserError(f"--axis-tolerance {args.axis_tolerance:g}: must lie between 0 and 90 degrees.")
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
    print(f"{len(star)} images in {args.particles}: {report.particles} subtomograms")
    for note in report.notes:
        print(f"note: {note}")
    print(f"Wrote {report.star}; train {'without' if args.raw else 'with'} --normalizectf")
