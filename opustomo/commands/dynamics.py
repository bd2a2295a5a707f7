"""`dsdsh dynamics`: report screw axes, movies and poses of the bodies, and test the independence of the latents."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "report body motion: screw axes, figures, movies, bodies.N.star, and independence of composition"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh dynamics``."""
    parser.add_argument("resdir", type=Path, help="output folder of dsd train_tomo --masks")
    parser.add_argument("N", help="epoch N (counted from 0), or latest for the last saved epoch")
    parser.add_argument("--num-pcs", type=int, default=2, help="number of components of the conformation latent")
    parser.add_argument("--points", type=int, default=20, help="number of volumes along each component")
    parser.add_argument("--apix", type=float, help="pixel size of the volumes in Å (default: that of the template)")
    parser.add_argument(
        "--kmeans",
        type=int,
        metavar="K",
        help="use the composition of a center of this k-means (default: the particle nearest to the mean)",
    )
    parser.add_argument("--dfk", type=int, default=0, metavar="i", help="number of the center of --kmeans")
    parser.add_argument("--skip-vol", action="store_true", help="do not write volumes, figures and movies")
    parser.add_argument(
        "--permutations", type=int, default=19, help="number of permutations of the independence test; 0 skips it"
    )
    parser.add_argument("--star", type=Path, help="particle table for bodies.N.star (default: that of the run)")
    parser.add_argument("--device", help="cuda or cpu (default: a GPU if available)")


def run(args: argparse.Namespace) -> None:
    """Write ``dynamics.N`` and ``bodies.N.star``."""
    from opustomo.commands.options import selected_round
    from opustomo.dynamics.dynamics_report import DynamicsRequest, report_dynamics
    from opustomo.errors import UserError

    if args.apix is not None and not 0 < args.apix < float("inf"):
        raise UserError(f"--apix is {args.apix:g} Å, but it must be positive.")
    results, which = selected_round(args.resdir, args.N)
    request = DynamicsRequest(
        results=results,
        epoch=which.first_epoch(),
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
    print(f"Wrote the dynamics report to {report_dynamics(request)}")
