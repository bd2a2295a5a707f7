"""`dsdsh convert_relion5`: RELION 5 particle sets to coordinates in pixels and back."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "Turn a RELION 5 particle set into a table with coordinates in pixels, or any table into a RELION 5 set."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("star", type=Path, metavar="STAR", help="particles, or a RELION optimisation set")
    parser.add_argument("--tomograms", type=Path, metavar="STAR", help="tomograms.star; named by an optimisation set")
    parser.add_argument("--to", choices=("pixels", "relion5"), help="what to make; the other form if not given")
    parser.add_argument("--angpix", type=float, help="pixel size of the coordinates read, Å; else taken from the table")
    parser.add_argument(
        "--keep-frames", action="store_true", help="leave rlnTomoSubtomogramRot, Tilt, Psi (to train on RELION's boxes)"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="STAR", help="{stem}_pixels.star or {stem}_relion5.star if not given"
    )


def run(args: argparse.Namespace) -> None:
    """Convert."""
    from analysis_scripts.converted import positive, write_converted
    from opustomo.convert import relion5
    from opustomo.errors import UserError
    from opustomo.io.star import read_particles

    source, tomograms = args.star, args.tomograms
    named = relion5.read_optimisation_set(source)
    if named is not None:
        source, tomograms = named[0], tomograms or named[1]
    star = read_particles(source)
    centred = "rlnCenteredCoordinateXAngst" in star
    target = args.to or ("pixels" if centred else "relion5")
    if target == "relion5" and centred and "rlnCoordinateX" not in star:
        raise UserError(f"{source}: is a RELION 5 particle set already; leave out --to, or give a table with pixels.")
    if target == "pixels" and not centred:
        raise UserError(
            f"{source}: has no rlnCenteredCoordinateXAngst, which a RELION 5 particle set has; "
            "give one, or --to relion5."
        )
    if tomograms is None:
        raise UserError("centres of the tomograms are needed; give their tomograms.star with --tomograms.")
    known = relion5.read_tomograms(tomograms)
    out = args.output or args.star.with_name(f"{args.star.stem}_{target}.star")
    if target == "pixels":
        write_converted(relion5.to_pixels(star, known, args.keep_frames), out)
        return
    apix = None if args.angpix is None else positive(args.angpix, "--angpix")
    write_converted(relion5.to_relion5(star, known, apix), out)
    optimisation = out.with_name(f"{out.stem}_optimisation_set.star")
    relion5.write_optimisation_set(optimisation, out, tomograms)
    print(f"Optimisation set: {optimisation}")
