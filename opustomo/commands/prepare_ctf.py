"""`dsd prepare_ctf`: CTF tables of subtomograms from tilt angles, doses and defoci."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opustomo.io.star_tables import ParticleStar
    from opustomo.io.tilt_series.discovery import SeriesSource
    from opustomo.prepare.ctf_set import CtfConfig

HELP = "write a CTF table for every subtomogram, from files of IMOD, AreTomo or SerialEM, RELION or WARP"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add(
        "inputs",
        type=Path,
        nargs="+",
        metavar="INPUT",
        help=".coords files, folders with them, or one particle STAR with --tilts, --tomograms or --warp",
    )
    add("-o", "--outdir", type=Path, required=True, metavar="DIR", help="folder for tables and all.star")
    add("--out-star", type=Path, metavar="STAR", help="particle table to write (default: DIR/all.star)")
    add("--workers", type=int, default=4, help="processes")
    add("--allow-2d-stacks", action="store_true", help="write tables also for particles that are 2D stacks of images")

    add = parser.add_argument_group("tilt series").add_argument
    add(
        "--tilts",
        type=Path,
        metavar="DIR",
        help="folder of .tlt, .aln, .tomostar or .mdoc, .order and defocus files (default: beside .coords)",
    )
    add("--tomograms", type=Path, metavar="STAR", help="tomograms.star of RELION 4 or 5")
    add("--warp", type=Path, metavar="DIR", help="folder of WARP's or M's tilt-series XML files")
    add("--defocus-name", metavar="NAME", help="name of defocus files, {stem} is the tomogram's (default: usual names)")
    add("--tomo-size", type=int, nargs=3, metavar=("NX", "NY", "NZ"), help="voxels (default: header of the tomogram)")
    add("--image-size", type=int, nargs=2, metavar=("NX", "NY"), help="pixels of WARP's tilt images, not binned")
    add("--apix", type=float, metavar="Å", help="pixel size of tilt series and --tomo-size (default: what files say)")
    add("--coord-apix", type=float, metavar="Å", help="pixel size of coordinates in pixels (default: the same)")

    add = parser.add_argument_group("CTF").add_argument
    add(
        "--hand",
        choices=("original", "1", "-1"),
        help="sign of the depth, 1 and -1 as rlnTomoHand: docs/handedness.md (default: what RELION or WARP say; "
        "original for text files)",
    )
    add("--tilt-sign", type=int, choices=(-1, 1), default=-1, help="written tilt = this × angle of .tlt or .aln")
    add("--high-tilt", type=float, default=45.0, metavar="DEG", help="tilts beyond it get their defoci clipped")
    add(
        "--clip-sigma",
        type=float,
        metavar="S",
        help="to mean ± S σ of the others; 0: never (default: 2 for text)",
    )
    add("--voltage", type=float, default=300.0, metavar="KV", help="for text files")
    add("--cs", type=float, default=2.7, metavar="MM", help="for text files")
    add("--amplitude", type=float, default=0.07, help="amplitude contrast, for text files")
    add("--dose", type=float, default=3.0, metavar="E", help="e/Å² per tilt, where .order holds no doses")
    add("--bfactor-per-dose", type=float, default=4.0, metavar="B", help="Å² of damping per e/Å², for text files")

    add = parser.add_argument_group("particle table for .coords files").add_argument
    add(
        "--image-name", default="{name}/{name}_{index:06d}.mrc", metavar="NAME", help="names of the subtomograms in DIR"
    )
    add("--magnification", type=float, default=10000.0, help="written beside the detector pixel size")
    add("--detector-pixel-size", type=float, metavar="UM", help="µm; with --magnification the same as --apix")


def run(args: argparse.Namespace) -> None:
    """Make the tables."""
    from opustomo.io.star_tables import read_particles
    from opustomo.prepare.ctf_set import prepare_coords, prepare_star

    _check(args)
    source, config = _source(args), _config(args)
    if _is_star(args):
        star = read_particles(args.inputs[0])
        if not args.allow_2d_stacks:
            _refuse_stacks(star, args)
        tomograms, notes = prepare_star(star, source, config)
        print(f"{len(star)} particles in {args.inputs[0]}: {len(star)} CTF tables of {tomograms} tomograms")
    else:
        files = _coords(args.inputs)
        count, notes = prepare_coords(files, source, config)
        print(f"{count} particles in {len(files)} .coords files: {count} CTF tables")
    for note in notes:
        print(f"note: {note}")
    print(f"Wrote {config.out_star}")
    _write_script(config, args.apix)


def _write_script(config: CtfConfig, apix: float | None) -> None:
    """Write the script that lets RELION reconstruct the CTF volumes."""
    from opustomo.io.star_tables import read_particles
    from opustomo.prepare.particle_ctf import SCRIPT_NAME, write_ctf_script

    script = write_ctf_script(read_particles(config.out_star), config.folder, apix)
    if script is None:
        print(
            f"note: {SCRIPT_NAME} is not written, because the particle table holds no pixel size of the subtomograms; "
            "give it with --apix."
        )
    else:
        print(f"Wrote {script}: with the box size as its argument RELION reconstructs the CTF volumes")


def _refuse_stacks(star: ParticleStar, args: argparse.Namespace) -> None:
    """Raise for 2D stacks of tilt images, for which training has no use.

    Raises
    ------
    UserError
        The table tells of them.
    """
    from opustomo.errors import UserError
    from opustomo.io.star_conventions import counts_in_image_pixels, is_stack_set

    if not is_stack_set(star):
        return
    series = next((f"--{name} {value}" for name in ("warp", "tilts") if (value := getattr(args, name))), None)
    if series is None:
        # WarpTools' tomograms.star holds no shifts of the tilt images
        series = "--warp DIR" if counts_in_image_pixels(star) else f"--tomograms {args.tomograms}"
    raise UserError(
        f"{args.inputs[0]}: tells of 2D stacks of tilt images, which training does not read; make subtomograms with "
        f"their CTF tables by dsd extract_subtomos {args.inputs[0]} {series} --box D --apix Å -o subtomos, or give "
        "--allow-2d-stacks to write CTF tables of these positions all the same."
    )


def _is_star(args: argparse.Namespace) -> bool:
    from opustomo.errors import UserError

    if args.inputs[0].suffix != ".star":
        if args.tomograms or args.warp:
            raise UserError(f"{args.inputs[0]}: --tomograms and --warp need a particle STAR; give one.")
        return False
    if len(args.inputs) > 1:
        raise UserError(f"{args.inputs[1]}: only one particle STAR can be prepared at a time; see dsdsh combine_star.")
    if sum(option is not None for option in (args.tilts, args.tomograms, args.warp)) != 1:
        raise UserError(f"{args.inputs[0]}: its tilt series are needed: give one of --tilts, --tomograms and --warp.")
    return True


def _coords(inputs: list[Path]) -> list[Path]:
    """Files given, and those in folders given and in their folders."""
    from opustomo.errors import UserError

    found: list[Path] = []
    for path in inputs:
        if path.suffix.lower() in (".aln", ".mdoc", ".tomostar", ".tlt", ".xf", ".xml"):
            option = "--warp" if path.suffix.lower() == ".xml" else "--tilts"
            raise UserError(
                f"{path}: tells of a tilt series, not of particles; give .coords files or a particle STAR, with "
                f"{option} {path.parent}."
            )
        files = sorted([*path.glob("*.coords"), *path.glob("*/*.coords")]) if path.is_dir() else [path]
        if not files:
            raise UserError(f"{path}: has no .coords file; put one for each tomogram there.")
        found += files
    return found


def _check(args: argparse.Namespace) -> None:
    from opustomo.errors import UserError

    for option in ("apix", "coord_apix", "voltage", "magnification", "detector_pixel_size"):
        value = getattr(args, option)
        if value is not None and not 0 < value < 1e9:
            raise UserError(f"--{option.replace('_', '-')} {value:g}: must be positive.")
    for option in ("cs", "dose", "bfactor_per_dose", "high_tilt", "clip_sigma"):
        value = getattr(args, option)
        if value is not None and not 0 <= value < 1e9:
            raise UserError(f"--{option.replace('_', '-')} {value:g}: must not be negative.")
    if not 0 <= args.amplitude < 1:
        raise UserError(f"--amplitude {args.amplitude:g}: must lie between 0 and 1.")
    if args.tomo_size is not None and min(args.tomo_size) < 1:
        raise UserError(f"--tomo-size {' '.join(map(str, args.tomo_size))}: must be positive.")
    if args.hand == "original" and (args.tomograms or args.warp):
        raise UserError("--hand original: is for text files; RELION and WARP files take 1 or -1.")
    if args.apix is not None and args.detector_pixel_size is not None:
        raise UserError("--apix and --detector-pixel-size both tell the pixel size; give one of them.")
    try:
        args.image_name.format(name="a", index=1)
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(f"--image-name {args.image_name}: may hold {{name}} and {{index}} only.") from error


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
    from opustomo.prepare.ctf_set import CtfConfig

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
