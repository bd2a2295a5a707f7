"""`dsdsh convert_pytom`: picks of one tomogram as WARP's result of template matching."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "Write the particles of exactly one tomogram as a template-matching STAR file for WARP."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("star", type=Path, metavar="STAR", help="particle table, as of convert_pytom_to_star")
    parser.add_argument("mic", help="name of the tomogram; {mic}.tomostar is written as its tilt series")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="STAR", help="{mic}_norm.star in the working folder if not given"
    )


def run(args: argparse.Namespace) -> None:
    """Convert."""
    from analysis_scripts.converted import write_converted
    from opustomo.convert.matching import TomogramChoice, warp_matching
    from opustomo.io.star import read_particles
    from opustomo.io.tomogram_names import base_name

    result = warp_matching(read_particles(args.star), TomogramChoice(args.mic))
    name = base_name(args.mic).removesuffix(".tomostar")
    write_converted(result, args.output or Path(f"{name}_norm.star"))
