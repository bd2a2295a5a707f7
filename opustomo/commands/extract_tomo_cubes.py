"""`dsdsh extract_tomo_cubes`: crop subtomograms from a reconstructed tomogram."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opustomo.io.star_tables import ParticleStar

HELP = "crop subtomograms from a tomogram at the positions of a STAR file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
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


def run(args: argparse.Namespace) -> None:
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
