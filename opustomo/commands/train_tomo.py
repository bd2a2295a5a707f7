"""`dsd train_tomo`: train the autoencoder on a set of subtomograms."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from opustomo.commands.options import add_ctf, add_device, add_images

if TYPE_CHECKING:
    from opustomo.model.config import PhysicsConfig
    from opustomo.training.config import TrainingConfig

HELP = "train a variational autoencoder of composition and conformation on subtomograms"

PATIENCE_SECONDS = 5.0
INERT_FLAGS = (
    "--uninvert-data --no-window --lazy-single --preprocessed --do-pose-sgd --pose-only --use-real --optimize-b "
    "--offsets --no-offsets"
).split()
"""Options without effect that take no value, so that the particle table may follow them."""
INERT_VALUES = (
    "--ctf --group --group-stat --window-r --max-threads --readctf -e --pretrain --emb-type --pose-lr --pose-enc "
    "--enc-layers --enc-dim --enc-mask --dec-layers --dec-dim --pe-type --template-type --warp-type --num-struct "
    "--deform-size --pe-dim --domain --activation --anchor --refine --settle"
).split()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsd train_tomo``; names, types and defaults are those of OPUS-TOMO."""
    parser.add_argument(
        "particles",
        type=Path,
        nargs="?",
        metavar="STAR",
        help="particle table of RELION, WARP or M; not required with --load latest",
    )
    files = parser.add_argument_group("files")
    files.add_argument("-o", "--outdir", type=Path, required=True, help="output folder")
    files.add_argument(
        "-r", "--ref-vol", type=Path, dest="mask", metavar="MASK", help="solvent mask (MRC, box of the subtomograms)"
    )
    files.add_argument(
        "--focus",
        type=Path,
        metavar="MASK",
        help="soft mask (MRC, box of the subtomograms) of the region that determines the composition latents; the rest "
        "of the particle is modeled, but does not influence them",
    )
    files.add_argument("--poses", type=Path, help="pose pickle of dsdsh prepare (default: poses of the particle table)")
    files.add_argument(
        "--masks", type=Path, metavar="PKL", help="geometry of the bodies (mask_params.pkl of dsdsh prepare_multi)"
    )
    files.add_argument(
        "--split",
        type=Path,
        metavar="PKL",
        help="file of the split into training and held-out particles, which is written if it does not exist",
    )
    files.add_argument(
        "--load",
        metavar="WHAT",
        help="latest: resume the run in --outdir with its options, except for those given; weights.N.pkl: start from "
        "these weights",
    )
    files.add_argument(
        "--latents", type=Path, help="z.N.pkl for --load weights.N.pkl (default: that in the folder of the weights)"
    )
    files.add_argument("--overwrite", action="store_true", help="replace an earlier run in --outdir")
    files.add_argument("--ind", type=Path, help="pickle or text file with the indices of the particles to use")
    files.add_argument(
        "--tmp-prefix", default="tmp", help="file name prefix of the current template (default: %(default)s)"
    )
    files.add_argument("--plot", action="store_true", help="write a figure of one particle at every log interval (PNG)")
    files.add_argument("--write-ctf", action="store_true", help="write the 3D CTF of the first particle (MRC)")
    files.add_argument("--checkpoint", type=_count, default=1, help="number of epochs between checkpoints")
    files.add_argument(
        "--keep",
        type=_count,
        metavar="K",
        help="number of most recent weights to keep, besides those of lowest held-out loss (default: all)",
    )
    files.add_argument("--log-interval", type=_count, default=1000, help="number of particles between log lines")

    model = parser.add_argument_group("model")
    model.add_argument("--zdim", type=_count, default=12, help="dimension of the composition latent")
    model.add_argument("--zaffinedim", type=int, default=4, help="dimension of the conformation latent")
    model.add_argument(
        "--templateres", type=int, default=160, help="box size of the template in voxels, a multiple of 16"
    )
    model.add_argument(
        "--encoderres", type=int, default=12, help="size of the innermost layer of the encoder in voxels"
    )
    model.add_argument(
        "--encode-mode", choices=("grad", "fixed"), default="grad", help="fixed: one volume for all particles"
    )
    model.add_argument("--estpose", action="store_true", help="refine the poses of the particles")

    data = parser.add_argument_group("data")
    add_images(data)
    data.add_argument("--downfrac", type=float, default=1.0, help="fraction of the box that Fourier cropping keeps")
    data.add_argument(
        "--norm", type=float, nargs=2, metavar=("SHIFT", "SCALE"), help="normalize voxels to (value - SHIFT) / SCALE"
    )
    data.add_argument("--valfrac", type=float, default=0.2, help="fraction of held-out particles")
    data.add_argument(
        "--relion31", action="store_true", help="ignored (for compatibility); the format is detected automatically"
    )
    data.add_argument(
        "--float16", action="store_true", help="ignored (for compatibility); the voxel type is read from the files"
    )
    data.add_argument("--num-workers", type=int, default=16, help="number of prefetching threads")

    physics = parser.add_argument_group("CTF")
    add_ctf(physics, verifies=True)
    physics.add_argument("--ctfalpha", type=float, default=0.0, help="exponent of the CTF that multiplies the data")
    physics.add_argument("--ctfbeta", type=float, default=1.0, help="exponent of the CTF that multiplies the model")
    physics.add_argument(
        "--normalizectf", action="store_true", help="subtomograms were divided by their sampling weights"
    )
    physics.add_argument(
        "--divide",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="divide subtomograms by their sampling weights and model them as with --normalizectf (default: if the "
        "power spectra show that they are plain back-projections, and --normalizectf is not given)",
    )
    physics.add_argument(
        "--bfactor", type=float, default=4.0, help="B factor in Å² that sharpens the data in the comparison"
    )

    train = parser.add_argument_group("training")
    train.add_argument("-n", "--num-epochs", type=_count, default=20, help="number of epochs")
    train.add_argument("-b", "--batch-size", type=_count, default=20, help="batch size per GPU")
    train.add_argument("--accum-step", type=_count, default=1, help="number of gradient accumulation steps per update")
    train.add_argument("--lr", type=float, default=4e-5, help="learning rate")
    train.add_argument("--wd", type=float, default=0.0, help="weight decay")
    train.add_argument(
        "--lamb",
        type=float,
        help="weight of the disentanglement prior of OPUS-TOMO (default: 0, or 1 with --preset original)",
    )
    train.add_argument(
        "--separate",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="with --masks: subtract what the conformations predict of the written compositions (default: on)",
    )
    train.add_argument(
        "--preset",
        choices=("opustomo", "original"),
        default="opustomo",
        help="original: use pose inference, energies and schedules of OPUS-TOMO (docs/method.md, section 8)",
    )
    train.add_argument(
        "--beta", default="cos", help="schedule of the KL weight: cos, a, b, c, d, or a number for a constant"
    )
    train.add_argument("--beta-control", type=float, default=0.5, help="weight of the KL divergence")
    train.add_argument("--seed", type=int, default=0, help="random seed")
    train.add_argument("-v", "--verbose", action="store_true", help="write all options to the log")

    machine = parser.add_argument_group("machine")
    machine.add_argument(
        "--multigpu", action="store_true", help="start one process per GPU (as an alternative to torchrun and srun)"
    )
    machine.add_argument("--num-gpus", type=_count, default=4, help="number of GPUs of --multigpu")
    add_device(machine)
    machine.add_argument(
        "--amp",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="run the networks in bfloat16 (default: on GPUs)",
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
    """Train a model."""
    from dataclasses import replace
    from functools import partial

    import torch

    from opustomo.commands.options import data_config
    from opustomo.commands.resumed_options import continued_options, idle_options, plain_options
    from opustomo.errors import UserError
    from opustomo.model.config import ModelConfig
    from opustomo.training.config import RunConfig
    from opustomo.training.inputs import RunSettings
    from opustomo.training.monitors.standard import standard_monitors
    from opustomo.training.processes import launch, place_from_environment
    from opustomo.training.run_training import train
    from opustomo.training.schedules import beta_at

    place = place_from_environment()
    notes: list[str] = []
    if args.load == "latest":
        args, notes = continued_options(args, getattr(args, "command_line", sys.argv)[2:], add_arguments)
    if args.particles is None:
        raise UserError(
            f"No particle table is given, and {args.outdir} contains no run to resume. Give the STAR file, or the "
            "folder of a run with -o."
        )
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if place is not None and device == "cuda":
        device = f"cuda:{place.local_rank}"
    templateres = -(-args.templateres // 16) * 16
    notes += [f"{name} has no effect" for name in _inert_given(args)] + idle_options(args, add_arguments)
    if args.verbose:
        notes += [f"{name} = {value}" for name, value in vars(args).items() if not name.startswith("inert ")]
    if args.multigpu and place is None:
        on_gpus = device.startswith("cuda")
        count = min(args.num_gpus, torch.cuda.device_count()) if on_gpus else args.num_gpus
        if on_gpus and count < args.num_gpus:
            notes.append(f"--num-gpus is {args.num_gpus}, but this machine has {count} GPUs, which are used")
        if count > 1 and (on_gpus or args.device == "cpu"):
            words = list(getattr(args, "command_line", sys.argv))[1:]
            sys.exit(launch(count, [sys.executable, "-m", "opustomo", *words]))
        notes.append("--multigpu is ignored because only one device is available")
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
        raise UserError(f"--norm is {args.norm[0]:g} 0, but the scale (second number) must not be 0.")
    if args.divide and args.normalizectf:
        raise UserError(
            "--divide and --normalizectf exclude each other, because --normalizectf states that the subtomograms have "
            "been divided already. Omit one of them."
        )
    norm = None if args.norm is None else (args.norm[0], args.norm[1])
    data = data_config(args, bodies=args.masks, norm=norm, focus=args.focus)
    physics, config = preset(args.preset)
    physics = replace(
        physics,
        ctf_alpha=args.ctfalpha,
        ctf_beta=args.ctfbeta,
        ctf_normalized=args.normalizectf,
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
        lamb=config.lamb if args.lamb is None else args.lamb,
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
    make_monitors = partial(standard_monitors, plot=args.tmp_prefix if args.plot else None)
    try:
        train(RunSettings(data, model, physics, args.downfrac, config, where), make_monitors, place)
    except UserError as error:
        if place is None or place.rank == 0:
            raise
        time.sleep(PATIENCE_SECONDS)  # the first process reports errors that all processes share and ends this one
        raise UserError(f"process {place.rank}: {error}") from error


def preset(name: str) -> tuple[PhysicsConfig, TrainingConfig]:
    """Return the configs with the defaults of ``--preset``."""
    from opustomo.model.config import ORIGINAL_PHYSICS, PhysicsConfig
    from opustomo.training.config import TrainingConfig

    if name == "original":
        return PhysicsConfig(**ORIGINAL_PHYSICS), TrainingConfig(separate=False, lamb=1.0)
    return PhysicsConfig(), TrainingConfig()


def _inert_given(args: argparse.Namespace) -> list[str]:
    given = vars(args)
    return [name for name in INERT_FLAGS + INERT_VALUES if given.get("inert " + name) is not None]
