"""`dsdsh landscape`: compare decoded volumes, and find basins of the population and the paths between them."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "decode volumes once and find their components, classes, population basins and the paths between these"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh landscape``."""
    parser.add_argument("resdir", type=Path, help="output folder of dsd train_tomo")
    parser.add_argument("N", help="epoch N (counted from 0), or latest for the last saved epoch")
    parser.add_argument(
        "--mask", type=Path, help="compare volumes inside this mask (default: the solvent mask of the training)"
    )
    parser.add_argument("--samples", type=int, default=300, metavar="n", help="number of particles to decode")
    parser.add_argument("--components", type=int, default=6, metavar="n", help="number of principal components")
    parser.add_argument("--classes", type=int, default=6, metavar="n", help="number of agglomerative classes")
    parser.add_argument("--min-depth", type=float, default=0.5, metavar="kT", help="smallest depth of a basin in kT")
    parser.add_argument("--points", type=int, default=10, metavar="n", help="number of volumes along each path")
    parser.add_argument("--angpix", type=float, help="pixel size of the volumes in Å (default: that of the template)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the particles that are decoded")
    parser.add_argument("--star", type=Path, help="STAR file used for training, if it was moved")
    parser.add_argument("--no-star", action="store_true", help="do not write STAR files of basins and classes")
    parser.add_argument("-o", "--outdir", type=Path, help="output folder (default: analyze.N/landscape)")
    parser.add_argument("--device", help="cuda or cpu (default: a GPU if available)")


def run(args: argparse.Namespace) -> None:
    """Compute and write the landscape."""
    from opustomo.analysis.volume_landscape import LandscapeSettings
    from opustomo.commands.options import selected_round
    from opustomo.errors import UserError
    from opustomo.run import Run

    if args.star is not None and args.no_star:
        raise UserError("--star and --no-star contradict each other. Give one of them.")
    results, which = selected_round(args.resdir, args.N)
    if which.filtered or which.focused:
        raise UserError(
            f"{args.N} is a later round of analysis, but the landscape comprises all particles. Give {which.epoch}."
        )
    settings = LandscapeSettings(args.samples, args.components, args.classes, args.min_depth, args.points, args.seed)
    run = Run(args.resdir, star=args.star, device=args.device)
    folder = args.outdir or results.analysis(which) / "landscape"
    star = None if args.no_star else run.particles
    run.landscape(settings, mask=args.mask, apix=args.angpix, epoch=which.epoch, folder=folder, star=star)
    print(f"Wrote the landscape to {folder}. Look at landscape.png, and open basins/reference.cxc in ChimeraX.")
