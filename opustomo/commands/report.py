"""`dsdsh report`: write an interactive HTML report of an analyzed epoch."""

from __future__ import annotations

import argparse
from pathlib import Path

from opustomo.commands.options import add_cluster_method, add_moved_star, add_run, cluster_method

HELP = "write an HTML report: verdict, volumes in 3D, latent space, clusters, movies, tomograms, training"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh report``."""
    add_run(parser)
    parser.add_argument(
        "-o", "--output", type=Path, metavar="HTML", help="output file (default: analyze.N/report.html)"
    )
    parser.add_argument(
        "-k", "--numk", type=int, metavar="K", help="number of clusters of the k-means (default: the latest clustering)"
    )
    add_cluster_method(parser)
    add_moved_star(parser)
    parser.add_argument("--skip-vol", action="store_true", help="omit the volumes")
    parser.add_argument(
        "--particle-volumes",
        type=int,
        default=60,
        metavar="S",
        help="number of particles whose own volumes are decoded; a click on a particle shows the volume of the nearest "
        "of them; 0 for none",
    )


def run(args: argparse.Namespace) -> None:
    """Write the report."""
    from opustomo.commands.options import selected_round
    from opustomo.errors import UserError
    from opustomo.report.html_report import ReportRequest, write_report

    method = cluster_method(args)
    if (args.gmm or args.cluster) and args.numk is None:
        raise UserError(f"{'--gmm' if args.gmm else '--cluster'} requires the number of clusters. Give it with -k.")
    results, which = selected_round(args.resdir, args.N)
    path = write_report(
        ReportRequest(
            results=results,
            which=which,
            clustering=None if args.numk is None else f"{method}{args.numk}",
            star=args.star,
            output=args.output,
            volumes=not args.skip_vol,
            num_sampled=args.particle_volumes,
            command=getattr(args, "command_line", ()),
        )
    )
    print(f"Wrote {path} ({path.stat().st_size / 1e6:.1f} MB). Open it in a browser.")
