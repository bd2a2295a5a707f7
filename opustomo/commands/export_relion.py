"""`dsdsh export_relion`: write a particle set that all programs of RELION can read."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "write a particle set for RELION 3.1 or later, with optics table, float32 subtomograms and CTF volumes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh export_relion``; options shared with ``train_tomo`` have the same names."""
    add = parser.add_argument
    add("particles", type=Path, metavar="STAR", help="particle table of any RELION version, WARP or M")
    add(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="output folder, from which RELION has to be started",
    )
    add("--poses", type=Path, help="pose pickle, such as pose.N.pkl of a run (default: poses of the particle table)")
    add("--ind", type=Path, help="pickle, text or JSON file with the indices of the particles to use")
    add("--datadir", type=Path, help="folder that the image paths are relative to")
    add("--no-ctf-volumes", action="store_true", help="do not write CTF volumes; rlnCtfImage remains unchanged")
    add("--copy", action="store_true", help="also copy subtomograms that need no conversion")
    add("--angpix", type=float, help="pixel size in Å (default: MRC header)")
    add("--force", action="store_true", help="continue even if --angpix disagrees with the headers")
    add("--warp", action="store_true", help="CTF tables are WARP csv files")
    add("--warp-bfactor-scale", type=float, default=0.25, help="scale factor of the B factors of WARP")
    add("--no-ctf", action="store_true", help="model only the missing wedge, given by --tilt-range")
    add("--tilt-range", type=float, help="maximum tilt angle (±) in degrees, for --no-ctf")
    add("--tilt-step", type=float, help="tilt increment in degrees, for --no-ctf")
    add("--tilt-limit", type=float, help="exclude tilts with angles beyond ± this value in degrees")
    add("--normalizectf", action="store_true", help="subtomograms were divided by their sampling weights")


def run(args: argparse.Namespace) -> None:
    """Export the particle set and print the numbers of written files."""
    from opustomo.commands.options import data_config
    from opustomo.convert.relion_export import RelionOptions, export_relion

    options = RelionOptions(args.normalizectf, not args.no_ctf_volumes, args.copy)
    done = export_relion(data_config(args), args.output, options)
    for note in done.notes:
        print(f"Note: {note}.")
    print(
        f"Exported {done.particles} particles: wrote {done.converted} subtomograms as float32 and {done.ctf_volumes} "
        "CTF volumes"
    )
    print(f"Wrote {done.star}. Start RELION in {args.output}, because the paths are relative to this folder.")
