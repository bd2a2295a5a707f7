"""Particle tables of RELION: `dsdsh combine_star`, `convert_star`, `convert_relion5` and `export_relion`."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from opustomo.commands.closing_messages import write_converted
from opustomo.commands.options import add_ctf, add_images
from opustomo.commands.registry import Command
from opustomo.errors import UserError


def add_combine_star_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh combine_star``."""
    parser.add_argument(
        "stars",
        type=Path,
        nargs="+",
        metavar="A B OUT",
        help="two or more particle tables, followed by the output file",
    )
    parser.add_argument("--drop-duplicates", action="store_true", help="keep only the first row of duplicate particles")


def run_combine_star(args: argparse.Namespace) -> None:
    """Combine the tables and write the result."""
    from opustomo.convert.combine import combine
    from opustomo.io.star_tables import read_particles

    if len(args.stars) < 3:
        raise UserError("Give at least two STAR files, followed by the name of the output file.")
    *sources, out = args.stars
    stars = [read_particles(path) for path in sources]
    for star in stars:
        print(f"Read {len(star)} particles from {star.path}")
    write_converted(combine(stars, args.drop_duplicates), out, sources=sources)


COMBINE_STAR = Command(
    "combine particle tables of any RELION versions and report duplicates",
    add_combine_star_arguments,
    run_combine_star,
)


def add_convert_star_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh convert_star``."""
    parser.add_argument("star", type=Path, metavar="STAR", help="particle table")
    parser.add_argument("angpix", type=float, help="pixel size of the subtomograms in Å")
    parser.add_argument(
        "--rescale-angpix", type=float, metavar="Å", help="pixel size of the output coordinates and origins"
    )
    parser.add_argument(
        "--subset-label",
        metavar="LABEL",
        help="keep only particles of this half set (1 or 2), or with COLUMN=VALUE",
    )
    parser.add_argument(
        "--remove-symexp", action="store_true", help="keep only the first symmetry-expanded copy of each particle"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="STAR",
        help="output file (default: {stem}30.star or {stem}30_subset{LABEL}.star)",
    )


def run_convert_star(args: argparse.Namespace) -> None:
    """Convert the table and write the result."""
    from dataclasses import replace

    from opustomo.convert.relion30 import first_copies, rows_with_label, to_relion30
    from opustomo.io.star_tables import read_particles

    star = read_particles(args.star)
    count = len(star)
    if args.subset_label is not None:
        star = star.subset(rows_with_label(star, args.subset_label))
    if args.remove_symexp:
        star = star.subset(first_copies(star))
    result = replace(to_relion30(star, args.angpix, args.rescale_angpix), count_in=count)
    write_converted(result, args.output or args.star.with_name(_default_name(args.star.stem, args.subset_label)))


def _default_name(stem: str, label: str | None) -> str:
    """Return the file name that OPUS-TOMO uses: ``X30.star``, or ``X30_subset1.star`` for a label."""
    if label is None:
        return f"{stem}30.star"
    return f"{stem}30_subset{re.sub(r'[^0-9A-Za-z.-]+', '_', label.rpartition('=')[2])}.star"


CONVERT_STAR = Command(
    "convert a particle table of any RELION version to RELION 3.0, with origins in pixels and no optics table",
    add_convert_star_arguments,
    run_convert_star,
)


def add_convert_relion5_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh convert_relion5``."""
    parser.add_argument("star", type=Path, metavar="STAR", help="particle table or RELION optimisation set")
    parser.add_argument(
        "--tomograms", type=Path, metavar="STAR", help="tomograms.star (default: that of the optimisation set)"
    )
    parser.add_argument(
        "--to",
        choices=("pixels", "relion5"),
        help="form of the output (default: the form that the input does not have)",
    )
    parser.add_argument(
        "--angpix", type=float, help="pixel size of the input coordinates in Å (default: from the table)"
    )
    parser.add_argument(
        "--keep-frames",
        action="store_true",
        help="keep rlnTomoSubtomogramRot, Tilt and Psi, to train on the subtomograms of RELION",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="STAR",
        help="output file (default: {stem}_pixels.star or {stem}_relion5.star)",
    )


def run_convert_relion5(args: argparse.Namespace) -> None:
    """Convert the table and write the result."""
    from opustomo.convert import relion5
    from opustomo.io.star_tables import read_particles

    source, tomograms = args.star, args.tomograms
    named = relion5.read_optimization_set(source)
    if named is not None:
        source, tomograms = named[0], tomograms or named[1]
    star = read_particles(source)
    centered = "rlnCenteredCoordinateXAngst" in star
    target = args.to or ("pixels" if centered else "relion5")
    if target == "relion5" and centered and "rlnCoordinateX" not in star:
        raise UserError(
            f"{source} is a RELION 5 particle set already. Omit --to, or give a table with coordinates in pixels."
        )
    if target == "pixels" and not centered:
        raise UserError(
            f"{source} is not a RELION 5 particle set, because it has no column rlnCenteredCoordinateXAngst. Give a "
            "RELION 5 particle set, or --to relion5."
        )
    if tomograms is None:
        raise UserError(
            "The conversion requires the centers of the tomograms. Give their tomograms.star with --tomograms."
        )
    known = relion5.read_tomograms(tomograms)
    out = args.output or args.star.with_name(f"{args.star.stem}_{target}.star")
    if target == "pixels":
        write_converted(relion5.to_pixels(star, known, args.keep_frames), out)
        return
    write_converted(relion5.to_relion5(star, known, args.angpix), out, trained_on=False)
    optimization = out.with_name(f"{out.stem}_optimisation_set.star")
    relion5.write_optimization_set(optimization, out, tomograms)
    print(f"Wrote the optimisation set {optimization}")


CONVERT_RELION5 = Command(
    "convert a RELION 5 particle set to a table with coordinates in pixels, or any table to a RELION 5 set",
    add_convert_relion5_arguments,
    run_convert_relion5,
)


def add_export_relion_arguments(parser: argparse.ArgumentParser) -> None:
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
    add_images(parser)
    add("--no-ctf-volumes", action="store_true", help="do not write CTF volumes; rlnCtfImage remains unchanged")
    add("--copy", action="store_true", help="also copy subtomograms that need no conversion")
    add_ctf(parser, verifies=False)
    add("--normalizectf", action="store_true", help="subtomograms were divided by their sampling weights")


def run_export_relion(args: argparse.Namespace) -> None:
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


EXPORT_RELION = Command(
    "write a particle set for RELION 3.1 or later, with optics table, float32 subtomograms and CTF volumes",
    add_export_relion_arguments,
    run_export_relion,
)
