"""`dsdsh analyze`: latents of one epoch to classes, traversals and figures."""

from __future__ import annotations

import argparse
from pathlib import Path

from opustomo.commands.analyze import add_report_options

HELP = "analyse the latents of an epoch: PCA, k-means, UMAP and figures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh analyze``."""
    parser.add_argument("resdir", type=Path, help="output folder of dsd train_tomo")
    parser.add_argument("N", help="epoch (z.N.pkl; counts from 0)")
    parser.add_argument("numpc", type=int, help="traversals along principal components")
    parser.add_argument("numk", type=int, help="clusters of k-means")
    add_report_options(parser)


def run(args: argparse.Namespace) -> None:
    """Write ``analyze.N`` and, where the run has conformation latents, ``defanalyze.N``."""
    from opustomo.analysis.epoch_report import AnalysisRequest, analyze_epoch
    from opustomo.analysis.results import ResultDir, parse_first_round
    from opustomo.analysis.second_round import parse_cluster_choice

    request = AnalysisRequest(
        results=ResultDir.open(args.resdir),
        epoch=parse_first_round(args.N),
        num_pcs=args.numpc,
        num_clusters=args.numk,
        skip_umap=args.skip_umap,
        joint=args.joint,
        choice=None if args.kpc is None else parse_cluster_choice(args.kpc),
    )
    for folder in analyze_epoch(request):
        print(f"Analysis written to {folder}")
