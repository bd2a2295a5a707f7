"""`dsdsh analyze`: compute clusters, traversals and figures from the latents of one epoch."""

from __future__ import annotations

import argparse
from pathlib import Path

from opustomo.commands.analyze import add_report_options

HELP = "analyze the latents of an epoch: PCA, k-means, UMAP and figures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh analyze``."""
    parser.add_argument("resdir", type=Path, help="output folder of dsd train_tomo")
    parser.add_argument("N", help="epoch (z.N.pkl; counted from 0), or filter.N for a second round")
    parser.add_argument("numpc", type=int, help="number of principal component traversals")
    parser.add_argument("numk", type=int, help="number of clusters")
    add_report_options(parser)


def run(args: argparse.Namespace) -> None:
    """Write ``analyze.N`` and, if the run has conformation latents, ``defanalyze.N``."""
    from opustomo.analysis.clusters import Clustering
    from opustomo.analysis.epoch_report import AnalysisRequest, analyze_epoch
    from opustomo.analysis.results import ResultDir, parse_round
    from opustomo.analysis.second_round import parse_cluster_choice

    request = AnalysisRequest(
        results=ResultDir.open(args.resdir),
        source=parse_round(args.N),
        num_pcs=args.numpc,
        clustering=Clustering(args.numk, "gmm" if args.gmm else "kmeans"),
        skip_umap=args.skip_umap,
        joint=args.joint,
        choice=None if args.kpc is None else parse_cluster_choice(args.kpc),
    )
    for folder in analyze_epoch(request):
        print(f"Wrote the analysis to {folder}")
