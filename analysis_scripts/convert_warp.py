"""`dsdsh convert_warp`: particles of an M species as a RELION table."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "Turn the particle STAR file of an M species (wrp… columns, Å) into a RELION 3.0 table."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("star", type=Path, metavar="STAR", help="particles of an M species")
    parser.add_argument("angpix", type=float, help="pixel size of the coordinates to write, Å")
    parser.add_argument("--kv", type=float, default=300.0, help="voltage, kV")
    parser.add_argument("--cs", type=float, default=2.7, help="spherical aberration, mm")
    parser.add_argument("-o", "--output", type=Path, metavar="STAR", help="{stem}_relion.star beside it if not given")


def run(args: argparse.Namespace) -> None:
    """Convert."""
    from analysis_scripts.converted import positive, write_converted
    from opustomo.convert.warp import relion_from_species

    result = relion_from_species(
        args.star, positive(args.angpix, "angpix"), positive(args.kv, "--kv"), positive(args.cs, "--cs")
    )
    write_converted(result, args.output or args.star.with_name(f"{args.star.stem}_relion.star"))
