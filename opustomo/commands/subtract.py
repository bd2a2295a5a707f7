"""`dsd subtract`: remove the modeled signal of a part of each particle from its subtomogram."""

from __future__ import annotations

import argparse
from pathlib import Path

from opustomo.commands.options import add_device, add_run

HELP = "subtract the modeled signal of each particle outside of a mask from its subtomogram"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsd subtract``."""
    parser.add_argument("star", metavar="STAR", type=Path, help="STAR file used for training")
    add_run(parser, rounds=False)
    parser.add_argument(
        "--keep", type=Path, required=True, metavar="MASK", help="mask (MRC) of the part that stays in the subtomograms"
    )
    parser.add_argument("-o", "--outdir", type=Path, required=True, metavar="DIR", help="new folder of the result")
    parser.add_argument(
        "--recenter",
        action="store_true",
        help="move the origins so that the center of mass of MASK becomes the center of the particles",
    )
    parser.add_argument(
        "--given-poses", action="store_true", help="use the poses of STAR, not the refined poses of pose.N.pkl"
    )
    parser.add_argument("--datadir", type=Path, help="folder that the image paths are relative to, if it changed")
    parser.add_argument("-b", "--batch-size", type=int, default=8, help="particles per batch")
    add_device(parser)


def run(args: argparse.Namespace) -> None:
    """Write the subtracted subtomograms and their STAR file."""
    from opustomo.commands.options import selected_round
    from opustomo.errors import UserError
    from opustomo.subtract.subtraction import SubtractionRequest, subtract

    results, which = selected_round(args.resdir, args.N)
    if which.filtered or which.focused:
        raise UserError(f"{args.N} is a later round of analysis, but an epoch is required. Give {which.epoch}.")
    result = subtract(
        SubtractionRequest(
            star=args.star,
            results=results,
            epoch=which.epoch,
            keep=args.keep,
            outdir=args.outdir,
            recenter=args.recenter,
            given_poses=args.given_poses,
            datadir=args.datadir,
            batch_size=args.batch_size,
            device=args.device,
        )
    )
    print(f"Wrote {len(result.factors)} subtomograms and {result.table}.")
