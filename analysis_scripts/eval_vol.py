"""`dsdsh eval_vol`: decode cluster centers or traversals of an analysis to volumes."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "decode cluster centers or a traversal of an analysis to volumes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh eval_vol``."""
    parser.add_argument("resdir", type=Path, help="output folder of dsd train_tomo")
    parser.add_argument("N", help="epoch, or filter.N for the second round")
    parser.add_argument(
        "mode",
        choices=("kmeans", "gmm", "pc", "dpc", "joint"),
        help="kmeans, gmm: cluster centers; pc, dpc: traversal of the composition or conformation; "
        "joint: centers with composition and conformation",
    )
    parser.add_argument(
        "num", type=int, help="number of clusters K (kmeans, gmm, joint), or component counted from 1 (pc, dpc)"
    )
    parser.add_argument("apix", type=float, help="pixel size of the volumes in Å")
    parser.add_argument(
        "--kmeans", type=int, metavar="K", help="for dpc: k-means whose center provides the composition"
    )
    parser.add_argument("--dfk", type=int, default=0, metavar="i", help="for dpc: number of the center of --kmeans")
    parser.add_argument("--flip", action="store_true", help="reverse the handedness of the volumes")
    parser.add_argument(
        "--full-box",
        action="store_true",
        help="write volumes in the box of the subtomograms (and the consensus map) instead of the crop around the mask",
    )
    parser.add_argument("--no-mask", action="store_true", help="do not multiply by the solvent mask of the checkpoint")
    parser.add_argument(
        "--num-bodies", type=int, default=0, help="ignored (for compatibility); the checkpoint contains its bodies"
    )
    parser.add_argument("--masks", help="ignored (for compatibility); the checkpoint contains its bodies")


def run(args: argparse.Namespace) -> None:
    """Decode the volumes and print their folder."""
    from opustomo.analysis.results import ResultDir, parse_round
    from opustomo.analysis.volume_sets import decode_volume_set, volume_set

    results, which = ResultDir.open(args.resdir), parse_round(args.N)
    if args.num_bodies or args.masks:
        print("Note: --num-bodies and --masks are ignored because the checkpoint contains the geometry of its bodies.")
    chosen = volume_set(results, which, args.mode, args.num, args.kmeans, args.dfk)
    written = decode_volume_set(results, which, chosen, args.apix, args.flip, args.full_box, not args.no_mask)
    print(f"Wrote {len(written)} volumes to {chosen.outdir}. Open {chosen.prefix}.cxc there in ChimeraX to view them.")
