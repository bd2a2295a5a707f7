"""`dsd eval_vol` and `dsdsh eval_vol`: decode latents to volumes.

`dsd eval_vol` takes weights and latents; `dsdsh eval_vol` finds those of an analysis in a result directory."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from opustomo.commands.options import add_device, add_run
from opustomo.commands.registry import Command

HELP = "decode latents to volumes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsd eval_vol``."""
    # Before Python 3.14, argparse mistakes negative numbers in exponential notation (-1.2e-01) for options.
    parser._negative_number_matcher = re.compile(r"-\.?\d")
    parser.add_argument("--load", type=Path, required=True, metavar="WEIGHTS", help="weights.N.pkl")
    parser.add_argument("-c", "--config", type=Path, help="config.pkl (default: in the folder of the weights)")
    parser.add_argument("-o", "--outdir", type=Path, required=True, help="output folder of the volumes")
    latents = parser.add_mutually_exclusive_group()
    latents.add_argument("--zfile", type=Path, help="text file with one latent per row")
    latents.add_argument("-z", type=float, nargs="+", help="one latent (not required for --encode-mode fixed)")
    latents.add_argument("--z-start", type=float, nargs="+", help="first latent of a linear path")
    parser.add_argument("--z-end", type=float, nargs="+", help="last latent of the path")
    parser.add_argument("-n", type=int, default=10, help="number of points on the path")
    parser.add_argument(
        "--template-z",
        type=Path,
        metavar="TXT",
        help="text file of compositions; the given latents are then conformations, combined with one composition",
    )
    parser.add_argument(
        "--template-z-ind", type=int, default=0, metavar="i", help="row of --template-z, counted from 0"
    )
    parser.add_argument(
        "--deform",
        action="store_true",
        help="require a decoder with bodies (conformations always move the bodies if there are any)",
    )
    parser.add_argument("--masks", type=Path, help="ignored; the checkpoint contains its bodies")
    parser.add_argument("--num-bodies", type=int, help="ignored; the checkpoint contains its bodies")
    parser.add_argument("--prefix", default="reference", help="prefix of the file names (default: %(default)s)")
    parser.add_argument("--Apix", type=float, help="pixel size of the volumes in Å (default: that of the template)")
    parser.add_argument("--flip", action="store_true", help="reverse the z axis, which inverts the handedness")
    parser.add_argument("--no-mask", action="store_true", help="do not multiply by the solvent mask of the checkpoint")
    parser.add_argument("--full-box", action="store_true", help="pad the volumes to the box of the subtomograms")
    add_device(parser)


def run(args: argparse.Namespace) -> None:
    """Decode and write the volumes."""
    import numpy as np

    from opustomo.analysis.volumes.decoding import EvalRequest, evaluate_volumes
    from opustomo.errors import UserError
    from opustomo.io.latents import read_latent_rows

    latents = None
    if args.zfile is not None:
        latents = read_latent_rows(args.zfile)
    elif args.z is not None:
        latents = np.array([args.z])
    elif args.z_start is not None:
        if args.z_end is None or len(args.z_end) != len(args.z_start):
            raise UserError("--z-start requires --z-end with the same number of values.")
        fraction = np.linspace(0.0, 1.0, args.n)[:, None]
        latents = (1.0 - fraction) * np.array(args.z_start) + fraction * np.array(args.z_end)
    if args.z_end is not None and args.z_start is None:
        raise UserError("--z-end requires --z-start, the first latent of the path.")
    if args.template_z is not None:
        if latents is None:
            raise UserError("--template-z requires conformations. Give them with --zfile, -z or --z-start.")
        compositions = read_latent_rows(args.template_z)
        if not 0 <= args.template_z_ind < len(compositions):
            raise UserError(
                f"--template-z-ind is {args.template_z_ind}, but {args.template_z} has rows "
                f"0 to {len(compositions) - 1}."
            )
        repeated = np.tile(compositions[args.template_z_ind], (len(latents), 1))
        latents = np.concatenate([repeated, latents], axis=1)
    written = evaluate_volumes(
        EvalRequest(
            weights=args.load,
            config=args.config or args.load.with_name("config.pkl"),
            outdir=args.outdir,
            latents=latents,
            apix=args.Apix,
            prefix=args.prefix,
            flip=args.flip,
            full_box=args.full_box,
            device=args.device,
            deform=args.deform,
            masked=not args.no_mask,
        )
    )
    if len(written) == 1:
        print(f"Wrote {written[0]}")
    else:
        print(f"Wrote {len(written)} volumes: {written[0]} … {written[-1].name}")


def add_positional_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh eval_vol``."""
    add_run(parser)
    parser.add_argument(
        "mode",
        choices=("kmeans", "gmm", "hdbscan", "pc", "dpc", "joint"),
        help="kmeans, gmm, hdbscan: cluster centers; pc, dpc: traversal of the composition or conformation; "
        "joint: centers with composition and conformation",
    )
    parser.add_argument(
        "num",
        type=int,
        help="number of clusters K (kmeans, gmm, hdbscan, joint), or component counted from 1 (pc, dpc)",
    )
    parser.add_argument(
        "apix", type=float, nargs="?", help="pixel size of the volumes in Å (default: that of the template)"
    )
    parser.add_argument(
        "--kmeans", type=int, metavar="K", help="for dpc: k-means whose center provides the composition"
    )
    parser.add_argument("--dfk", type=int, default=0, metavar="i", help="for dpc: number of the center of --kmeans")
    parser.add_argument("--flip", action="store_true", help="reverse the handedness of the volumes")
    parser.add_argument(
        "--full-box",
        action="store_true",
        help="write volumes in the box of the subtomograms (and the consensus map) instead of the crop around the mask",
    )
    parser.add_argument("--no-mask", action="store_true", help="do not multiply by the solvent mask of the checkpoint")
    parser.add_argument(
        "--num-bodies", type=int, default=0, help="ignored (for compatibility); the checkpoint contains its bodies"
    )
    parser.add_argument("--masks", help="ignored (for compatibility); the checkpoint contains its bodies")


def template_apix(root: Path) -> float | None:
    """Return the pixel size in Å of the volumes that a run decodes; None without ``config.pkl``."""
    from opustomo.checkpoint.config import read_config

    path = root / "config.pkl"
    return read_config(path)[1].render_apix if path.is_file() else None


def run_positional(args: argparse.Namespace) -> None:
    """Decode the volumes and print their folder."""
    from opustomo.analysis.volumes.volume_sets import VolumeOutput, decode_volume_set, volume_set
    from opustomo.commands.closing_messages import print_next
    from opustomo.commands.options import selected_round

    results, which = selected_round(args.resdir, args.N)
    if args.num_bodies or args.masks:
        print("Note: --num-bodies and --masks are ignored because the checkpoint contains the geometry of its bodies.")
    template = template_apix(results.root)
    if args.apix is not None and template is not None and abs(args.apix / template - 1.0) > 0.01:
        print(
            f"Warning: The template has {template:g} Å per voxel, but {args.apix:g} Å is given and written to the "
            "headers, so programs show the volumes in the wrong size. Omit the pixel size, unless you correct the "
            "calibration."
        )
    chosen = volume_set(results, which, args.mode, args.num, args.kmeans, args.dfk)
    output = VolumeOutput(args.apix, args.flip, args.full_box, not args.no_mask)
    written = decode_volume_set(results, which, chosen, output)
    print(f"Wrote {len(written)} volumes to {chosen.outdir}. Open {chosen.prefix}.cxc there in ChimeraX to view them.")
    if args.mode in ("kmeans", "gmm", "hdbscan"):
        method = [] if args.mode == "kmeans" else ["--cluster", args.mode]
        words = ["dsdsh", "validate", results.root, which.label, args.num, *method]
        print_next((words, "are the clusters real?"))


POSITIONAL = Command(
    "decode cluster centers or a traversal of an analysis to volumes", add_positional_arguments, run_positional
)
