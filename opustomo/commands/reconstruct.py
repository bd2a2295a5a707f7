"""`dsd reconstruct`: back-project subtomograms to a map and half maps, with their FSC."""

from __future__ import annotations

import argparse
from pathlib import Path

from opustomo.commands.options import add_ctf, add_device, add_images

HELP = "reconstruct a map, half maps and their FSC from subtomograms by CTF-weighted back-projection"


def add_arguments(parser: argparse.ArgumentParser) -> None:
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


def run(args: argparse.Namespace) -> None:
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
        if any(result.curve.reaches_nyquist(threshold) for threshold in THRESHOLDS):
            print("The FSC does not fall below every threshold, so the pixel size limits the resolution.")
    for path in result.written:
        print(f"Wrote {path}")
