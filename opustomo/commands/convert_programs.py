"""Particle tables of other programs: `dsdsh convert_artiax`, `convert_dynamo`, `convert_pytom`,
`convert_pytom_to_star` and `convert_warp`."""

from __future__ import annotations

import argparse
from pathlib import Path

from opustomo.commands.closing_messages import doubtful_angles, write_converted
from opustomo.commands.registry import Command
from opustomo.errors import UserError

SMALL_BYTES = 20_000_000
"""Lists of PyTom below this total size are read faster than worker processes start."""


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
    from opustomo.convert.artiax import artiax_list
    from opustomo.io.tomograms import TomogramChoice, tomogram_stem
    from opustomo.prepare.particle_tables import particles_of_block

    star = particles_of_block(args.star, args.data_block)
    choice = TomogramChoice(args.mic, args.micrograph_col)
    result = artiax_list(star, choice, args.factor, args.deduplicate)
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

    scale, apix = args.scale, args.angpix
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


def add_convert_pytom_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh convert_pytom``."""
    parser.add_argument(
        "star", type=Path, metavar="STAR", help="particle table, such as the output of convert_pytom_to_star"
    )
    parser.add_argument("mic", help="name of the tomogram, whose tilt series becomes {mic}.tomostar")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="STAR", help="output file (default: {mic}_norm.star in the current folder)"
    )


def run_convert_pytom(args: argparse.Namespace) -> None:
    """Convert the table and write the result."""
    from opustomo.convert.warp import warp_matching
    from opustomo.io.star_tables import read_particles
    from opustomo.io.tomograms import TomogramChoice, base_name

    result = warp_matching(read_particles(args.star), TomogramChoice(args.mic))
    name = base_name(args.mic).removesuffix(".tomostar")
    write_converted(result, args.output or Path(f"{name}_norm.star"), trained_on=False)


CONVERT_PYTOM = Command(
    "write the particles of one tomogram as a template-matching STAR file for WARP",
    add_convert_pytom_arguments,
    run_convert_pytom,
)


def add_convert_pytom_to_star_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh convert_pytom_to_star``."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", type=Path, metavar="XML", help="particle list")
    source.add_argument("--input-dir", type=Path, metavar="DIR", help="folder of particle lists")
    parser.add_argument("--pattern", default="*.xml", help="file name pattern of the lists in --input-dir")
    parser.add_argument("--output", "-o", type=Path, required=True, metavar="STAR", help="output file")
    parser.add_argument(
        "--pixel-size", type=float, default=7.84, help="pixel size in Å of the tomograms used for picking"
    )
    parser.add_argument(
        "--bin-size", type=float, default=4, help="binning of these tomograms, which multiplies the coordinates"
    )
    parser.add_argument("--magnification", type=float, default=10000, help="rlnMagnification of the output")
    parser.add_argument(
        "--ctf-template",
        metavar="T",
        help="template of rlnCtfImage, such as {ts_name}/{ts_name}_{i:06d}_ctf.star, with the name of the tomogram "
        "{ts_name} and the number of the particle in it {i}, counted from 1 (default: no column)",
    )
    parser.add_argument("--workers", type=int, default=10, help="number of worker processes")


def run_convert_pytom_to_star(args: argparse.Namespace) -> None:
    """Convert the table and write the result."""
    import sys

    from tqdm import tqdm

    from opustomo.convert.pytom import PytomScale, check_ctf_template, relion_from_pytom_lists, with_ctf_images

    scale = PytomScale(args.pixel_size, args.bin_size, args.magnification)
    if args.ctf_template is not None:
        check_ctf_template(args.ctf_template)
    paths = [args.input] if args.input is not None else sorted(args.input_dir.glob(args.pattern))
    if not paths:
        raise UserError(
            f"{args.input_dir} contains no file that matches {args.pattern}. Check the folder and --pattern."
        )
    small = sum(path.stat().st_size for path in paths if path.is_file()) < SMALL_BYTES
    with tqdm(total=len(paths), unit="list", disable=not sys.stderr.isatty() or len(paths) == 1) as bar:
        result = relion_from_pytom_lists(paths, scale, 1 if small else args.workers, bar.update)
    if args.ctf_template is not None:
        result = with_ctf_images(result, args.ctf_template)
    print(f"Read {len(paths)} particle lists")
    write_converted(result, args.output)


CONVERT_PYTOM_TO_STAR = Command(
    "convert PyTom particle lists (XML) to a RELION 3.0 STAR file",
    add_convert_pytom_to_star_arguments,
    run_convert_pytom_to_star,
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

    result = relion_from_species(args.star, args.angpix, args.kv, args.cs)
    write_converted(result, args.output or args.star.with_name(f"{args.star.stem}_relion.star"))


CONVERT_WARP = Command(
    "convert the particle table of an M species (wrp… columns) to a RELION 3.0 STAR file",
    add_convert_warp_arguments,
    run_convert_warp,
)
