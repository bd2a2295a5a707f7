"""``dsd train_tomo``: train the autoencoder on a set of subtomograms."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opustomo.model.config import PhysicsConfig
    from opustomo.training.config import TrainingConfig

HELP = "train composition and conformation latents on subtomograms"

PATIENCE_SECONDS = 5.0
INERT_FLAGS = (
    "--uninvert-data --no-window --lazy-single --preprocessed --do-pose-sgd --pose-only --use-real --optimize-b "
    "--offsets --no-offsets"
).split()
"""Inert options that take no value: the particle table may follow them."""
INERT_VALUES = (
    "--ctf --group --group-stat --window-r --max-threads --readctf -e --pretrain --emb-type --pose-lr --pose-enc "
    "--enc-layers --enc-dim --enc-mask --dec-layers --dec-dim --pe-type --template-type --warp-type --num-struct "
    "--deform-size --pe-dim --domain --activation --anchor --refine --settle"
).split()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; names, types and defaults are the original's."""
    parser.add_argument(
        "particles",
        type=Path,
        nargs="?",
        metavar="STAR",
        help="particle table (RELION, WARP, M); --load latest goes on with that of the run",
    )
    files = parser.add_argument_group("files")
    files.add_argument("-o", "--outdir", type=Path, required=True, help="folder for the results")
    files.add_argument("-r", "--ref-vol", type=Path, dest="mask", metavar="MASK", help="solvent mask (MRC)")
    files.add_argument("--poses", type=Path, help="pose pickle of dsdsh prepare (default: the table's own poses)")
    files.add_argument("--masks", type=Path, metavar="PKL", help="bodies to move (mask_params.pkl of prepare_multi)")
    files.add_argument("--datadir", type=Path, help="folder that the image paths are relative to")
    files.add_argument(
        "--split",
        type=Path,
        metavar="PKL",
        help="file of the split into training and held-out particles: read if it exists, else written",
    )
    files.add_argument(
        "--load",
        metavar="WHAT",
        help="latest goes on with the run in --outdir, options not given are as before; a weights.N.pkl starts from it",
    )
    files.add_argument("--latents", type=Path, help="z.N.pkl to go with --load (default: the one beside it)")
    files.add_argument("--overwrite", action="store_true", help="start anew in a folder that holds a run")
    files.add_argument("--ind", type=Path, help="pickle or text file: indices of the particles to take")
    files.add_argument("--tmp-prefix", default="tmp", help="name of the current template (default: %(default)s)")
    files.add_argument("--plot", action="store_true", help="show one particle at every log interval (PNG)")
    files.add_argument("--write-ctf", action="store_true", help="write the 3D CTF of the first particle (MRC)")
    files.add_argument("--checkpoint", type=_count, default=1, help="epochs between checkpoints (default: %(default)s)")
    files.add_argument("--keep", type=_count, metavar="K", help="keep the weights of only the newest K (default: all)")
    files.add_argument("--log-interval", type=_count, default=1000, help="particles between log lines")

    model = parser.add_argument_group("model")
    model.add_argument("--zdim", type=_count, default=12, help="composition latent (default: %(default)s)")
    model.add_argument("--zaffinedim", type=int, default=4, help="conformation latent (default: %(default)s)")
    model.add_argument("--templateres", type=int, default=160, help="side of the template (default: %(default)s)")
    model.add_argument("--encoderres", type=int, default=12, help="inner side of the encoder (default: %(default)s)")
    model.add_argument("--encode-mode", choices=("grad", "fixed"), default="grad", help="fixed: one volume for all")
    model.add_argument("--estpose", action="store_true", help="also estimate pose corrections")

    data = parser.add_argument_group("data")
    data.add_argument("--angpix", type=float, help="pixel size in Å (default: MRC header)")
    data.add_argument(
        "--force",
        action="store_true",
        help="go on although --angpix disagrees with the headers, or origins look like Å",
    )
    data.add_argument("--downfrac", type=float, default=1.0, help="Fourier-crop to this fraction of the box")
    data.add_argument("--norm", type=float, nargs=2, metavar=("SHIFT", "SCALE"), help="(value - shift) / scale")
    data.add_argument("--valfrac", type=float, default=0.2, help="fraction held out (default: %(default)s)")
    data.add_argument("--relion31", action="store_true", help="accepted; the format is recognised by itself")
    data.add_argument("--float16", action="store_true", help="accepted; the voxel type is read from the files")
    data.add_argument("--num-workers", type=int, default=16, help="threads that read ahead (default: %(default)s)")

    physics = parser.add_argument_group("CTF")
    physics.add_argument("--warp", action="store_true", help="CTF tables are WARP csv files")
    physics.add_argument(
        "--warp-bfactor-scale", type=float, default=0.25, help="weakens WARP's B (default: %(default)s)"
    )
    physics.add_argument("--no-ctf", action="store_true", help="missing-wedge-only model from --tilt-range")
    physics.add_argument("--tilt-step", type=float, help="degrees; to check the tables, or for --no-ctf (then 2)")
    physics.add_argument("--tilt-range", type=float, help="± degrees; to check the tables, or for --no-ctf (then 50)")
    physics.add_argument("--tilt-limit", type=float, help="leave out tilts beyond ± this")
    physics.add_argument("--ctfalpha", type=float, default=0.0, help="power of the CTF on the data side")
    physics.add_argument("--ctfbeta", type=float, default=1.0, help="power of the CTF on the model side")
    physics.add_argument("--normalizectf", action="store_true", help="reconstructions divided by sampling weights")
    physics.add_argument(
        "--divide",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="divide subtomograms by their sampling weights, then compare as with --normalizectf (default: without "
        "--normalizectf, if the power of the data says that they are plain back-projections)",
    )
    physics.add_argument("--bfactor", type=float, default=4.0, help="B-factor of the comparison (default: %(default)s)")

    train = parser.add_argument_group("training")
    train.add_argument("-n", "--num-epochs", type=_count, default=20, help="epochs (default: %(default)s)")
    train.add_argument("-b", "--batch-size", type=_count, default=20, help="particles per GPU and step")
    train.add_argument("--accum-step", type=_count, default=1, help="steps per update (default: %(default)s)")
    train.add_argument("--lr", type=float, default=4e-5, help="learning rate (default: %(default)s)")
    train.add_argument("--wd", type=float, default=0.0, help="weight decay (default: %(default)s)")
    train.add_argument("--lamb", type=float, default=1.0, help="weight of the disentanglement prior")
    train.add_argument(
        "--separate",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="with --masks: leave out of the compositions written what they share with the conformations (default: on)",
    )
    train.add_argument(
        "--preset",
        choices=("opustomo", "original"),
        default="opustomo",
        help="whose defaults: candidates, gradient, energies, pose inference, bodies first, --divide, --separate",
    )
    train.add_argument("--beta", default="cos", help="KL schedule: cos, a, b, c, d or a number (default: %(default)s)")
    train.add_argument("--beta-control", type=float, default=0.5, help="weight of the KL term (default: %(default)s)")
    train.add_argument("--seed", type=int, default=0, help="all random draws derive from it (default: %(default)s)")
    train.add_argument("-v", "--verbose", action="store_true", help="also write all options to the log")

    machine = parser.add_argument_group("machine")
    machine.add_argument("--multigpu", action="store_true", help="one process per GPU (torchrun and srun work too)")
    machine.add_argument("--num-gpus", type=_count, default=4, help="GPUs of --multigpu (default: %(default)s)")
    machine.add_argument("--device", help="cuda or cpu (default: a GPU if there is one)")
    machine.add_argument(
        "--amp",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="networks in bfloat16 (default: on a GPU)",
    )
    for name in INERT_FLAGS:
        parser.add_argument(name, action="store_const", const=True, dest="inert " + name, help=argparse.SUPPRESS)
    for name in INERT_VALUES:
        parser.add_argument(name, nargs="?", const=True, dest="inert " + name, help=argparse.SUPPRESS)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def run(args: argparse.Namespace) -> None:
    """Train from parsed options."""
    from dataclasses import replace
    from functools import partial

    import torch

    from opustomo.commands.options import data_config
    from opustomo.commands.resumed_options import continued_options, idle_options, plain_options
    from opustomo.errors import UserError
    from opustomo.model.config import ModelConfig
    from opustomo.training.config import RunConfig
    from opustomo.training.launch import launch
    from opustomo.training.monitors.standard import standard_watchers
    from opustomo.training.ranks import place_from_environment
    from opustomo.training.schedules import beta_at
    from opustomo.training.setup import train

    place = place_from_environment()
    notes: list[str] = []
    if args.load == "latest":
        args, notes = continued_options(args, getattr(args, "command_line", sys.argv)[2:], add_arguments)
    if args.particles is None:
        raise UserError(
            f"no particle table was given and {args.outdir} holds no run to go on with; give the STAR file, or the "
            "folder of a run with -o"
        )
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if place is not None and device == "cuda":
        device = f"cuda:{place.local_rank}"
    templateres = -(-args.templateres // 16) * 16
    notes += [f"{name}: has no effect here" for name in _inert_given(args)] + idle_options(args, add_arguments)
    if args.verbose:
        notes += [f"{name} = {value}" for name, value in vars(args).items() if not name.startswith("inert ")]
    if args.multigpu and place is None:
        on_gpus = device.startswith("cuda")
        count = min(args.num_gpus, torch.cuda.device_count()) if on_gpus else args.num_gpus
        if on_gpus and count < args.num_gpus:
            notes.append(f"--num-gpus {args.num_gpus}: this machine has {count}")
        if count > 1 and (on_gpus or args.device == "cpu"):
            words = list(getattr(args, "command_line", sys.argv))[1:]
            sys.exit(launch(count, [sys.executable, "-m", "opustomo", *words]))
        notes.append("--multigpu: only one device is used")
    if templateres != args.templateres:
        notes.append(f"--templateres {args.templateres} is rounded up to {templateres}, a multiple of 16")
    try:
        beta_at(args.beta, 0)
        model = ModelConfig(
            zdim=args.zdim,
            zaffinedim=args.zaffinedim,
            templateres=templateres,
            encoderres=args.encoderres,
            encode_mode=args.encode_mode,
            estimate_pose=args.estpose or args.masks is not None,
        )
    except ValueError as error:
        raise UserError(f"--{error}") from error
    if args.norm is not None and args.norm[1] == 0:
        raise UserError(f"--norm {args.norm[0]:g} 0 would divide by 0; give the scale as the second number")
    if args.divide and args.normalizectf:
        raise UserError(
            "--divide and --normalizectf exclude each other: subtomograms that were divided by their sampling weights "
            "are not divided again; leave one of them out"
        )
    norm = None if args.norm is None else (args.norm[0], args.norm[1])
    data = data_config(args, bodies=args.masks, norm=norm)
    physics, config = preset(args.preset)
    physics = replace(
        physics,
        ctf_alpha=args.ctfalpha,
        ctf_beta=args.ctfbeta,
        ctf_normalised=args.normalizectf,
        bfactor_A2=args.bfactor,
        divide=physics.divide if args.divide is None else args.divide,
    )
    config = replace(
        config,
        epochs=args.num_epochs,
        batch_size=args.batch_size,
        accum_step=args.accum_step,
        lr=args.lr,
        weight_decay=args.wd,
        beta=args.beta,
        beta_control=args.beta_control,
        lamb=args.lamb,
        separate=config.separate if args.separate is None else args.separate,
        valfrac=args.valfrac,
        split=args.split,
        seed=args.seed,
    )
    where = RunConfig(
        outdir=args.outdir,
        device=device,
        amp=device.startswith("cuda") if args.amp is None else args.amp,
        checkpoint=args.checkpoint,
        keep=args.keep,
        log_interval=args.log_interval,
        workers=args.num_workers,
        tmp_prefix=args.tmp_prefix,
        plot=args.plot,
        write_ctf=args.write_ctf,
        load=args.load,
        latents=args.latents,
        overwrite=args.overwrite,
        command=tuple(getattr(args, "command_line", sys.argv)),
        notes=tuple(notes),
        options=plain_options(args),
    )
    watch = partial(standard_watchers, plot=args.tmp_prefix if args.plot else None)
    try:
        train(data, model, physics, args.downfrac, config, where, watch, place)
    except UserError as error:
        if place is None or place.rank == 0:
            raise
        time.sleep(PATIENCE_SECONDS)  # the first process says what all found; this one speaks if it is alone
        raise UserError(f"process {place.rank}: {error}") from error


def preset(name: str) -> tuple[PhysicsConfig, TrainingConfig]:
    """Return the configs with the defaults of ``--preset``."""
    from opustomo.model.config import ORIGINAL_PHYSICS, PhysicsConfig
    from opustomo.training.config import TrainingConfig

    if name == "original":
        return PhysicsConfig(**ORIGINAL_PHYSICS), TrainingConfig(separate=False)
    return PhysicsConfig(), TrainingConfig()


def _inert_given(args: argparse.Namespace) -> list[str]:
    given = vars(args)
    return [name for name in INERT_FLAGS + INERT_VALUES if given.get("inert " + name) is not None]
