"""`dsdsh convergence`: do the latents still move from epoch to epoch?"""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "how settled the latents are: clusterings and places compared from epoch to epoch"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh convergence``."""
    parser.add_argument("resdir", type=Path, help="output folder of dsd train_tomo")
    parser.add_argument("-k", "--numk", type=int, default=10, help="clusters of the k-means that is compared")


def run(args: argparse.Namespace) -> None:
    """Write ``convergence.csv`` and ``convergence.png`` into the result folder."""
    from opustomo.analysis.convergence import draw_convergence, measure_convergence, write_convergence
    from opustomo.analysis.results import ResultDir

    results = ResultDir.open(args.resdir)
    rows = measure_convergence(results, args.numk)
    table, picture = results.root / "convergence.csv", results.root / "convergence.png"
    write_convergence(table, rows)
    draw_convergence(picture, rows, args.numk)
    last = rows[-1]
    print(
        f"Epoch {last.epoch} against {last.previous}: adjusted Rand index {last.ari_previous:.3f}, "
        f"step {last.displacement:.3f} of the spread"
    )
    print(f"wrote {table}\nwrote {picture}")
