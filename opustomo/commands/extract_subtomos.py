"""`dsd extract_subtomos` and `dsd prepare_subtomos`: reconstruct subtomograms and write their CTF tables.

The first starts from tilt series, the second from 2D particle series of M."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

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

    add = parser.add_argument_group("tilt series (one of the first three options is required)").add_argument
    add("--tomograms", type=Path, metavar="STAR", help="tomograms.star of RELION 4 or 5")
    add("--warp", type=Path, metavar="DIR", help="folder of the tilt-series XML files of WARP or M")
    add(
        "--tilts",
        type=Path,
        metavar="DIR",
        help="folder of .tlt, .xf, .ali or .st (IMOD), .aln (AreTomo), .order or .mdoc (doses) and defocus files",
    )
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
        "--image-size",
        type=int,
        nargs=2,
        metavar=("NX", "NY"),
        help="size of the tilt images of WARP in unbinned pixels (default: as stated in the files)",
    )
    add(
        "--hand",
        type=int,
        choices=(-1, 1),
        help="sign of the depth of particles, see docs/handedness.md (default: as stated in the files)",
    )
    add(
        "--tilt-sign",
        type=int,
        choices=(-1, 1),
        default=-1,
        help="factor that converts the tilt angles of .tlt and .aln files to the convention of RELION",
    )
    add("--defocus-name", metavar="NAME", help="name of the defocus files, with {stem} for the stem of the tomogram")
    add("--voltage", type=float, default=300.0, metavar="KV", help="acceleration voltage, for --tilts")
    add("--cs", type=float, default=2.7, metavar="MM", help="spherical aberration, for --tilts")
    add("--amplitude", type=float, default=0.07, help="amplitude contrast, for --tilts")
    add(
        "--dose",
        type=float,
        default=3.0,
        metavar="E",
        help="dose per tilt in e/Å², used if .order files contain no doses",
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
    from opustomo.io.star_tables import read_particles
    from opustomo.prepare.extraction import extract_subtomograms

    _check(args)
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


def _check(args: argparse.Namespace) -> None:
    from opustomo.errors import UserError

    if args.box < 8 or args.box % 2:
        raise UserError(f"--box is {args.box}, but it must be even and at least 8.")
    for option in ("apix", "image_apix", "series_apix", "coord_apix", "voltage"):
        value = getattr(args, option)
        if value is not None and not 0 < value < 1e6:
            raise UserError(f"--{option.replace('_', '-')} is {value:g}, but it must be positive.")
    for option in ("tomo_size", "image_size"):
        value = getattr(args, option)
        if value is not None and min(value) < 1:
            raise UserError(
                f"--{option.replace('_', '-')} is {' '.join(map(str, value))}, but the sizes must be positive."
            )
    if sum(option is not None for option in (args.tilts, args.tomograms, args.warp)) != 1:
        raise UserError(
            f"The tilt series of {args.particles} are missing. Give one of --tomograms, --warp and --tilts."
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
