"""`dsdsh prepare_multi`: poses and the geometry of bodies, in the places where training looks for them."""

import argparse
from pathlib import Path

from opustomo.commands.parse_multi_pose_star import add_geometry_options, prepare_bodies

HELP = "Write {dir}/{stem}_pose_euler.pkl with room for bodies, and the geometry of the bodies that masks define."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("star", type=Path, metavar="STAR", help="particle table of any RELION version or WARP")
    parser.add_argument("box", type=int, metavar="D", help="box length of the subtomograms, pixels")
    parser.add_argument("apix", type=float, help="pixel size of the subtomograms, Å")
    parser.add_argument("masks", type=Path, metavar="MASKS", help="RELION multi-body STAR file")
    parser.add_argument("numb", type=int, help="how many bodies it defines")
    add_geometry_options(parser)


def run(args: argparse.Namespace) -> None:
    """Write both files."""
    out = args.star.with_name(f"{args.star.stem}_pose_euler.pkl")
    prepare_bodies(args, args.star, args.box, args.apix, args.masks, args.numb, out)
