"""Paths in latent space: `dsd pc_traversal`, `dsd graph_traversal` and `dsd interpolate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from opustomo.commands.registry import Command


def _add_conformation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--conformation", action="store_true", help="use the conformation latent instead of the composition latent"
    )


def add_pc_traversal_arguments(parser: argparse.ArgumentParser) -> None:
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
    _add_conformation(parser)
    parser.add_argument("-o", "--outdir", type=Path, help="output folder of pc{d}.txt (default: print the latents)")


def run_pc_traversal(args: argparse.Namespace) -> None:
    """Compute the traversals and write or print their latents."""
    import sys

    import numpy as np

    from opustomo.analysis.latents.dimension_reduction import fit_pca
    from opustomo.analysis.latents.latent_traversals import pc_traversal
    from opustomo.errors import UserError
    from opustomo.io.latents import read_latent_table, write_table

    low, high = args.lim
    if not 0 <= low < high <= 100:
        raise UserError(f"--lim is {low:g} {high:g}, but it must be two ascending percentiles between 0 and 100.")
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


PC_TRAVERSAL = Command(
    "write latents along principal components, which dsd eval_vol --zfile decodes",
    add_pc_traversal_arguments,
    run_pc_traversal,
)


def add_graph_traversal_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsd graph_traversal``."""
    parser.add_argument("latents", type=Path, metavar="Z", help="z.N.pkl")
    parser.add_argument(
        "--anchors",
        type=int,
        nargs="+",
        required=True,
        metavar="i",
        help="particles through which the path passes in this order, counted from 0",
    )
    parser.add_argument("--max-neighbors", type=int, default=10, help="maximum number of neighbors of a particle")
    parser.add_argument(
        "--avg-neighbors",
        type=float,
        default=5.0,
        help="average number of neighbors of a particle; the shortest edges are kept",
    )
    _add_conformation(parser)
    parser.add_argument("-o", "--out", type=Path, metavar="TXT", default=Path("path.txt"), help="particles on the path")
    parser.add_argument("--out-z", type=Path, metavar="TXT", default=Path("z.txt"), help="latents of these particles")


def run_graph_traversal(args: argparse.Namespace) -> None:
    """Compute the path and write its particles and latents."""
    from opustomo.analysis.latents.latent_traversals import GraphSettings, graph_path
    from opustomo.io.latents import read_latent_table, write_table

    latents = read_latent_table(args.latents, args.conformation)
    path = graph_path(latents, args.anchors, GraphSettings(args.max_neighbors, args.avg_neighbors))
    for first, second in path.jumps:
        print(f"Particles {first} and {second} are not connected by neighbors, so the path jumps between them.")
    write_table(args.out, path.particles)
    write_table(args.out_z, latents[path.particles])
    print(f"Wrote {len(path.particles)} particles to {args.out} and their latents to {args.out_z}")


GRAPH_TRAVERSAL = Command(
    "find the shortest path between particles in the nearest-neighbor graph of the latents",
    add_graph_traversal_arguments,
    run_graph_traversal,
)


def add_interpolate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsd interpolate``."""
    parser.add_argument("latents", type=Path, metavar="Z", help="z.N.pkl for particles, centers.txt for clusters")
    parser.add_argument(
        "--between",
        type=int,
        nargs="+",
        required=True,
        metavar="i",
        help="particles or clusters through which the path passes, counted from 0",
    )
    parser.add_argument("-n", type=int, default=10, help="number of points per segment, including both ends")
    _add_conformation(parser)
    parser.add_argument(
        "-o", "--out", type=Path, metavar="TXT", default=Path("z.txt"), help="output file of the latents"
    )


def run_interpolate(args: argparse.Namespace) -> None:
    """Compute the path and write its latents."""
    from opustomo.analysis.latents.latent_traversals import check_particles, straight_path
    from opustomo.io.latents import read_latent_table, write_table

    latents = read_latent_table(args.latents, args.conformation)
    check_particles(args.between, len(latents), "--between")
    path = straight_path(latents[args.between], args.n)
    write_table(args.out, path)
    print(f"Wrote {len(path)} latents to {args.out}")


INTERPOLATE = Command(
    "interpolate linearly between the latents of particles or clusters", add_interpolate_arguments, run_interpolate
)
