"""`dsdsh extract_tomo_cubes`: subtomograms cut from a reconstructed tomogram."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opustomo.io.star_tables import ParticleStar

HELP = "cut subtomograms from a tomogram at the positions of a STAR file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("tomo", type=Path, metavar="TOMO", help="tomogram (MRC of any type); mapped, never read as a whole")
    add("star", type=Path, metavar="STAR", help="particle table")
    add("--box-size", type=int, required=True, metavar="B", help="side of the cubes in voxels, even")
    add("-o", "--output", type=Path, required=True, metavar="DIR", help="folder of the cubes")
    add("--coord-cols", nargs=3, metavar=("X", "Y", "Z"), default=[f"rlnCoordinate{a}" for a in "XYZ"], help="columns")
    add("--data-block", metavar="NAME", help="block of the STAR file (default: the one that holds particles)")
    add("--tomo-col", metavar="COLUMN", help="column that names the tomogram (default: rlnTomoName, rlnMicrographName)")
    add("--tomo-id", metavar="NAME", help="take the rows with this name (default: the rows that name TOMO)")
    add("--coord-scale", type=float, default=1.0, metavar="F", help="coordinates × F are voxels of TOMO")
    add("--one-based", action="store_true", help="coordinates count from 1")
    add("--round-mode", choices=("round", "floor", "ceil", "trunc"), default="round", help="coordinates to voxels")
    add("--pad-outside", action="store_true", help="keep cubes that reach over the rim, filled with their mean")
    add("--out-star", type=Path, metavar="STAR", help="write the particle table of the cubes")
    add("--prefix", default="cube", help="cubes are {prefix}_{index}.mrc")
    add("--start-index", type=int, default=1, metavar="I", help="index of the first cube")
    add("--write-stack", action="store_true", help="write {prefix}_stack.mrcs with all cubes too")
    add("--keep-values", action="store_true", help="do not bring cubes to mean 0 and deviation 1")
    add("--float16", action="store_true", help="write half precision")
    add("--apix", type=float, metavar="Å", help="pixel size of TOMO (default: its header)")


def run(args: argparse.Namespace) -> None:
    """Cut, write, and say how many particles went in and out."""
    from opustomo.convert.columns import COORDINATES, require_pixels
    from opustomo.errors import UserError
    from opustomo.io.mrc import read_header
    from opustomo.io.tomograms import rows_in_tomogram
    from opustomo.prepare.cubes import CubeConfig, extract_cubes
    from opustomo.prepare.particle_tables import particles_of_block

    if args.box_size < 2 or args.box_size % 2:
        raise UserError(f"--box-size {args.box_size}: must be even and positive.")
    for option in ("coord_scale", "apix"):
        value = getattr(args, option)
        if value is not None and not 0 < value < 1e6:
            raise UserError(f"--{option.replace('_', '-')} {value:g}: must be positive.")
    if args.start_index < 0 or not args.prefix or "/" in args.prefix:
        raise UserError("--start-index must not be negative, and --prefix a name without folders.")
    header = read_header(args.tomo)
    apix = args.apix or header.apix
    if apix is None:
        raise UserError(f"{args.tomo}: its header tells no pixel size; give it with --apix.")
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
        normalise=not args.keep_values,
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
    print(f"{len(star)} particles in {args.star}, {len(rows)} in this tomogram: {written} cubes in {args.output}")
    if lost:
        print(f"note: {lost} particles were left out because their boxes reach over the rim; --pad-outside keeps them")


def _note_scale(star: ParticleStar, scale: float, apix: float) -> None:
    """Print a note if the pixel sizes of table and tomogram ask for another ``--coord-scale``."""
    import numpy as np

    from opustomo.io.star import listed_sizes
    from opustomo.io.star_conventions import coordinate_sizes

    sizes = coordinate_sizes(star)
    if sizes is None or np.allclose(sizes / apix, scale, rtol=0.01):
        return
    wanted = ", ".join(f"{size / apix:.5g}" for size in np.unique(np.round(sizes, 5)))
    print(
        f"note: coordinates of {star.path} count in pixels of {listed_sizes(sizes)}, and the tomogram has voxels of "
        f"{apix:.5g} Å, which asks for --coord-scale {wanted}; {scale:g} is used"
    )
