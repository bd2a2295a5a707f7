"""`dsdsh parse_pose`: one STAR file per cluster of an analysis."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "write one STAR file per cluster of an analysis"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh parse_pose``."""
    parser.add_argument("star", metavar="STAR", type=Path, help="the STAR file used for training")
    parser.add_argument("D", type=int, help="box of the subtomograms in pixels")
    parser.add_argument("apix", type=float, help="their pixel size in Å")
    parser.add_argument("resdir", type=Path, help="output folder of dsd train_tomo")
    parser.add_argument("N", help="epoch, or filter.N for the second round")
    parser.add_argument("K", type=int, help="number of clusters")
    parser.add_argument("--gmm", action="store_true", help="clusters of the Gaussian mixture instead of k-means")
    parser.add_argument("--refined", action="store_true", help="replace the poses by the refined ones of pose.N.pkl")
    parser.add_argument(
        "--relion31", action="store_true", help="accepted for old scripts; the format is recognised by itself"
    )


def run(args: argparse.Namespace) -> None:
    """Split the STAR file by the labels of ``kmeans{K}`` or ``gmm{K}`` and write the parts there."""
    from opustomo.analysis.clusters import Clustering
    from opustomo.analysis.results import ResultDir, parse_round
    from opustomo.analysis.selection import load_labels, write_cluster_stars
    from opustomo.errors import UserError
    from opustomo.io.star import read_particles
    from opustomo.io.star_poses import pose_notes
    from opustomo.io.star_relion import ignored_origins

    if args.D < 2 or not args.apix > 0:
        raise UserError(f"Box {args.D} and pixel size {args.apix} must be positive; give pixels, then Å.")
    star = read_particles(args.star)
    results, which = ResultDir.open(args.resdir), parse_round(args.N)
    path = results.analysed_file(which, Clustering(args.K, "gmm" if args.gmm else "kmeans").folder, "labels.pkl")
    labels = load_labels(path)
    results.require_same_particles(star, len(labels), path)
    for note in pose_notes(star, args.D, args.apix):
        print(f"Note: {note}.")
    if args.refined:
        box = results.box_of_run(args.D, args.apix)
        star = results.with_refined_poses(star, which.epoch, box, args.apix)
    written = write_cluster_stars(star, labels, path.parent, num_clusters=args.K)
    print(f"{len(written)} STAR files written to {path.parent}")
    ignored = ignored_origins(star)
    if ignored is not None:
        print(f"Note: {ignored}")
