"""`dsd pc_traversal`: compute latents along principal components."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "write latents along principal components, which dsd eval_vol --zfile decodes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsd pc_traversal``."""
    parser.add_argument("latents", type=Path, metavar="Z", help="z.N.pkl")
    parser.add_argument("--dim", type=int, nargs="+", metavar="d", help="components, counted from 1 (default: all)")
    parser.add_argument("-n", type=int, default=10, help="number of points along each component")
    parser.add_argument(
        "--lim",
        type=float,
        nargs=2,
        default=(5.0, 95.0),
        metavar=("low", "high"),
        help="percentiles of the scores at which a traversal starts and ends",
    )
    parser.add_argument(
        "--use-percentile-spacing",
        action="store_true",
        help="space the points evenly in percentiles instead of in the score",
    )
    parser.add_argument(
        "--conformation", action="store_true", help="use the conformation latent instead of the composition latent"
    )
    parser.add_argument("-o", "--outdir", type=Path, help="output folder of pc{d}.txt (default: print the latents)")


def run(args: argparse.Namespace) -> None:
    """Compute the traversals and write or print their latents."""
    import sys

    import numpy as np

    from opustomo.analysis.pca import fit_pca
    from opustomo.analysis.traversal import pc_traversal
    from opustomo.errors import UserError
    from opustomo.io.latents import read_latent_table
    from opustomo.io.tables import write_table

    low, high = args.lim
    if not 0 <= low < high <= 100:
        raise UserError(f"--lim is {low:g} {high:g}, but it must be two ascending percentiles between 0 and 100.")
    if args.n < 1:
        raise UserError(f"-n is {args.n}, but it must be at least 1.")
    latents = read_latent_table(args.latents, args.conformation)
    dimension = latents.shape[1]
    components = args.dim or list(range(1, dimension + 1))
    invalid = [d for d in components if not 1 <= d <= dimension]
    if invalid:
        raise UserError(f"--dim is {invalid[0]}, but {args.latents} has components 1 to {dimension}.")
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
            print(f"Wrote {len(path)} latents to {out}")
