"""`dsdsh artiax`: write the positions of clusters in tomograms for display with ArtiaX in ChimeraX."""

from __future__ import annotations

import argparse
from pathlib import Path

from opustomo.commands.cluster_options import add_cluster_method, add_particle_places, cluster_method
from opustomo.commands.options import EPOCH_HELP

HELP = "write one STAR file per tomogram for ArtiaX, with the clusters as classes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh artiax``."""
    parser.add_argument("star", metavar="STAR", type=Path, help="STAR file used for training")
    parser.add_argument("resdir", type=Path, help="output folder of dsd train_tomo")
    parser.add_argument("N", help=EPOCH_HELP)
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


def run(args: argparse.Namespace) -> None:
    """Write the STAR files and print how to display them."""
    from opustomo.analysis.clusters import Clustering, load_labels
    from opustomo.analysis.tomogram_positions import TomogramScale, write_tomogram_stars
    from opustomo.commands.options import selected_round
    from opustomo.errors import UserError
    from opustomo.io.star_tables import read_particles

    for option in ("coord_angpix", "tomo_angpix"):
        value = getattr(args, option)
        if value is not None and not value > 0:
            raise UserError(f"--{option.replace('_', '-')} is {value:g} Å, but it must be positive.")
    results, which = selected_round(args.resdir, args.N)
    star = read_particles(args.star)
    path = results.analysed_file(which, Clustering(args.K, cluster_method(args)).folder, "labels.pkl")
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
