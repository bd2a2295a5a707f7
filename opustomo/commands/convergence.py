"""`dsdsh convergence`: measure the stability of the latents between epochs."""

from __future__ import annotations

import argparse
from pathlib import Path

NUM_CLUSTERS = 10
"""Number of clusters if the run has not been analyzed."""
HELP = "measure convergence: stability of clusters and latents between epochs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh convergence``."""
    parser.add_argument("resdir", type=Path, help="output folder of dsd train_tomo")
    parser.add_argument(
        "-k",
        "--numk",
        type=int,
        help=f"number of k-means clusters to compare (default: that of the latest analysis, or {NUM_CLUSTERS})",
    )


def run(args: argparse.Namespace) -> None:
    """Write ``convergence.csv`` and ``convergence.png`` to the result folder."""
    from opustomo.analysis.latent_stability import draw_convergence, measure_convergence, write_convergence
    from opustomo.analysis.results import ResultDir

    results = ResultDir.open(args.resdir)
    number = args.numk
    if number is None:
        folder = results.latest_clustering()
        number = NUM_CLUSTERS if folder is None else int(folder.name.lstrip("abcdefghijklmnopqrstuvwxyz"))
        reason = "the run has not been analyzed" if folder is None else f"as in {folder}"
        print(f"Comparing {number} clusters, {reason}. Give another number with -k.")
    rows = measure_convergence(results, number)
    table, figure = results.root / "convergence.csv", results.root / "convergence.png"
    write_convergence(table, rows)
    draw_convergence(figure, rows, number)
    last = rows[-1]
    print(
        f"Epoch {last.epoch} compared with epoch {last.previous}: adjusted Rand index {last.ari_previous:.3f}, "
        f"RMS displacement {last.displacement:.3f} of the spread"
    )
    print(f"Wrote {table}\nWrote {figure}")
