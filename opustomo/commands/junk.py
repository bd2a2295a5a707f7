"""`dsdsh junk`: find the picks that show none of the states of the particle."""

from __future__ import annotations

import argparse
from pathlib import Path

from opustomo.commands.options import add_device, add_moved_star, add_run

HELP = "find picks that show another molecule or nothing, and write STAR files of the kept particles and of the junk"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh junk``."""
    add_run(parser, rounds=False)
    add_moved_star(parser)
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="MAP",
        help="map of the particle (MRC, box of the subtomograms), for example the template of the matching; classes of "
        "other states become molecules of their own (default: the most frequent molecule, with all its states)",
    )
    parser.add_argument(
        "--molecules", metavar="I,J", help="numbers of the molecules of an earlier call that are states of the particle"
    )
    parser.add_argument(
        "--fdr", type=float, default=0.01, metavar="RATE", help="largest expected fraction of junk among kept particles"
    )
    parser.add_argument("--mask", type=Path, help="solvent mask (default: that of the training)")
    parser.add_argument("--datadir", type=Path, help="folder that the image paths are relative to, if it changed")
    parser.add_argument("-o", "--outdir", type=Path, help="output folder (default: analyze.N/junk)")
    add_device(parser)


def run(args: argparse.Namespace) -> None:
    """Score the particles and write the result."""
    from opustomo.commands.closing_messages import print_after_table
    from opustomo.commands.options import selected_round
    from opustomo.errors import UserError
    from opustomo.quality.evidence.junk_files import JunkInputs, score_run, summary, write_junk
    from opustomo.quality.evidence.training_state import training_remark

    results, which = selected_round(args.resdir, args.N)
    if which.filtered or which.focused:
        raise UserError(f"{args.N} is a later round of analysis, but all particles are scored. Give {which.epoch}.")
    try:
        molecules = None if args.molecules is None else tuple(int(number) for number in args.molecules.split(","))
    except ValueError as error:
        raise UserError(f"--molecules is {args.molecules!r}, but numbers such as 0,2 are expected.") from error
    inputs = JunkInputs(
        results, which.epoch, args.star, args.datadir, args.mask, args.reference, molecules, args.fdr, args.device
    )
    result, star = score_run(inputs)
    folder = args.outdir or results.analysis(which) / "junk"
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_junk(folder, result, star)
    for line in summary(result):
        print(line)
    if remark := training_remark(results.root, which.epoch):
        print(remark)
    if result.false_discovery_rate > args.fdr:
        print(f"No cut reaches the false-discovery rate of --fdr {args.fdr:g}. The cut with the lowest rate is used.")
    print(f"Wrote {folder}. Look at junk.png and at the molecules.")
    print_after_table(folder / "particles.star", [results.root / "config.pkl"])
