"""`dsdsh place`: place the volumes of particles in a tomogram."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from opustomo.commands.cluster_options import add_cluster_method, add_particle_places, cluster_method
from opustomo.commands.options import EPOCH_HELP

if TYPE_CHECKING:
    from opustomo.analysis.clusters import Clustering
    from opustomo.analysis.results import ResultDir, Round

HELP = "place the volumes of particles in a tomogram, as a map, for ChimeraX and as a figure, with neighbor statistics"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh place``."""
    parser.add_argument("resdir", type=Path, help="output folder of dsd train_tomo")
    parser.add_argument("N", help=EPOCH_HELP)
    parser.add_argument(
        "--tomogram", required=True, metavar="TOMO", help="MRC file of the tomogram, or its name in the STAR file"
    )
    parser.add_argument(
        "-k", "--numk", type=int, metavar="K", help="number of clusters (default: that of the only clustering)"
    )
    add_cluster_method(parser)
    parser.add_argument("--only", metavar="a-b,c", help="place only these clusters (default: all)")
    parser.add_argument("--own", action="store_true", help="place the volume of each particle, not that of its cluster")
    parser.add_argument("--star", type=Path, help="STAR file used for training, if it was moved")
    add_particle_places(parser)
    parser.add_argument(
        "--tomo-angpix", type=float, metavar="a", help="pixel size of the tomogram in Å (default: that of its header)"
    )
    parser.add_argument(
        "--tomo-size", type=int, nargs=3, metavar=("X", "Y", "Z"), help="size of the tomogram in voxels, without a file"
    )
    parser.add_argument("--angpix", type=float, help="pixel size of the maps in Å (default: that of the tomogram)")
    parser.add_argument(
        "--chain-distance",
        type=float,
        metavar="Å",
        help="largest distance of consecutive particles in a chain (default: 1.5 diameters of the particle)",
    )
    parser.add_argument(
        "-o", "--outdir", type=Path, help="output folder (default: place_TOMO in the folder of the clusters)"
    )
    parser.add_argument("--device", help="cuda or cpu (default: a GPU if available)")


def run(args: argparse.Namespace) -> None:
    """Write the maps, the command file, the figures and the table of neighbors."""
    from opustomo.analysis.selection import parse_cluster_choice
    from opustomo.analysis.tomogram_placement import PlacementRequest
    from opustomo.commands.options import selected_round
    from opustomo.run import Run

    results, which = selected_round(args.resdir, args.N)
    clustering = _clustering(results, which, args)
    choice = None
    if args.only is not None:
        choice = parse_cluster_choice(f"{clustering.folder}:{args.only}", "--only").chosen
    run = Run(args.resdir, star=args.star, device=args.device)
    star = run.particles
    request = PlacementRequest(
        results=results,
        which=which,
        star=results.with_refined_poses(star, which.epoch) if args.refined else star,
        tomogram=args.tomogram,
        clustering=clustering,
        chosen=choice,
        own=args.own,
        coordinate_apix=args.coord_angpix,
        tomogram_apix=args.tomo_angpix,
        size=None if args.tomo_size is None else tuple(args.tomo_size),
        apix=args.angpix,
        chain_distance_A=args.chain_distance,
        outdir=args.outdir,
    )
    placed = run.place(request)
    print(f"Wrote {len(placed.rows)} placed particles to {placed.folder}. Open place.cxc there in ChimeraX.")


def _clustering(results: ResultDir, which: Round, args: argparse.Namespace) -> Clustering:
    """Return the clustering that the options select, or the only one of the analysis."""
    from opustomo.analysis.clusters import Clustering
    from opustomo.errors import UserError

    method = cluster_method(args)
    if args.numk is not None:
        return Clustering(args.numk, method)
    named = args.cluster is not None or args.gmm
    pattern = re.compile(rf"({method if named else 'kmeans|gmm|hdbscan'})(\d+)")
    folder = results.analysis(which)
    found = [match for path in sorted(folder.glob("*/labels.pkl")) if (match := pattern.fullmatch(path.parent.name))]
    if len(found) == 1:
        return Clustering(int(found[0][2]), found[0][1])
    names = ", ".join(match[0] for match in found)
    if not found:
        raise UserError(f"{folder} contains no clusters. Run dsdsh analyze {results.root} {which.label} first.")
    raise UserError(f"{folder} contains several clusterings ({names}). Select one with -k and --cluster.")
