"""`dsdsh convert_dynamo`: Dynamo tables to RELION and back."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "Turn a Dynamo table (.tbl) into a RELION 3.0 STAR file, or a STAR file into a Dynamo table."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "source", type=Path, metavar="TBL|STAR", help="table to convert; its suffix tells the direction"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="STAR|TBL", help="beside it if not given")
    parser.add_argument("--tomograms", type=Path, metavar="DOC", help="numbers and names of the tomograms (.doc, .vll)")
    parser.add_argument("--angpix", type=float, help="pixel size of the coordinates read, Å; else taken from the table")
    parser.add_argument("--scale", type=float, default=1.0, help="multiply coordinates and shifts (another binning)")
    parser.add_argument(
        "--star",
        type=Path,
        metavar="STAR",
        help="put the poses of TBL back into this table, which it was made from (with the same --scale)",
    )


def run(args: argparse.Namespace) -> None:
    """Convert."""
    from analysis_scripts.converted import doubtful_angles, positive, write_converted
    from opustomo.convert.dynamo import dynamo_from_relion_table, put_into_table, relion_from_dynamo_table
    from opustomo.convert.dynamo_table import read_table, read_tomogram_list, write_table, write_tomogram_list
    from opustomo.errors import UserError
    from opustomo.io.star import read_particles

    scale = positive(args.scale, "--scale")
    apix = None if args.angpix is None else positive(args.angpix, "--angpix")
    tomograms = None if args.tomograms is None else read_tomogram_list(args.tomograms)
    if args.source.suffix.lower() != ".star":
        table = read_table(args.source)
        if args.star is not None:
            result = put_into_table(table, str(args.source), read_particles(args.star), apix, scale)
        else:
            result = relion_from_dynamo_table(table, str(args.source), tomograms, apix, scale)
        write_converted(result, args.output or args.source.with_suffix(".star"))
        return
    if args.star is not None:
        raise UserError("--star goes with a Dynamo table as input; give a .tbl file first.")
    out = args.output or args.source.with_suffix(".tbl")
    if out.suffix.lower() != ".tbl":
        raise UserError(f"{out}: the result is a Dynamo table; give a name that ends in .tbl.")
    star = read_particles(args.source)
    columns, names = dynamo_from_relion_table(star, tomograms, apix, scale)
    if names:
        write_tomogram_list(out.with_suffix(".doc"), names)
        print(f"{len(names)} tomograms: {out.with_suffix('.doc')}")
    angles = doubtful_angles(star)
    write_table(out, columns)
    if angles is not None:
        print(f"Note: {angles}.")
    print(f"{len(star)} particles in, {len(columns['tag'])} out: {out}")
