"""`dsd interpolate`: interpolate linearly between the latents of particles or clusters."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "interpolate linearly between the latents of particles or clusters"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsd interpolate``."""
    parser.add_argument("latents", type=Path, metavar="Z", help="z.N.pkl for particles, centers.txt for clusters")
    parser.add_argument(
        "--between",
        type=int,
        nargs="+",
        required=True,
        metavar="i",
        help="particles or clusters through which the path passes, counted from 0",
    )
    parser.add_argument("-n", type=int, default=10, help="number of points per segment, including both ends")
    parser.add_argument(
        "--conformation", action="store_true", help="use the conformation latent instead of the composition latent"
    )
    parser.add_argument(
        "-o", "--out", type=Path, metavar="TXT", default=Path("z.txt"), help="output file of the latents"
    )


def run(args: argparse.Namespace) -> None:
    """Compute the path and write its latents."""
    from opustomo.analysis.neighbours import check_particles, straight_path
    from opustomo.io.latents import read_latent_table
    from opustomo.io.tables import write_table

    latents = read_latent_table(args.latents, args.conformation)
    check_particles(args.between, len(latents), "--between")
    path = straight_path(latents[args.between], args.n)
    write_table(args.out, path)
    print(f"Wrote {len(path)} latents to {args.out}")
