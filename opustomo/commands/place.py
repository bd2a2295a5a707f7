"""`dsdsh place` and `dsdsh artiax`: show the volumes or clusters of particles in their tomograms."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from opustomo.commands.options import (
    add_cluster_method,
    add_device,
    add_moved_star,
    add_particle_places,
    add_run,
    cluster_method,
)
from opustomo.commands.registry import Command

if TYPE_CHECKING:
    from opustomo.analysis.clusters.clustering import Clustering
    from opustomo.analysis.results import ResultDir, Round


def add_place_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh place``."""
    add_run(parser)
    parser.add_argument(
        "--tomogram", required=True, metavar="TOMO", help="MRC file of the tomogram, or its name in the STAR file"
    )
    parser.add_argument(
        "-k", "--numk", type=int, metavar="K", help="number of clusters (default: that of the only clustering)"
    )
    add_cluster_method(parser)
    parser.add_argument("--only", metavar="a-b,c", help="place only these clusters (default: all)")
    parser.add_argument("--own", action="store_true", help="place the volume of each particle, not that of its cluster")
    add_moved_star(parser)
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
    add_device(parser)


def run_place(args: argparse.Namespace) -> None:
    """Write the maps, the command file, the figures and the table of neighbors."""
    from opustomo.analysis.selection import parse_cluster_choice
    from opustomo.analysis.tomograms.tomogram_placement import PlacementRequest
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
        particle_volumes=args.own,
        coordinate_apix=args.coord_angpix,
        tomogram_apix=args.tomo_angpix,
        size=None if args.tomo_size is None else tuple(args.tomo_size),
        apix=args.angpix,
        chain_distance_A=args.chain_distance,
        outdir=args.outdir,
    )
    placed = run.place(request)
    print(f"Wrote {len(placed.rows)} placed particles to {placed.folder}. Open place.cxc there in ChimeraX.")


PLACE = Command(
    "place the volumes of particles in a tomogram (map, ChimeraX commands, figure) and compute neighbor statistics",
    add_place_arguments,
    run_place,
)


def _clustering(results: ResultDir, which: Round, args: argparse.Namespace) -> Clustering:
    """Return the clustering that the options select, or the only one of the analysis."""
    from opustomo.analysis.clusters.clustering import Clustering
    from opustomo.errors import UserError

    method = cluster_method(args)
    if args.numk is not None:
        return Clustering(args.numk, method)
    named = args.cluster is not None or args.gmm
    folder = results.analysis(which)
    found = sorted(path.name for path in results.clusterings(which, *((method,) if named else ())))
    if len(found) == 1:
        return Clustering.of_folder(found[0])
    names = ", ".join(found)
    if not found:
        analyze = shlex.join(["dsdsh", "analyze", str(results.root), which.label, "2", "--k", "auto"])
        raise UserError(f"{folder} contains no clusters. Run {analyze} first.")
    raise UserError(f"{folder} contains several clusterings ({names}). Select one with -k and --cluster.")


def add_artiax_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh artiax``."""
    parser.add_argument("star", metavar="STAR", type=Path, help="STAR file used for training")
    add_run(parser)
    parser.add_argument("K", type=int, help="number of clusters")
    add_cluster_method(parser)
    add_particle_places(parser)
    parser.add_argument(
        "--tomo-angpix",
        type=float,
        metavar="a",
        help="pixel size of the displayed tomogram in Å (default: that of the coordinates)",
    )
    parser.add_argument(
        "--tomo-size",
        type=int,
        nargs=3,
        metavar=("X", "Y", "Z"),
        help="size of the displayed tomogram in voxels; required for the centered coordinates of RELION 5",
    )
    parser.add_argument(
        "-o", "--outdir", type=Path, help="output folder (default: artiax in the folder of the clusters)"
    )


def run_artiax(args: argparse.Namespace) -> None:
    """Write the STAR files and print how to display them."""
    from opustomo.analysis.clusters.cluster_stars import load_labels
    from opustomo.analysis.clusters.clustering import Clustering
    from opustomo.commands.options import selected_round
    from opustomo.convert.artiax import write_tomogram_stars
    from opustomo.io.star_tables import read_particles
    from opustomo.io.tomograms import TomogramScale

    results, which = selected_round(args.resdir, args.N)
    star = read_particles(args.star)
    path = results.analyzed_file(which, Clustering(args.K, cluster_method(args)).folder, "labels.pkl")
    labels = load_labels(path)
    results.require_same_particles(star, len(labels), path)
    if args.refined:
        star = results.with_refined_poses(star, which.epoch)
    scale = TomogramScale(
        args.coord_angpix, args.tomo_angpix, None if args.tomo_size is None else tuple(args.tomo_size)
    )
    outdir = path.parent / "artiax" if args.outdir is None else args.outdir
    written = write_tomogram_stars(star, labels, outdir, scale, args.K)
    print(
        f"Wrote {len(written)} STAR files to {outdir}. In ArtiaX, open one with its tomogram, set the pixel size, "
        "and color by rlnClassNumber (cluster + 1)."
    )


ARTIAX = Command(
    "write one STAR file per tomogram for ArtiaX, with the clusters as classes", add_artiax_arguments, run_artiax
)
