"""`dsd extract_subtomos` and `dsd prepare_subtomos`: reconstruct subtomograms and write their CTF tables.

The first starts from tilt series, the second from 2D particle series of M."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from opustomo.commands.options import add_microscope, add_tilt_series
from opustomo.commands.registry import Command

if TYPE_CHECKING:
    from opustomo.io.tilt_series.discovery import SeriesSource
    from opustomo.prepare.extraction import ExtractionConfig


def add_extract_subtomos_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsd extract_subtomos``."""
    add = parser.add_argument
    add("particles", type=Path, metavar="STAR", help="particle table with coordinates and tomogram names")
    add(
        "-o",
        "--outdir",
        type=Path,
        required=True,
        metavar="DIR",
        help="output folder of the subtomograms and particles.star",
    )
    add("--box", type=int, required=True, metavar="D", help="even box size in voxels")
    add("--apix", type=float, required=True, metavar="Å", help="pixel size of the subtomograms")
    add("--workers", type=int, default=2, help="number of worker processes")

    series = parser.add_argument_group("tilt series (one of the first three options is required)")
    add_tilt_series(series)
    add_microscope(series)
    add = series.add_argument
    add("--images", type=Path, metavar="DIR", help="folder of tilt images or stacks (default: as named in the files)")
    add("--image-apix", type=float, metavar="Å", help="pixel size of the tilt images (default: MRC headers)")
    add(
        "--series-apix",
        type=float,
        metavar="Å",
        help="unbinned pixel size of the tilt series (default: as stated in the files)",
    )
    add(
        "--coord-apix",
        type=float,
        metavar="Å",
        help="pixel size of coordinates in pixels (default: that of --series-apix)",
    )
    add("--tomo-size", type=int, nargs=3, metavar=("NX", "NY", "NZ"), help="size of the tomogram in unbinned pixels")
    add(
        "--hand",
        type=int,
        choices=(-1, 1),
        help="sign of the depth of particles, see docs/handedness.md (default: as stated in the files)",
    )

    add = parser.add_argument_group("subtomograms").add_argument
    add(
        "--no-invert",
        action="store_true",
        help="do not invert the contrast, because particles are bright in the tilt images",
    )
    add("--keep-scale", action="store_true", help="do not divide each tilt image by its standard deviation")
    add("--raw", action="store_true", help="do not divide by the sampling weights (train without --normalizectf)")
    add(
        "--recenter",
        "--recentre",
        action="store_true",
        dest="recenter",
        help="add the origins to the coordinates and set them to 0",
    )
    add(
        "--keep-frame", action="store_true", help="keep the axes of the tomogram even if the tilt axis is not exactly y"
    )
    add("--float16", action="store_true", help="write half-precision subtomograms")


def run_extract_subtomos(args: argparse.Namespace) -> None:
    """Extract the subtomograms and print the training options that they require."""
    from opustomo.commands.next_commands import print_next
    from opustomo.errors import UserError
    from opustomo.io.star_tables import read_particles
    from opustomo.prepare.extraction import extract_subtomograms

    if sum(option is not None for option in (args.tilts, args.tomograms, args.warp)) != 1:
        raise UserError(
            f"The tilt series of {args.particles} are missing. Give one of --tomograms, --warp and --tilts."
        )
    star = read_particles(args.particles)
    report = extract_subtomograms(star, _source(args), _config(args))
    print(
        f"Reconstructed {report.particles} subtomograms from {report.tomograms} tomograms for the {len(star)} "
        f"particles in {args.particles}"
    )
    for note in report.notes:
        print(f"Note: {note}")
    print(f"Wrote {report.star}. Train with {'' if args.raw else '--normalizectf '}--angpix {args.apix:g}.")
    print_next((["dsdsh", "prepare", report.star, args.box, f"{args.apix:g}"], ""))


EXTRACT_SUBTOMOS = Command(
    "reconstruct subtomograms with matching CTF tables from the tilt series of RELION, WARP, M, IMOD or AreTomo",
    add_extract_subtomos_arguments,
    run_extract_subtomos,
)


def _source(args: argparse.Namespace) -> SeriesSource:
    from opustomo.io.tilt_series.discovery import SeriesSource
    from opustomo.io.tilt_series.imod import Microscope

    return SeriesSource(
        relion=args.tomograms,
        warp=args.warp,
        text=args.tilts,
        apix=args.series_apix,
        tomo_size=None if args.tomo_size is None else tuple(args.tomo_size),
        image_size=None if args.image_size is None else tuple(args.image_size),
        images=args.images,
        hand=args.hand,
        tilt_sign=args.tilt_sign,
        defocus_name=args.defocus_name,
        microscope=Microscope(args.voltage, args.cs, args.amplitude, args.dose),
    )


def _config(args: argparse.Namespace) -> ExtractionConfig:
    from opustomo.prepare.extraction import ExtractionConfig
    from opustomo.prepare.subtomogram_reconstruction import ReconstructionConfig

    return ExtractionConfig(
        folder=args.outdir,
        reconstruction=ReconstructionConfig(
            args.box,
            args.apix,
            normalize=not args.raw,
            invert=not args.no_invert,
            keep_scale=args.keep_scale,
            float16=args.float16,
        ),
        images=args.images,
        image_apix=args.image_apix,
        coord_apix=args.coord_apix,
        recenter=args.recenter,
        turn=not args.keep_frame,
        workers=max(1, args.workers),
    )


def add_prepare_subtomos_arguments(parser: argparse.ArgumentParser) -> None:
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


def run_prepare_subtomos(args: argparse.Namespace) -> None:
    """Reconstruct and write the subtomograms, and print their number."""
    from opustomo.io.star_tables import read_particles
    from opustomo.prepare.particle_series import SeriesConfig, prepare_series

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
        normalize=not args.raw,
        float16=args.float16,
        workers=max(1, args.workers),
    )
    report = prepare_series(star, config)
    print(f"Reconstructed {report.particles} subtomograms from {len(star)} images in {args.particles}")
    for note in report.notes:
        print(f"Note: {note}")
    print(f"Wrote {report.star}. Train {'without' if args.raw else 'with'} --normalizectf.")


PREPARE_SUBTOMOS = Command(
    "reconstruct subtomograms with CTF tables from 2D particle series of M (one row per tilt image)",
    add_prepare_subtomos_arguments,
    run_prepare_subtomos,
)
