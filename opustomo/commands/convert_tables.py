"""Conversion of particle tables: `dsdsh convert_…` and `dsdsh combine_star`.

The conversions themselves are functions on tables in `opustomo.convert`."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from opustomo.commands.registry import Command
from opustomo.errors import UserError

if TYPE_CHECKING:
    from opustomo.convert.columns import Converted
    from opustomo.io.star_tables import ParticleStar


def positive(value: float, option: str) -> float:
    """Return a number given as an option.

    Raises
    ------
    UserError
        It is not positive and finite.
    """
    if not 0 < value < float("inf"):
        raise UserError(f"{option} must be a positive number, not {value:g}.")
    return value


def doubtful_angles(star: ParticleStar) -> str | None:
    """Describe Euler angles of a table that are not plausible, or return None.

    Raises
    ------
    UserError
        An angle is no number, or too large for one in degrees.
    """
    from opustomo.io.poses import angle_note
    from opustomo.io.star_tables import EULER_COLUMNS

    return angle_note(star.eulers_deg()) if all(column in star for column in EULER_COLUMNS) else None


def write_converted(result: Converted, out: Path) -> None:
    """Write the table; print the notes and the numbers of particles."""
    from opustomo.io.star_conventions import ignored_origins

    if out.suffix.lower() != ".star":
        raise UserError(f"{out}: the table is a STAR file; give a name that ends in .star.")
    angles = doubtful_angles(result.star)
    result.star.write(out)
    for note in (*(f"{note}." for note in result.notes), ignored_origins(result.star), angles and f"{angles}."):
        if note is not None:
            print(f"Note: {note}")
    print(f"{result.count_in} particles in, {len(result.star)} out: {out}")


def add_combine_star_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("stars", type=Path, nargs="+", metavar="A B OUT", help="two tables or more, then the result")
    parser.add_argument("--drop-duplicates", action="store_true", help="keep only the first row of each particle")


def run_combine_star(args: argparse.Namespace) -> None:
    """Combine."""
    from opustomo.convert.combine import combine
    from opustomo.io.star_tables import read_particles

    if len(args.stars) < 3:
        raise UserError("give two STAR files or more, and last the name of the result.")
    *sources, out = args.stars
    stars = [read_particles(path) for path in sources]
    for star in stars:
        print(f"{len(star)} particles in {star.path}")
    write_converted(combine(stars, args.drop_duplicates), out)


COMBINE_STAR = Command(
    "Put particle tables of any RELION versions one after the other; duplicates are reported.",
    add_combine_star_arguments,
    run_combine_star,
)


def add_convert_artiax_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("star", type=Path, metavar="STAR", help="particle table of any RELION version")
    parser.add_argument("mic", help="name of the tomogram")
    parser.add_argument("--factor", type=float, default=2.132, help="multiply coordinates (and origins in pixels)")
    parser.add_argument("--deduplicate", action="store_true", help="leave out particles at the place of another")
    parser.add_argument("--micrograph-col", metavar="COLUMN", help="rlnMicrographName, else rlnTomoName if not given")
    parser.add_argument("--data-block", metavar="NAME", help="block of the particles; found by itself if not given")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="STAR", help="{stem}_{mic}_artiax.star beside the table if not given"
    )


def run_convert_artiax(args: argparse.Namespace) -> None:
    """Convert."""
    from opustomo.convert.template_matching import TomogramChoice, artiax_list
    from opustomo.io.tomograms import tomogram_stem
    from opustomo.prepare.particle_tables import particles_of_block

    star = particles_of_block(args.star, args.data_block)
    choice = TomogramChoice(args.mic, args.micrograph_col)
    result = artiax_list(star, choice, positive(args.factor, "--factor"), args.deduplicate)
    name = f"{args.star.stem}_{tomogram_stem(args.mic)}_artiax.star"
    write_converted(result, args.output or args.star.with_name(name))


CONVERT_ARTIAX = Command(
    "Write the particles of exactly one tomogram, in its own pixels, for ArtiaX.",
    add_convert_artiax_arguments,
    run_convert_artiax,
)


def add_convert_dynamo_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "source", type=Path, metavar="TBL|STAR", help="table to convert; its suffix tells the direction"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="STAR|TBL", help="beside it if not given")
    parser.add_argument("--tomograms", type=Path, metavar="DOC", help="numbers and names of the tomograms (.doc, .vll)")
    parser.add_argument("--angpix", type=float, help="pixel size of the coordinates read, Å; else taken from the table")
    parser.add_argument("--scale", type=float, default=1.0, help="multiply coordinates and shifts (another binning)")
    parser.add_argument(
        "--star",
        type=Path,
        metavar="STAR",
        help="put the poses of TBL back into this table, which it was made from (with the same --scale)",
    )


def run_convert_dynamo(args: argparse.Namespace) -> None:
    """Convert."""
    from opustomo.convert.dynamo import (
        dynamo_from_relion_table,
        put_into_table,
        read_table,
        read_tomogram_list,
        relion_from_dynamo_table,
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
            result = put_into_table(table, str(args.source), read_particles(args.star), apix, scale)
        else:
            result = relion_from_dynamo_table(table, str(args.source), tomograms, apix, scale)
        write_converted(result, args.output or args.source.with_suffix(".star"))
        return
    if args.star is not None:
        raise UserError("--star goes with a Dynamo table as input; give a .tbl file first.")
    out = args.output or args.source.with_suffix(".tbl")
    if out.suffix.lower() != ".tbl":
        raise UserError(f"{out}: the result is a Dynamo table; give a name that ends in .tbl.")
    star = read_particles(args.source)
    columns, names = dynamo_from_relion_table(star, tomograms, apix, scale)
    if names:
        write_tomogram_list(out.with_suffix(".doc"), names)
        print(f"{len(names)} tomograms: {out.with_suffix('.doc')}")
    angles = doubtful_angles(star)
    write_table(out, columns)
    if angles is not None:
        print(f"Note: {angles}.")
    print(f"{len(star)} particles in, {len(columns['tag'])} out: {out}")


CONVERT_DYNAMO = Command(
    "Turn a Dynamo table (.tbl) into a RELION 3.0 STAR file, or a STAR file into a Dynamo table.",
    add_convert_dynamo_arguments,
    run_convert_dynamo,
)


def add_convert_pytom_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("star", type=Path, metavar="STAR", help="particle table, as of convert_pytom_to_star")
    parser.add_argument("mic", help="name of the tomogram; {mic}.tomostar is written as its tilt series")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="STAR", help="{mic}_norm.star in the working folder if not given"
    )


def run_convert_pytom(args: argparse.Namespace) -> None:
    """Convert."""
    from opustomo.convert.template_matching import TomogramChoice, warp_matching
    from opustomo.io.star_tables import read_particles
    from opustomo.io.tomograms import base_name

    result = warp_matching(read_particles(args.star), TomogramChoice(args.mic))
    name = base_name(args.mic).removesuffix(".tomostar")
    write_converted(result, args.output or Path(f"{name}_norm.star"))


CONVERT_PYTOM = Command(
    "Write the particles of exactly one tomogram as a template-matching STAR file for WARP.",
    add_convert_pytom_arguments,
    run_convert_pytom,
)


# less than this is read before other processes have started
SMALL_BYTES = 20_000_000


def add_convert_pytom_to_star_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", type=Path, metavar="XML", help="one particle list")
    source.add_argument("--input-dir", type=Path, metavar="DIR", help="folder of particle lists")
    parser.add_argument("--pattern", default="*.xml", help="names of the lists in --input-dir")
    parser.add_argument("--output", "-o", type=Path, required=True, metavar="STAR", help="table to write")
    parser.add_argument("--pixel-size", type=float, default=7.84, help="pixel size of the tomograms picked in, Å")
    parser.add_argument("--bin-size", type=float, default=4, help="their binning; coordinates are multiplied by it")
    parser.add_argument("--magnification", type=float, default=10000, help="rlnMagnification to write")
    parser.add_argument(
        "--ctf-template",
        metavar="T",
        help="rlnCtfImage to write: {ts_name} stands for the tomogram's name, {i} for the particle's number in it, "
        "from 1, as in {ts_name}/{ts_name}_{i:06d}_ctf.star; the column is left out if not given",
    )
    parser.add_argument("--workers", type=int, default=10, help="lists read at the same time")


def run_convert_pytom_to_star(args: argparse.Namespace) -> None:
    """Convert."""
    import sys

    from tqdm import tqdm

    from opustomo.convert.pytom import PytomScale, check_ctf_template, relion_from_pytom_lists, with_ctf_images

    scale = PytomScale(
        positive(args.pixel_size, "--pixel-size"),
        positive(args.bin_size, "--bin-size"),
        positive(args.magnification, "--magnification"),
    )
    positive(args.workers, "--workers")
    if args.ctf_template is not None:
        check_ctf_template(args.ctf_template)
    paths = [args.input] if args.input is not None else sorted(args.input_dir.glob(args.pattern))
    if not paths:
        raise UserError(f"{args.input_dir}: no file is called {args.pattern}; check the folder and --pattern.")
    small = sum(path.stat().st_size for path in paths if path.is_file()) < SMALL_BYTES
    with tqdm(total=len(paths), unit="list", disable=not sys.stderr.isatty() or len(paths) == 1) as bar:
        result = relion_from_pytom_lists(paths, scale, 1 if small else args.workers, bar.update)
    if args.ctf_template is not None:
        result = with_ctf_images(result, args.ctf_template)
    print(f"{len(paths)} lists read")
    write_converted(result, args.output)


CONVERT_PYTOM_TO_STAR = Command(
    ("Turn PyTom's XML particle lists into a RELION 3.0 table: ZXZ angles, coordinates times the binning."),
    add_convert_pytom_to_star_arguments,
    run_convert_pytom_to_star,
)


def add_convert_relion5_arguments(parser: argparse.ArgumentParser) -> None:
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


def run_convert_relion5(args: argparse.Namespace) -> None:
    """Convert."""
    from opustomo.convert import relion5
    from opustomo.io.star_tables import read_particles

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


CONVERT_RELION5 = Command(
    ("Turn a RELION 5 particle set into a table with coordinates in pixels, or any table into a RELION 5 set."),
    add_convert_relion5_arguments,
    run_convert_relion5,
)


def add_convert_star_arguments(parser: argparse.ArgumentParser) -> None:
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


def run_convert_star(args: argparse.Namespace) -> None:
    """Convert."""
    from dataclasses import replace

    from opustomo.convert.relion30 import one_of_each, rows_with_label, to_relion30
    from opustomo.io.star_tables import read_particles

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


CONVERT_STAR = Command(
    ("Turn a particle table of any RELION version into RELION 3.0's form: origins in pixels, optics in the rows."),
    add_convert_star_arguments,
    run_convert_star,
)


def add_convert_warp_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("star", type=Path, metavar="STAR", help="particles of an M species")
    parser.add_argument("angpix", type=float, help="pixel size of the coordinates to write, Å")
    parser.add_argument("--kv", type=float, default=300.0, help="voltage, kV")
    parser.add_argument("--cs", type=float, default=2.7, help="spherical aberration, mm")
    parser.add_argument("-o", "--output", type=Path, metavar="STAR", help="{stem}_relion.star beside it if not given")


def run_convert_warp(args: argparse.Namespace) -> None:
    """Convert."""
    from opustomo.convert.warp import relion_from_species

    result = relion_from_species(
        args.star, positive(args.angpix, "angpix"), positive(args.kv, "--kv"), positive(args.cs, "--cs")
    )
    write_converted(result, args.output or args.star.with_name(f"{args.star.stem}_relion.star"))


CONVERT_WARP = Command(
    "Turn the particle STAR file of an M species (wrp… columns, Å) into a RELION 3.0 table.",
    add_convert_warp_arguments,
    run_convert_warp,
)
