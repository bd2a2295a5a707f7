"""`dsd interpolate`: a straight path between particles or clusters."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "write latents on the straight line between particles or clusters"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("latents", type=Path, metavar="Z", help="z.N.pkl for particles, centers.txt for clusters")
    parser.add_argument(
        "--between", type=int, nargs="+", required=True, metavar="i", help="particles or clusters to pass, from 0"
    )
    parser.add_argument("-n", type=int, default=10, help="points from one to the next, both counted")
    parser.add_argument("--conformation", action="store_true", help="of the conformation instead of the composition")
    parser.add_argument("-o", "--out", type=Path, metavar="TXT", default=Path("z.txt"), help="latents to write")


def run(args: argparse.Namespace) -> None:
    """Write the path."""
    from opustomo.analysis.neighbours import check_particles, straight_path
    from opustomo.io.latents import read_latent_table
    from opustomo.io.tables import write_table

    latents = read_latent_table(args.latents, args.conformation)
    check_particles(args.between, len(latents), "--between")
    path = straight_path(latents[args.between], args.n)
    write_table(args.out, path)
    print(f"{len(path)} latents written to {args.out}")
