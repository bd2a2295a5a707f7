"""Subtomograms: `dsd extract_subtomos`, `dsd prepare_subtomos` and `dsdsh extract_tomo_cubes`.

The first two reconstruct subtomograms from tilt series and from 2D particle series of M and write their CTF tables. The
third crops them from a reconstructed tomogram."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from opustomo.commands.options import add_microscope, add_tilt_series
from opustomo.commands.registry import Command

if TYPE_CHECKING:
    from opustomo.io.star_tables import ParticleStar
    from opustomo.io.tilt_series.discovery import SeriesSource
    from opustomo.prepare.subtomogram_extraction import ExtractionConfig


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
    from opustomo.commands.closing_messages import print_next
    from opustomo.errors import UserError
    from opustomo.io.star_tables import read_particles
    from opustomo.prepare.subtomogram_extraction import extract_subtomograms

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
    from opustomo.prepare.subtomogram_extraction import ExtractionConfig, ReconstructionConfig

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


def add_extract_tomo_cubes_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh extract_tomo_cubes``."""
    add = parser.add_argument
    add("tomo", type=Path, metavar="TOMO", help="tomogram (MRC), which is memory-mapped")
    add("star", type=Path, metavar="STAR", help="particle table")
    add("--box-size", type=int, required=True, metavar="B", help="even box size in voxels")
    add("-o", "--output", type=Path, required=True, metavar="DIR", help="output folder of the subtomograms")
    add(
        "--coord-cols",
        nargs=3,
        metavar=("X", "Y", "Z"),
        default=[f"rlnCoordinate{a}" for a in "XYZ"],
        help="coordinate columns",
    )
    add("--data-block", metavar="NAME", help="data block of the particles (default: detected)")
    add("--tomo-col", metavar="COLUMN", help="column of the tomogram name (default: rlnTomoName or rlnMicrographName)")
    add("--tomo-id", metavar="NAME", help="tomogram name of the rows to use (default: the name of TOMO)")
    add(
        "--coord-scale", type=float, default=1.0, metavar="F", help="factor that converts coordinates to voxels of TOMO"
    )
    add("--one-based", action="store_true", help="coordinates are counted from 1")
    add(
        "--round-mode",
        choices=("round", "floor", "ceil", "trunc"),
        default="round",
        help="rounding of coordinates to voxels",
    )
    add(
        "--pad-outside",
        action="store_true",
        help="keep boxes that extend beyond the tomogram and fill them with their mean",
    )
    add("--out-star", type=Path, metavar="STAR", help="output particle table of the subtomograms")
    add("--prefix", default="cube", help="prefix of the file names {prefix}_{index}.mrc")
    add("--start-index", type=int, default=1, metavar="I", help="index of the first subtomogram")
    add("--write-stack", action="store_true", help="also write all subtomograms to {prefix}_stack.mrcs")
    add("--keep-values", action="store_true", help="do not normalize subtomograms to mean 0 and standard deviation 1")
    add("--float16", action="store_true", help="write half-precision subtomograms")
    add("--apix", type=float, metavar="Å", help="pixel size of TOMO (default: MRC header)")


def run_extract_tomo_cubes(args: argparse.Namespace) -> None:
    """Crop and write the subtomograms, and print their number."""
    from opustomo.convert.conventions import require_pixels
    from opustomo.errors import UserError
    from opustomo.io.mrc import read_header
    from opustomo.io.star_conventions import COORDINATES
    from opustomo.io.tomograms import rows_in_tomogram
    from opustomo.prepare.cubes import CubeConfig, extract_cubes
    from opustomo.prepare.particle_tables import particles_of_block

    header = read_header(args.tomo)
    apix = args.apix or header.apix
    if apix is None:
        raise UserError(f"The MRC header of {args.tomo} has no pixel size. Give it with --apix.")
    star = particles_of_block(args.star, args.data_block)
    if tuple(args.coord_cols) == COORDINATES:
        require_pixels(star)
    rows = rows_in_tomogram(star, args.tomo, args.tomo_col, args.tomo_id)
    config = CubeConfig(
        box=args.box_size,
        folder=args.output,
        apix=apix,
        coord_columns=tuple(args.coord_cols),
        coord_scale=args.coord_scale,
        one_based=args.one_based,
        round_mode=args.round_mode,
        pad_outside=args.pad_outside,
        normalize=not args.keep_values,
        float16=args.float16,
        prefix=args.prefix,
        start_index=args.start_index,
        write_stack=args.write_stack,
        out_star=args.out_star,
    )
    if tuple(args.coord_cols) == COORDINATES:
        _note_scale(star.subset(rows), args.coord_scale, apix)
    written = extract_cubes(header, star.subset(rows), config)
    lost = len(rows) - written
    print(
        f"Wrote {written} subtomograms to {args.output}: {len(rows)} of the {len(star)} particles in {args.star} are "
        "in this tomogram"
    )
    if lost:
        print(
            f"Note: {lost} particles are omitted because their boxes extend beyond the tomogram. Use --pad-outside to "
            "keep them."
        )


EXTRACT_TOMO_CUBES = Command(
    "crop subtomograms from a tomogram at the positions of a STAR file",
    add_extract_tomo_cubes_arguments,
    run_extract_tomo_cubes,
)


def _note_scale(star: ParticleStar, scale: float, apix: float) -> None:
    """Print a note if the pixel sizes of table and tomogram suggest another ``--coord-scale``."""
    import numpy as np

    from opustomo.io.star import format_pixel_sizes
    from opustomo.io.star_conventions import coordinate_sizes

    sizes = coordinate_sizes(star)
    if sizes is None or np.allclose(sizes / apix, scale, rtol=0.01):
        return
    wanted = ", ".join(f"{size / apix:.5g}" for size in np.unique(np.round(sizes, 5)))
    print(
        f"Note: The coordinates of {star.path} are in pixels of {format_pixel_sizes(sizes)}, and the tomogram has "
        f"voxels of {apix:.5g} Å, which suggests --coord-scale {wanted}, but {scale:g} is used."
    )
