"""Conversion of particle tables: `dsdsh convert_…` and `dsdsh combine_star`.

`opustomo.convert` contains the conversions."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from opustomo.commands.conversion_output import doubtful_angles, positive, write_converted
from opustomo.commands.registry import Command
from opustomo.errors import UserError

if TYPE_CHECKING:
    pass


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
    write_converted(combine(stars, args.drop_duplicates), out)


COMBINE_STAR = Command(
    "combine particle tables of any RELION versions and report duplicates",
    add_combine_star_arguments,
    run_combine_star,
)


def add_convert_artiax_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh convert_artiax``."""
    parser.add_argument("star", type=Path, metavar="STAR", help="particle table of any RELION version")
    parser.add_argument("mic", help="name of the tomogram")
    parser.add_argument(
        "--factor", type=float, default=2.132, help="scale factor of coordinates and of origins in pixels"
    )
    parser.add_argument("--deduplicate", action="store_true", help="omit particles at the position of another particle")
    parser.add_argument(
        "--micrograph-col",
        metavar="COLUMN",
        help="column of the tomogram name (default: rlnMicrographName, or else rlnTomoName)",
    )
    parser.add_argument("--data-block", metavar="NAME", help="data block of the particles (default: detected)")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="STAR", help="output file (default: {stem}_{mic}_artiax.star)"
    )


def run_convert_artiax(args: argparse.Namespace) -> None:
    """Convert the table and write the result."""
    from opustomo.convert.template_matching import TomogramChoice, artiax_list
    from opustomo.io.tomograms import tomogram_stem
    from opustomo.prepare.particle_tables import particles_of_block

    star = particles_of_block(args.star, args.data_block)
    choice = TomogramChoice(args.mic, args.micrograph_col)
    result = artiax_list(star, choice, positive(args.factor, "--factor"), args.deduplicate)
    name = f"{args.star.stem}_{tomogram_stem(args.mic)}_artiax.star"
    write_converted(result, args.output or args.star.with_name(name))


CONVERT_ARTIAX = Command(
    "write the particles of one tomogram with coordinates in its pixels for ArtiaX",
    add_convert_artiax_arguments,
    run_convert_artiax,
)


def add_convert_dynamo_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh convert_dynamo``."""
    parser.add_argument(
        "source",
        type=Path,
        metavar="TBL|STAR",
        help="Dynamo table or STAR file to convert, distinguished by the suffix",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="STAR|TBL",
        help="output file (default: the same name with the other suffix)",
    )
    parser.add_argument(
        "--tomograms", type=Path, metavar="DOC", help="list of the tomogram numbers and names (.doc, .vll)"
    )
    parser.add_argument(
        "--angpix", type=float, help="pixel size of the input coordinates in Å (default: from the table)"
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="scale factor of coordinates and shifts, to change the binning"
    )
    parser.add_argument(
        "--star",
        type=Path,
        metavar="STAR",
        help="write the poses of TBL to a copy of this table, from which TBL was converted with the same --scale",
    )


def run_convert_dynamo(args: argparse.Namespace) -> None:
    """Convert the table and write the result."""
    from opustomo.convert.dynamo import (
        dynamo_from_relion_table,
        read_table,
        read_tomogram_list,
        relion_from_dynamo_table,
        restore_poses,
        write_table,
        write_tomogram_list,
    )
    from opustomo.io.star_tables import read_particles

    scale = positive(args.scale, "--scale")
    apix = None if args.angpix is None else positive(args.angpix, "--angpix")
    tomograms = None if args.tomograms is None else read_tomogram_list(args.tomograms)
    if args.source.suffix.lower() != ".star":
        table = read_table(args.source)
        if args.star is not None:
            result = restore_poses(table, str(args.source), read_particles(args.star), apix, scale)
        else:
            result = relion_from_dynamo_table(table, str(args.source), tomograms, apix, scale)
        write_converted(result, args.output or args.source.with_suffix(".star"))
        return
    if args.star is not None:
        raise UserError("--star requires a Dynamo table as input. Give a .tbl file.")
    out = args.output or args.source.with_suffix(".tbl")
    if out.suffix.lower() != ".tbl":
        raise UserError(f"The output file is {out}, but its name must end in .tbl.")
    star = read_particles(args.source)
    columns, names = dynamo_from_relion_table(star, tomograms, apix, scale)
    if names:
        write_tomogram_list(out.with_suffix(".doc"), names)
        print(f"Wrote the names of {len(names)} tomograms to {out.with_suffix('.doc')}")
    angles = doubtful_angles(star)
    write_table(out, columns)
    if angles is not None:
        print(f"Note: {angles}.")
    print(f"Wrote {len(columns['tag'])} of {len(star)} particles to {out}")


CONVERT_DYNAMO = Command(
    "convert a Dynamo table (.tbl) to a RELION 3.0 STAR file, or a STAR file to a Dynamo table",
    add_convert_dynamo_arguments,
    run_convert_dynamo,
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
    apix = None if args.angpix is None else positive(args.angpix, "--angpix")
    write_converted(relion5.to_relion5(star, known, apix), out)
    optimization = out.with_name(f"{out.stem}_optimisation_set.star")
    relion5.write_optimization_set(optimization, out, tomograms)
    print(f"Wrote the optimisation set {optimization}")


CONVERT_RELION5 = Command(
    "convert a RELION 5 particle set to a table with coordinates in pixels, or any table to a RELION 5 set",
    add_convert_relion5_arguments,
    run_convert_relion5,
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

    apix = positive(args.angpix, "angpix")
    rescaled = None if args.rescale_angpix is None else positive(args.rescale_angpix, "--rescale-angpix")
    star = read_particles(args.star)
    count = len(star)
    if args.subset_label is not None:
        star = star.subset(rows_with_label(star, args.subset_label))
    if args.remove_symexp:
        star = star.subset(first_copies(star))
    result = replace(to_relion30(star, apix, rescaled), count_in=count)
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


def add_convert_warp_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh convert_warp``."""
    parser.add_argument("star", type=Path, metavar="STAR", help="particle table of an M species")
    parser.add_argument("angpix", type=float, help="pixel size of the output coordinates in Å")
    parser.add_argument("--kv", type=float, default=300.0, help="acceleration voltage in kV")
    parser.add_argument("--cs", type=float, default=2.7, help="spherical aberration in mm")
    parser.add_argument("-o", "--output", type=Path, metavar="STAR", help="output file (default: {stem}_relion.star)")


def run_convert_warp(args: argparse.Namespace) -> None:
    """Convert the table and write the result."""
    from opustomo.convert.warp import relion_from_species

    result = relion_from_species(
        args.star, positive(args.angpix, "angpix"), positive(args.kv, "--kv"), positive(args.cs, "--cs")
    )
    write_converted(result, args.output or args.star.with_name(f"{args.star.stem}_relion.star"))


CONVERT_WARP = Command(
    "convert the particle table of an M species (wrp… columns) to a RELION 3.0 STAR file",
    add_convert_warp_arguments,
    run_convert_warp,
)
