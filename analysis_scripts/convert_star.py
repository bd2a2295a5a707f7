"""`dsdsh convert_star`: a table of RELION 3.1 or later in RELION 3.0's form."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

HELP = "Turn a particle table of any RELION version into RELION 3.0's form: origins in pixels, optics in the rows."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("star", type=Path, metavar="STAR", help="particle table")
    parser.add_argument("angpix", type=float, help="pixel size of the subtomograms, Å")
    parser.add_argument("--rescale-angpix", type=float, metavar="Å", help="write coordinates and origins in this size")
    parser.add_argument(
        "--subset-label",
        metavar="LABEL",
        help="keep only particles of this half-set (1 or 2), or of any COLUMN=VALUE; the column itself stays",
    )
    parser.add_argument(
        "--remove-symexp", action="store_true", help="keep only the first of each particle's symmetry-expanded copies"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="STAR", help="{stem}30.star, or {stem}30_subset{LABEL}.star, if not given"
    )


def run(args: argparse.Namespace) -> None:
    """Convert."""
    from dataclasses import replace

    from analysis_scripts.converted import positive, write_converted
    from opustomo.convert.relion30 import one_of_each, rows_with_label, to_relion30
    from opustomo.io.star import read_particles

    apix = positive(args.angpix, "angpix")
    rescaled = None if args.rescale_angpix is None else positive(args.rescale_angpix, "--rescale-angpix")
    star = read_particles(args.star)
    count = len(star)
    if args.subset_label is not None:
        star = star.subset(rows_with_label(star, args.subset_label))
    if args.remove_symexp:
        star = star.subset(one_of_each(star))
    result = replace(to_relion30(star, apix, rescaled), count_in=count)
    write_converted(result, args.output or args.star.with_name(_default_name(args.star.stem, args.subset_label)))


def _default_name(stem: str, label: str | None) -> str:
    """Return the name that the original gives: ``X30.star``, or ``X30_subset1.star`` for a label."""
    if label is None:
        return f"{stem}30.star"
    return f"{stem}30_subset{re.sub(r'[^0-9A-Za-z.-]+', '_', label.rpartition('=')[2])}.star"
