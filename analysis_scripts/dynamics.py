"""`dsdsh dynamics`: screw axes of the bodies, movies, poses of bodies, and a check of the two latents."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "report how bodies move: screw axes, pictures, movies, bodies.N.star, and whether it is conformation at all"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh dynamics``."""
    parser.add_argument("resdir", type=Path, help="output folder of dsd train_tomo --masks")
    parser.add_argument("N", help="epoch (weights.N.pkl; counts from 0)")
    parser.add_argument("--num-pcs", type=int, default=2, help="components of the conformation latent")
    parser.add_argument("--points", type=int, default=20, help="volumes along each component")
    parser.add_argument("--apix", type=float, help="pixel size of the volumes in Å (default: that of the training)")
    parser.add_argument("--kmeans", type=int, metavar="K", help="move a centre of this k-means of the composition")
    parser.add_argument("--dfk", type=int, default=0, metavar="i", help="number of that centre")
    parser.add_argument("--skip-vol", action="store_true", help="no volumes, pictures and movies")
    parser.add_argument("--permutations", type=int, default=19, help="shuffles of the check of the latents; 0: none")
    parser.add_argument("--star", type=Path, help="particle table for bodies.N.star (default: that of the run)")
    parser.add_argument("--device", help="cuda or cpu (default: a GPU if there is one)")


def run(args: argparse.Namespace) -> None:
    """Write ``dynamics.N`` and ``bodies.N.star``."""
    from opustomo.analysis.results import ResultDir, parse_first_round
    from opustomo.dynamics.report import DynamicsRequest, report_dynamics
    from opustomo.errors import UserError

    if args.apix is not None and not 0 < args.apix < float("inf"):
        raise UserError(f"--apix must be a positive pixel size in Å, not {args.apix:g}.")
    request = DynamicsRequest(
        results=ResultDir.open(args.resdir),
        epoch=parse_first_round(args.N),
        num_pcs=args.num_pcs,
        points=args.points,
        apix=args.apix,
        kmeans=args.kmeans,
        center=args.dfk,
        volumes=not args.skip_vol,
        permutations=args.permutations,
        star=args.star,
        device=args.device,
    )
    print(f"Written to {report_dynamics(request)}")
