"""`dsdsh report`: one page of HTML to look at."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "one HTML page: losses, latents to explore, clusters, components, tomograms"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh report``."""
    parser.add_argument("resdir", type=Path, help="output folder of dsd train_tomo")
    parser.add_argument("N", help="epoch, or filter.N for the second round")
    parser.add_argument("-o", "--output", type=Path, metavar="HTML", help="the page (default: analyze.N/report.html)")
    parser.add_argument("-k", "--numk", type=int, metavar="K", help="k-means to show (default: the latest clustering)")
    parser.add_argument("--gmm", action="store_true", help="-k is that of the Gaussian mixture")
    parser.add_argument("--star", type=Path, help="the STAR file used for training, if it moved")
    parser.add_argument("--skip-vol", action="store_true", help="leave volumes out")


def run(args: argparse.Namespace) -> None:
    """Write the page."""
    from opustomo.analysis.results import ResultDir, parse_round
    from opustomo.errors import UserError
    from opustomo.report.write import ReportRequest, write_report

    if args.gmm and args.numk is None:
        raise UserError("--gmm needs the number of clusters; give it with -k")
    path = write_report(
        ReportRequest(
            results=ResultDir.open(args.resdir),
            which=parse_round(args.N),
            clustering=None if args.numk is None else f"{'gmm' if args.gmm else 'kmeans'}{args.numk}",
            star=args.star,
            output=args.output,
            volumes=not args.skip_vol,
        )
    )
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB); open it in a browser")
