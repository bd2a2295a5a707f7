"""Subtomograms without training: `dsd reconstruct` back-projects them, `dsd subtract` removes part of their signal."""

from __future__ import annotations

import argparse
from pathlib import Path

from opustomo.commands.options import add_ctf, add_device, add_images, add_run
from opustomo.commands.registry import Command


def add_reconstruct_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsd reconstruct``; options shared with ``train_tomo`` have the same names."""
    add = parser.add_argument
    add("particles", type=Path, metavar="STAR", help="particle table (RELION, WARP, M)")
    add(
        "-o", "--output", type=Path, required=True, metavar="MRC", help="output map; all other files are named after it"
    )
    add(
        "--halves",
        action="store_true",
        help="also reconstruct half maps (by rlnRandomSubset, or odd and even rows without it) and their FSC",
    )
    add("--poses", type=Path, help="pose pickle, such as pose.N.pkl of a run (default: poses of the particle table)")
    add("-r", "--mask", type=Path, dest="mask", help="mask for the FSC (MRC, box of the subtomograms)")
    add("--ind", type=Path, help="pickle, text or JSON file with the indices of the particles to use")
    add_images(parser)
    add_ctf(parser, verifies=False)
    add("--normalizectf", action="store_true", help="subtomograms were divided by their sampling weights")
    add("--num-workers", type=int, default=2, help="number of prefetching threads (default: %(default)s)")
    add_device(parser)


def run_reconstruct(args: argparse.Namespace) -> None:
    """Reconstruct the map and print the written files and the resolution."""
    from opustomo.commands.options import data_config
    from opustomo.errors import UserError
    from opustomo.model.device import choose_device
    from opustomo.quality.evidence.half_maps import THRESHOLDS, ReconstructionRequest, reconstruct, resolution_text

    output = args.output if args.output.suffix else args.output.with_suffix(".mrc")
    if output.suffix != ".mrc":
        raise UserError(f"The output file {output} (-o) must have the suffix .mrc.")
    if args.mask is not None and not args.halves:
        raise UserError("--mask is used only for the FSC of half maps. Add --halves, or omit --mask.")
    data = data_config(args)
    device = choose_device(args.device)
    result = reconstruct(
        ReconstructionRequest(data, output, args.halves, args.normalizectf, device, max(1, args.num_workers))
    )
    for note in result.notes:
        print(f"Note: {note}")
    if result.curve is None:
        print(f"Reconstructed a map from {result.counts[0]} particles.")
    else:
        print(
            f"Reconstructed half maps from {result.counts[0]} + {result.counts[1]} particles, "
            f"divided by {result.origin}."
        )
        mask = "without mask" if result.curve.masked is None else "masked, corrected by phase randomization"
        resolutions = ", ".join(f"{resolution_text(result.curve.resolution_A(t))} at {t:g}" for t in THRESHOLDS)
        print(f"Resolution by FSC ({mask}): {resolutions}")
    for path in result.written:
        print(f"Wrote {path}")


RECONSTRUCT = Command(
    "reconstruct a map, half maps and their FSC from subtomograms by CTF-weighted back-projection",
    add_reconstruct_arguments,
    run_reconstruct,
)


def add_subtract_arguments(parser: argparse.ArgumentParser) -> None:
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


def run_subtract(args: argparse.Namespace) -> None:
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


SUBTRACT = Command(
    "subtract the modeled signal of each particle outside of a mask from its subtomogram",
    add_subtract_arguments,
    run_subtract,
)
