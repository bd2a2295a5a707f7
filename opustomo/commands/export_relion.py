"""`dsdsh export_relion`: a particle set that RELION reads in full."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "Write a set for RELION 3.1 and later: optics table, origins in Å, float32 subtomograms, CTF volumes."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; those of `train_tomo` have its names."""
    add = parser.add_argument
    add("particles", type=Path, metavar="STAR", help="particle table of any RELION version, WARP or M")
    add("-o", "--output", type=Path, required=True, metavar="DIR", help="folder to write; start RELION there")
    add("--poses", type=Path, help="pose pickle, such as pose.N.pkl of a run (default: the table's own poses)")
    add("--ind", type=Path, help="pickle, text or JSON file: indices of the particles to take")
    add("--datadir", type=Path, help="folder that the image paths are relative to")
    add("--no-ctf-volumes", action="store_true", help="write none; rlnCtfImage names the same files as before")
    add("--copy", action="store_true", help="copy also the subtomograms that RELION reads as they are")
    add("--angpix", type=float, help="pixel size in Å (default: MRC header)")
    add("--force", action="store_true", help="go on although --angpix disagrees with the headers")
    add("--warp", action="store_true", help="CTF tables are WARP csv files")
    add("--warp-bfactor-scale", type=float, default=0.25, help="weakens WARP's B (default: %(default)s)")
    add("--no-ctf", action="store_true", help="volumes of the missing wedge alone, from --tilt-range")
    add("--tilt-range", type=float, help="± degrees, for --no-ctf")
    add("--tilt-step", type=float, help="degrees, for --no-ctf")
    add("--tilt-limit", type=float, help="leave out tilts beyond ± this")
    add("--normalizectf", action="store_true", help="subtomograms were divided by their sampling weights")


def run(args: argparse.Namespace) -> None:
    """Export, and print what was written."""
    from opustomo.commands.options import data_config
    from opustomo.convert.relion_export import RelionOptions, export_relion

    options = RelionOptions(args.normalizectf, not args.no_ctf_volumes, args.copy)
    done = export_relion(data_config(args), args.output, options)
    for note in done.notes:
        print(f"Note: {note}.")
    print(
        f"{done.particles} particles: {done.converted} subtomograms written as float32, {done.ctf_volumes} CTF volumes"
    )
    print(f"Wrote {done.star}. Start RELION in {args.output}: its paths are relative to that folder.")
