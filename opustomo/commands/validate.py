"""`dsdsh validate`: compute the evidence supporting each cluster of an analysis."""

from __future__ import annotations

import argparse
from pathlib import Path

from opustomo.commands.cluster_options import add_cluster_method, cluster_method
from opustomo.commands.options import EPOCH_HELP

HELP = "compute the evidence supporting each cluster: half-map FSC, held-out likelihood, tomograms"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh validate``."""
    parser.add_argument("resdir", type=Path, help="output folder of dsd train_tomo")
    parser.add_argument("N", help=EPOCH_HELP)
    parser.add_argument("K", type=int, help="number of clusters")
    add_cluster_method(parser)
    parser.add_argument(
        "star", nargs="?", metavar="STAR", type=Path, help="STAR file used for training, if it was moved"
    )
    parser.add_argument("--mask", type=Path, help="mask for the FSC (default: that of the training)")
    parser.add_argument("--datadir", type=Path, help="folder that the image paths are relative to, if it changed")
    parser.add_argument("--ind", type=Path, help="index list used for training, if it was moved")
    parser.add_argument("--angpix", type=float, help="pixel size in Å (default: that of the training)")
    parser.add_argument("--warp", action="store_true", help="CTF tables are WARP csv files (default: as in training)")
    parser.add_argument(
        "--normalizectf",
        action="store_true",
        help="subtomograms were divided by their sampling weights (default: as in training)",
    )
    parser.add_argument("--no-likelihood", action="store_true", help="skip the likelihood of the held-out particles")
    parser.add_argument("-b", "--batch-size", type=int, default=8, help="batch size of the held-out particles")
    parser.add_argument("--num-workers", type=int, default=2, help="number of prefetching threads")
    parser.add_argument("--device", help="cuda or cpu (default: a GPU if available)")


def run(args: argparse.Namespace) -> None:
    from opustomo.commands.options import selected_round
    from opustomo.quality.evidence.validation import ValidationRequest, validate_run

    results, which = selected_round(args.resdir, args.N)
    if args.angpix is not None:
        results.box_of_run(apix=args.angpix)
    request = ValidationRequest(
        results=results,
        which=which,
        num_clusters=args.K,
        folder=f"{cluster_method(args)}{args.K}",
        star=args.star,
        mask=args.mask,
        datadir=args.datadir,
        ind=args.ind,
        apix=args.angpix,
        warp=args.warp,
        ctf_normalised=args.normalizectf,
        likelihood=not args.no_likelihood,
        batch_size=max(1, args.batch_size),
        workers=max(1, args.num_workers),
        device=args.device,
    )
    validate_run(request)
