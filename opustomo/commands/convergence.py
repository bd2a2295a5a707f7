"""`dsdsh convergence`: measure the stability of the latents between epochs."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "measure convergence: stability of clusters and latents between epochs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh convergence``."""
    parser.add_argument("resdir", type=Path, help="output folder of dsd train_tomo")
    parser.add_argument("-k", "--numk", type=int, default=10, help="number of k-means clusters to compare")


def run(args: argparse.Namespace) -> None:
    """Write ``convergence.csv`` and ``convergence.png`` to the result folder."""
    from opustomo.analysis.latent_stability import draw_convergence, measure_convergence, write_convergence
    from opustomo.analysis.results import ResultDir

    results = ResultDir.open(args.resdir)
    rows = measure_convergence(results, args.numk)
    table, figure = results.root / "convergence.csv", results.root / "convergence.png"
    write_convergence(table, rows)
    draw_convergence(figure, rows, args.numk)
    last = rows[-1]
    print(
        f"Epoch {last.epoch} compared with epoch {last.previous}: adjusted Rand index {last.ari_previous:.3f}, "
        f"RMS displacement {last.displacement:.3f} of the spread"
    )
    print(f"Wrote {table}\nWrote {figure}")
