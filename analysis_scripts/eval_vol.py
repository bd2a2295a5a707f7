"""`dsdsh eval_vol`: decode the centres or traversals of an analysis to volumes."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "decode cluster centres or a traversal of an analysis to volumes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh eval_vol``."""
    parser.add_argument("resdir", type=Path, help="output folder of dsd train_tomo")
    parser.add_argument("N", help="epoch, or filter.N for the second round")
    parser.add_argument(
        "mode",
        choices=("kmeans", "gmm", "pc", "dpc", "joint"),
        help="kmeans, gmm: centres; pc, dpc: traversal of composition, conformation; joint: centres with both",
    )
    parser.add_argument("num", type=int, help="clusters K (kmeans, joint) or component from 1 (pc, dpc)")
    parser.add_argument("apix", type=float, help="pixel size of the volumes in Å")
    parser.add_argument("--kmeans", type=int, metavar="K", help="dpc: k-means whose centre gives the composition")
    parser.add_argument("--dfk", type=int, default=0, metavar="i", help="dpc: number of that centre")
    parser.add_argument("--flip", action="store_true", help="reverse the handedness of the volumes")
    parser.add_argument(
        "--full-box",
        action="store_true",
        help="volumes in the box of the subtomograms, as the consensus map, instead of the crop around the mask",
    )
    parser.add_argument("--no-mask", action="store_true", help="do not multiply by the solvent mask of the checkpoint")
    parser.add_argument(
        "--num-bodies", type=int, default=0, help="accepted for old scripts; the checkpoint knows its bodies"
    )
    parser.add_argument("--masks", help="accepted for old scripts; the checkpoint knows its bodies")


def run(args: argparse.Namespace) -> None:
    """Decode and say where the volumes are."""
    from opustomo.analysis.results import ResultDir, parse_round
    from opustomo.analysis.volume_sets import decode_volume_set, volume_set

    results, which = ResultDir.open(args.resdir), parse_round(args.N)
    if args.num_bodies or args.masks:
        print("--num-bodies and --masks are not needed: the checkpoint holds the geometry of its bodies.")
    chosen = volume_set(results, which, args.mode, args.num, args.kmeans, args.dfk)
    written = decode_volume_set(results, which, chosen, args.apix, args.flip, args.full_box, not args.no_mask)
    print(f"{len(written)} volumes written to {chosen.outdir}; {chosen.prefix}.cxc there shows them in ChimeraX")
