"""`dsd pc_traversal`: latents along principal components."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "write latents along principal components, to be decoded with dsd eval_vol --zfile"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options (spec 5)."""
    parser.add_argument("latents", type=Path, metavar="Z", help="z.N.pkl")
    parser.add_argument("--dim", type=int, nargs="+", metavar="d", help="components, from 1; all when left out")
    parser.add_argument("-n", type=int, default=10, help="points on each path")
    parser.add_argument(
        "--lim",
        type=float,
        nargs=2,
        default=(5.0, 95.0),
        metavar=("low", "high"),
        help="percentiles of the particles' scores where a path starts and ends",
    )
    parser.add_argument(
        "--use-percentile-spacing",
        action="store_true",
        help="as many particles between any two points, instead of equal steps",
    )
    parser.add_argument("--conformation", action="store_true", help="of the conformation instead of the composition")
    parser.add_argument("-o", "--outdir", type=Path, help="folder for pc{d}.txt; else the latents are shown")


def run(args: argparse.Namespace) -> None:
    """Write or show the paths."""
    import sys

    import numpy as np

    from opustomo.analysis.pca import fit_pca
    from opustomo.analysis.traversal import pc_traversal
    from opustomo.errors import UserError
    from opustomo.io.latents import read_latent_table
    from opustomo.io.tables import write_table

    low, high = args.lim
    if not 0 <= low < high <= 100:
        raise UserError(f"--lim {low:g} {high:g}: give two percentiles between 0 and 100, the lower first.")
    if args.n < 1:
        raise UserError(f"-n {args.n}: give 1 or more points.")
    latents = read_latent_table(args.latents, args.conformation)
    dimension = latents.shape[1]
    components = args.dim or list(range(1, dimension + 1))
    wrong = [d for d in components if not 1 <= d <= dimension]
    if wrong:
        raise UserError(f"--dim {wrong[0]}: {args.latents} has components 1 to {dimension}.")
    pca = fit_pca(latents)
    scores = pca.scores(latents)
    for component in components:
        path, _ = pc_traversal(pca, scores, component - 1, args.n, (low, high), args.use_percentile_spacing)
        if args.outdir is None:
            print(f"# PC{component}")
            np.savetxt(sys.stdout, path, fmt="%.9g")
        else:
            out = args.outdir / f"pc{component}.txt"
            write_table(out, path)
            print(f"{len(path)} latents written to {out}")
