"""`dsdsh convert_pytom_to_star`: particle lists of PyTom as one RELION table."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "Turn PyTom's XML particle lists into a RELION 3.0 table: ZXZ angles, coordinates times the binning."

# less than this is read before other processes have started
SMALL_BYTES = 20_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
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


def run(args: argparse.Namespace) -> None:
    """Convert."""
    import sys

    from tqdm import tqdm

    from analysis_scripts.converted import positive, write_converted
    from opustomo.convert.pytom import PytomScale, check_ctf_template, relion_from_pytom_lists, with_ctf_images
    from opustomo.errors import UserError

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
