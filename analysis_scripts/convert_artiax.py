"""`dsdsh convert_artiax`: particles of one tomogram to look at with ArtiaX in ChimeraX."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "Write the particles of exactly one tomogram, in its own pixels, for ArtiaX."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("star", type=Path, metavar="STAR", help="particle table of any RELION version")
    parser.add_argument("mic", help="name of the tomogram")
    parser.add_argument("--factor", type=float, default=2.132, help="multiply coordinates (and origins in pixels)")
    parser.add_argument("--deduplicate", action="store_true", help="leave out particles at the place of another")
    parser.add_argument("--micrograph-col", metavar="COLUMN", help="rlnMicrographName, else rlnTomoName if not given")
    parser.add_argument("--data-block", metavar="NAME", help="block of the particles; found by itself if not given")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="STAR", help="{stem}_{mic}_artiax.star beside the table if not given"
    )


def run(args: argparse.Namespace) -> None:
    """Convert."""
    from analysis_scripts.converted import positive, write_converted
    from opustomo.convert.matching import TomogramChoice, artiax_list
    from opustomo.io.tomogram_names import tomogram_stem
    from opustomo.prepare.particle_columns import particles_of_block

    star = particles_of_block(args.star, args.data_block)
    choice = TomogramChoice(args.mic, args.micrograph_col)
    result = artiax_list(star, choice, positive(args.factor, "--factor"), args.deduplicate)
    name = f"{args.star.stem}_{tomogram_stem(args.mic)}_artiax.star"
    write_converted(result, args.output or args.star.with_name(name))
