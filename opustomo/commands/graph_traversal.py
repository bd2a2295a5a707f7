"""`dsd graph_traversal`: a path through real particles."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "find the shortest path through near neighbours from particle to particle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options (spec 5)."""
    parser.add_argument("latents", type=Path, metavar="Z", help="z.N.pkl")
    parser.add_argument(
        "--anchors", type=int, nargs="+", required=True, metavar="i", help="particles to pass, in this order, from 0"
    )
    parser.add_argument("--max-neighbors", type=int, default=10, help="near neighbours of a particle at most")
    parser.add_argument(
        "--avg-neighbors", type=float, default=5.0, help="near neighbours that are kept on average, the nearest of all"
    )
    parser.add_argument("--conformation", action="store_true", help="in the conformation instead of the composition")
    parser.add_argument("-o", "--out", type=Path, metavar="TXT", default=Path("path.txt"), help="particles on the path")
    parser.add_argument("--out-z", type=Path, metavar="TXT", default=Path("z.txt"), help="their latents")


def run(args: argparse.Namespace) -> None:
    """Find the path and write it."""
    from opustomo.analysis.neighbours import GraphSettings, graph_path
    from opustomo.io.latents import read_latent_table
    from opustomo.io.tables import write_table

    latents = read_latent_table(args.latents, args.conformation)
    path = graph_path(latents, args.anchors, GraphSettings(args.max_neighbors, args.avg_neighbors))
    for one, other in path.jumps:
        print(f"No near neighbours lead from particle {one} to {other}, so the path jumps there.")
    write_table(args.out, path.particles)
    write_table(args.out_z, latents[path.particles])
    print(f"{len(path.particles)} particles written to {args.out}, their latents to {args.out_z}")
