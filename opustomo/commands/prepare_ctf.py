"""`dsd prepare_ctf`: write CTF tables of subtomograms from tilt angles, doses and defocus values."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from opustomo.commands.options import add_microscope, add_tilt_series

if TYPE_CHECKING:
    from opustomo.io.star_tables import ParticleStar
    from opustomo.io.tilt_series.discovery import SeriesSource
    from opustomo.prepare.ctf_preparation import CtfConfig

HELP = "write a CTF table for each subtomogram from the tilt series of IMOD, AreTomo, SerialEM, RELION or WARP"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsd prepare_ctf``."""
    add = parser.add_argument
    add(
        "inputs",
        type=Path,
        nargs="+",
        metavar="INPUT",
        help=".coords files or folders with .coords files, beside their tilt series unless --tilts is given, or one "
        "particle table with --tilts, --tomograms or --warp",
    )
    add("-o", "--outdir", type=Path, required=True, metavar="DIR", help="output folder of the CTF tables and all.star")
    add("--out-star", type=Path, metavar="STAR", help="output particle table (default: DIR/all.star)")
    add("--workers", type=int, default=4, help="number of worker processes")
    add(
        "--allow-2d-stacks",
        action="store_true",
        help="also write CTF tables for particles that are 2D stacks of tilt images",
    )

    series = parser.add_argument_group("tilt series")
    add_tilt_series(series)
    add = series.add_argument
    add(
        "--tomo-size",
        type=int,
        nargs=3,
        metavar=("NX", "NY", "NZ"),
        help="size of the tomogram in voxels (default: MRC header)",
    )
    add(
        "--apix",
        type=float,
        metavar="Å",
        help="pixel size of the tilt series and of --tomo-size (default: as stated in the files)",
    )
    add("--coord-apix", type=float, metavar="Å", help="pixel size of coordinates in pixels (default: that of --apix)")

    ctf = parser.add_argument_group("CTF")
    add_microscope(ctf)
    add = ctf.add_argument
    add(
        "--hand",
        choices=("original", "1", "-1"),
        help="sign of the depth of particles; 1 and -1 as rlnTomoHand, see docs/handedness.md (default: as stated by "
        "RELION or WARP, original for text files)",
    )
    add(
        "--high-tilt",
        type=float,
        default=45.0,
        metavar="DEG",
        help="tilt angle beyond which defocus values are clipped",
    )
    add(
        "--clip-sigma",
        type=float,
        metavar="S",
        help="clip to the mean ± S standard deviations of the other tilts; 0: no clipping (default: 2 for text files)",
    )
    add(
        "--bfactor-per-dose",
        type=float,
        default=4.0,
        metavar="B",
        help="B factor in Å² per dose in e/Å², for text files",
    )

    add = parser.add_argument_group("particle table for .coords files").add_argument
    add(
        "--image-name",
        default="{name}/{name}_{index:06d}.mrc",
        metavar="NAME",
        help="template of the subtomogram paths in DIR",
    )
    add("--magnification", type=float, default=10000.0, help="rlnMagnification of the output")
    add(
        "--detector-pixel-size",
        type=float,
        metavar="UM",
        help="detector pixel size in µm, which with --magnification replaces --apix",
    )


def run(args: argparse.Namespace) -> None:
    """Write the CTF tables and the particle table."""
    from opustomo.commands.closing_messages import print_after_table
    from opustomo.io.star_tables import read_particles
    from opustomo.prepare.ctf_preparation import prepare_coords, prepare_star

    _check(args)
    source, config = _source(args), _config(args)
    if _is_star(args):
        star = read_particles(args.inputs[0])
        if not args.allow_2d_stacks:
            _refuse_stacks(star, args)
        tomograms, notes = prepare_star(star, source, config)
        print(f"Wrote {len(star)} CTF tables for the particles of {tomograms} tomograms in {args.inputs[0]}")
    else:
        files = _coords(args.inputs)
        count, notes = prepare_coords(files, source, config)
        print(f"Wrote {count} CTF tables for the particles in {len(files)} .coords files")
    for note in notes:
        print(f"Note: {note}")
    print(f"Wrote {config.out_star}")
    _write_script(config, args.apix)
    print_after_table(config.out_star)


def _write_script(config: CtfConfig, apix: float | None) -> None:
    """Write the script with which RELION reconstructs CTF volumes."""
    from opustomo.io.star_tables import read_particles
    from opustomo.prepare.ctf_preparation import SCRIPT_NAME, write_ctf_script

    script = write_ctf_script(read_particles(config.out_star), config.folder, apix)
    if script is None:
        print(
            f"Note: {SCRIPT_NAME} is not written because the particle table has no pixel size of the "
            "subtomograms. Give it with --apix."
        )
    else:
        print(f"Wrote {script}. Run it with the box size as argument to reconstruct CTF volumes with RELION.")


def _refuse_stacks(star: ParticleStar, args: argparse.Namespace) -> None:
    """Refuse 2D stacks of tilt images, which training cannot read.

    Raises
    ------
    UserError
        If the particles of the table are 2D stacks.
    """
    from opustomo.errors import UserError
    from opustomo.io.star_conventions import counts_in_image_pixels, is_stack_set

    if not is_stack_set(star):
        return
    series = next((f"--{name} {value}" for name in ("warp", "tilts") if (value := getattr(args, name))), None)
    if series is None:
        # tomograms.star of WarpTools contains no shifts of the tilt images.
        series = "--warp DIR" if counts_in_image_pixels(star) else f"--tomograms {args.tomograms}"
    raise UserError(
        f"The particles of {args.inputs[0]} are 2D stacks of tilt images, which training cannot read. Reconstruct "
        f"subtomograms with dsd extract_subtomos {args.inputs[0]} {series} --box D --apix Å -o subtomos, "
        "or give --allow-2d-stacks to write CTF tables anyway."
    )


def _is_star(args: argparse.Namespace) -> bool:
    from opustomo.errors import UserError

    if args.inputs[0].suffix != ".star":
        if args.tomograms or args.warp:
            raise UserError(
                f"--tomograms and --warp require a particle table in STAR format, but the input is {args.inputs[0]}."
            )
        return False
    if len(args.inputs) > 1:
        raise UserError(
            f"{args.inputs[1]}: only one particle table is accepted. Combine several with dsdsh combine_star."
        )
    if sum(option is not None for option in (args.tilts, args.tomograms, args.warp)) != 1:
        raise UserError(
            f"The tilt series of {args.inputs[0]} are missing. Give one of --tilts, --tomograms and --warp."
        )
    return True


def _coords(inputs: list[Path]) -> list[Path]:
    """Return the .coords files among the inputs and in the input folders and their subfolders."""
    from opustomo.errors import UserError

    found: list[Path] = []
    for path in inputs:
        if path.suffix.lower() in (".aln", ".mdoc", ".tomostar", ".tlt", ".xf", ".xml"):
            option = "--warp" if path.suffix.lower() == ".xml" else "--tilts"
            raise UserError(
                f"{path} describes a tilt series, not particles. Give .coords files or a particle table, with "
                f"{option} {path.parent}."
            )
        files = sorted([*path.glob("*.coords"), *path.glob("*/*.coords")]) if path.is_dir() else [path]
        if not files:
            raise UserError(f"{path} contains no .coords file. One file per tomogram is required.")
        found += files
    return found


def _check(args: argparse.Namespace) -> None:
    from opustomo.errors import UserError

    if args.hand == "original" and (args.tomograms or args.warp):
        raise UserError("--hand original applies only to text files. Use --hand 1 or -1 for files of RELION and WARP.")
    if args.apix is not None and args.detector_pixel_size is not None:
        raise UserError("--apix and --detector-pixel-size both define the pixel size. Give only one of them.")
    try:
        args.image_name.format(name="a", index=1)
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(
            f"--image-name is {args.image_name}, but it may contain only {{name}} and {{index}}."
        ) from error


def _source(args: argparse.Namespace) -> SeriesSource:
    from opustomo.io.tilt_series.discovery import SeriesSource
    from opustomo.io.tilt_series.imod import Microscope

    apix = args.apix
    if args.detector_pixel_size is not None:
        apix = args.detector_pixel_size / args.magnification * 1e4
    return SeriesSource(
        relion=args.tomograms,
        depth_only=True,
        warp=args.warp,
        text=args.tilts,
        apix=apix,
        tomo_size=None if args.tomo_size is None else tuple(args.tomo_size),
        image_size=None if args.image_size is None else tuple(args.image_size),
        hand=None if args.hand in (None, "original") else int(args.hand),
        tilt_sign=args.tilt_sign,
        defocus_name=args.defocus_name,
        microscope=Microscope(args.voltage, args.cs, args.amplitude, args.dose, args.bfactor_per_dose),
    )


def _config(args: argparse.Namespace) -> CtfConfig:
    from opustomo.prepare.ctf_preparation import CtfConfig

    text = not (args.tomograms or args.warp)
    sigmas = args.clip_sigma if args.clip_sigma is not None else (2.0 if text else 0.0)
    return CtfConfig(
        folder=args.outdir,
        out_star=args.out_star or args.outdir / "all.star",
        coord_apix=args.coord_apix,
        original_sign=args.tilt_sign if text and args.hand in (None, "original") else None,
        clip_from_deg=args.high_tilt,
        clip_sigmas=sigmas or None,
        image_name=args.image_name,
        magnification=args.magnification,
        workers=max(1, args.workers),
    )
