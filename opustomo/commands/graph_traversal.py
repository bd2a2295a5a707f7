"""`dsd graph_traversal`: compute a path through particles in the nearest-neighbor graph."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "find the shortest path between particles in the nearest-neighbor graph of the latents"


def add_arguments(parser: argparse.ArgumentParser) -> None:
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
    parser.add_argument(
        "--conformation", action="store_true", help="use the conformation latent instead of the composition latent"
    )
    parser.add_argument("-o", "--out", type=Path, metavar="TXT", default=Path("path.txt"), help="particles on the path")
    parser.add_argument("--out-z", type=Path, metavar="TXT", default=Path("z.txt"), help="latents of these particles")


def run(args: argparse.Namespace) -> None:
    """Compute the path and write its particles and latents."""
    from opustomo.analysis.neighbours import GraphSettings, graph_path
    from opustomo.io.latents import read_latent_table
    from opustomo.io.tables import write_table

    latents = read_latent_table(args.latents, args.conformation)
    path = graph_path(latents, args.anchors, GraphSettings(args.max_neighbors, args.avg_neighbors))
    for first, second in path.jumps:
        print(f"Particles {first} and {second} are not connected by neighbors, so the path jumps between them.")
    write_table(args.out, path.particles)
    write_table(args.out_z, latents[path.particles])
    print(f"Wrote {len(path.particles)} particles to {args.out} and their latents to {args.out_z}")
