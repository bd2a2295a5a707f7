"""`dsdsh combine_star`: several particle tables as one."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "Put particle tables of any RELION versions one after the other; duplicates are reported."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("stars", type=Path, nargs="+", metavar="A B OUT", help="two tables or more, then the result")
    parser.add_argument("--drop-duplicates", action="store_true", help="keep only the first row of each particle")


def run(args: argparse.Namespace) -> None:
    """Combine."""
    from analysis_scripts.converted import write_converted
    from opustomo.convert.combine import combine
    from opustomo.errors import UserError
    from opustomo.io.star import read_particles

    if len(args.stars) < 3:
        raise UserError("give two STAR files or more, and last the name of the result.")
    *sources, out = args.stars
    stars = [read_particles(path) for path in sources]
    for star in stars:
        print(f"{len(star)} particles in {star.path}")
    write_converted(combine(stars, args.drop_duplicates), out)
