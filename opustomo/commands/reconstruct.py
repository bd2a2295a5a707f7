"""``dsd reconstruct``: a map straight from the subtomograms, without any network."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "back-project posed subtomograms with their CTFs to a map, half maps and their FSC"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; those of ``train_tomo`` have its names."""
    add = parser.add_argument
    add("particles", type=Path, metavar="STAR", help="particle table (RELION, WARP, M)")
    add("-o", "--output", type=Path, required=True, metavar="MRC", help="the map; everything else is named after it")
    add("--halves", action="store_true", help="also half maps (rlnRandomSubset, else odd and even) and their FSC")
    add("--poses", type=Path, help="pose pickle, such as pose.N.pkl of a run (default: the table's own poses)")
    add("-r", "--mask", type=Path, dest="mask", help="mask for the FSC (MRC, box of the subtomograms)")
    add("--ind", type=Path, help="pickle, text or JSON file: indices of the particles to take")
    add("--datadir", type=Path, help="folder that the image paths are relative to")
    add("--angpix", type=float, help="pixel size in Å (default: MRC header)")
    add(
        "--force",
        action="store_true",
        help="go on although --angpix disagrees with the headers, or origins look like Å",
    )
    add("--warp", action="store_true", help="CTF tables are WARP csv files")
    add("--warp-bfactor-scale", type=float, default=0.25, help="weakens WARP's B (default: %(default)s)")
    add("--no-ctf", action="store_true", help="missing-wedge-only model from --tilt-range")
    add("--tilt-range", type=float, help="± degrees, for --no-ctf")
    add("--tilt-step", type=float, help="degrees, for --no-ctf")
    add("--tilt-limit", type=float, help="leave out tilts beyond ± this")
    add("--normalizectf", action="store_true", help="reconstructions divided by sampling weights")
    add("--num-workers", type=int, default=2, help="threads that read ahead (default: %(default)s)")
    add("--device", help="cuda or cpu (default: a GPU if there is one)")


def run(args: argparse.Namespace) -> None:
    """Reconstruct, then say what was written and how well the halves agree."""
    from opustomo.commands.data_options import data_config
    from opustomo.errors import UserError
    from opustomo.model.device import choose_device
    from opustomo.reconstruct.curves import THRESHOLDS, resolution_text
    from opustomo.reconstruct.maps import ReconstructionRequest, reconstruct

    output = args.output if args.output.suffix else args.output.with_suffix(".mrc")
    if output.suffix != ".mrc":
        raise UserError(f"-o {output} does not end in .mrc; name the map to write")
    if args.mask is not None and not args.halves:
        raise UserError("--mask is for the FSC of half maps; add --halves, or leave it out")
    data = data_config(args)
    device = choose_device(args.device)
    done = reconstruct(
        ReconstructionRequest(data, output, args.halves, args.normalizectf, device, max(1, args.num_workers))
    )
    for note in done.notes:
        print(f"note: {note}")
    if done.curve is None:
        print(f"{done.counts[0]} particles")
    else:
        print(f"{done.counts[0]} + {done.counts[1]} particles in half maps by {done.origin}")
        kind = "no mask" if done.curve.masked is None else "inside the mask, its own correlation removed"
        found = ", ".join(f"{resolution_text(done.curve.resolution_A(t))} at {t:g}" for t in THRESHOLDS)
        print(f"Resolution by FSC ({kind}): {found}")
    for path in done.written:
        print(f"wrote {path}")
