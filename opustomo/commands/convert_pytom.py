"""Conversion of PyTom particle lists: `dsdsh convert_pytom` and `dsdsh convert_pytom_to_star`."""

from __future__ import annotations

import argparse
from pathlib import Path

from opustomo.commands.conversion_output import positive, write_converted
from opustomo.commands.registry import Command
from opustomo.errors import UserError


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
    from opustomo.convert.template_matching import TomogramChoice, warp_matching
    from opustomo.io.star_tables import read_particles
    from opustomo.io.tomograms import base_name

    result = warp_matching(read_particles(args.star), TomogramChoice(args.mic))
    name = base_name(args.mic).removesuffix(".tomostar")
    write_converted(result, args.output or Path(f"{name}_norm.star"))


CONVERT_PYTOM = Command(
    "write the particles of one tomogram as a template-matching STAR file for WARP",
    add_convert_pytom_arguments,
    run_convert_pytom,
)


# Smaller inputs are read faster than worker processes start.
SMALL_BYTES = 20_000_000


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
