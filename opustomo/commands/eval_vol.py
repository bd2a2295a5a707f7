"""``dsd eval_vol``: volumes from latents."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

HELP = "decode volumes at given latents"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options (spec 5)."""
    # argparse takes -1.2e-01, as text files of latents hold it, for an option (until Python 3.14)
    parser._negative_number_matcher = re.compile(r"-\.?\d")
    parser.add_argument("--load", type=Path, required=True, metavar="WEIGHTS", help="weights.N.pkl")
    parser.add_argument("-c", "--config", type=Path, help="config.pkl (default: beside the weights)")
    parser.add_argument("-o", "--outdir", type=Path, required=True, help="folder for the volumes")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--zfile", type=Path, help="text file, one latent per row")
    where.add_argument("-z", type=float, nargs="+", help="one latent (of a --encode-mode fixed run: not needed)")
    where.add_argument("--z-start", type=float, nargs="+", help="first latent of a straight path")
    parser.add_argument("--z-end", type=float, nargs="+", help="last latent of the path")
    parser.add_argument("-n", type=int, default=10, help="points on the path")
    parser.add_argument(
        "--template-z",
        type=Path,
        metavar="TXT",
        help="text file of compositions; the latents given are then conformations for one of them",
    )
    parser.add_argument("--template-z-ind", type=int, default=0, metavar="i", help="row of --template-z, from 0")
    parser.add_argument(
        "--deform", action="store_true", help="refuse a decoder without bodies; with them conformations always count"
    )
    parser.add_argument("--masks", type=Path, help="accepted; the checkpoint knows its bodies")
    parser.add_argument("--num-bodies", type=int, help="accepted; the checkpoint knows its bodies")
    parser.add_argument("--prefix", default="reference", help="name of the volumes before their number")
    parser.add_argument("--Apix", type=float, help="pixel size of the volumes in Å (default: that of the training)")
    parser.add_argument("--flip", action="store_true", help="reverse z")
    parser.add_argument("--no-mask", action="store_true", help="do not multiply by the solvent mask of the checkpoint")
    parser.add_argument("--full-box", action="store_true", help="pad to the box of the subtomograms")
    parser.add_argument("--device", help="cuda or cpu (default: a GPU if there is one)")


def run(args: argparse.Namespace) -> None:
    """Decode and write the volumes."""
    import numpy as np

    from opustomo.analysis.decoding import EvalRequest, evaluate_volumes
    from opustomo.errors import UserError
    from opustomo.io.tables import read_latent_rows

    latents = None
    if args.zfile is not None:
        latents = read_latent_rows(args.zfile)
    elif args.z is not None:
        latents = np.array([args.z])
    elif args.z_start is not None:
        if args.z_end is None or len(args.z_end) != len(args.z_start):
            raise UserError("--z-start needs --z-end with as many numbers")
        if args.n < 1:
            raise UserError(f"-n must be at least 1, got {args.n}")
        part = np.linspace(0.0, 1.0, args.n)[:, None]
        latents = (1.0 - part) * np.array(args.z_start) + part * np.array(args.z_end)
    if args.z_end is not None and args.z_start is None:
        raise UserError("--z-end needs --z-start, the first latent of the path")
    if args.Apix is not None and not args.Apix > 0:
        raise UserError(f"--Apix must be positive, got {args.Apix:g}")
    if args.template_z is not None:
        if latents is None:
            raise UserError("--template-z needs the conformations to go with it: give --zfile, -z or --z-start")
        compositions = read_latent_rows(args.template_z)
        if not 0 <= args.template_z_ind < len(compositions):
            raise UserError(
                f"--template-z-ind {args.template_z_ind}: {args.template_z} has rows 0 to {len(compositions) - 1}"
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
        print(f"wrote {written[0]}")
    else:
        print(f"wrote {len(written)} volumes: {written[0]} … {written[-1].name}")
