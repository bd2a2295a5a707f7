"""Commands between STAR files and poses: `dsd parse_pose_star`, `dsdsh prepare` and `dsdsh parse_pose`.

They write the poses of a STAR file to a pickle, and clusters with refined poses back to STAR files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from opustomo.commands.cluster_options import add_cluster_method, cluster_method
from opustomo.commands.options import EPOCH_HELP
from opustomo.commands.registry import Command
from opustomo.errors import UserError

if TYPE_CHECKING:
    from opustomo.io.poses import Poses
    from opustomo.io.star_tables import ParticleStar


def add_parse_pose_star_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("star", type=Path, metavar="STAR", help="particle table of any RELION version or WARP")
    parser.add_argument("-D", type=int, required=True, metavar="BOX", help="box length of the subtomograms, pixels")
    parser.add_argument("--relion31", action="store_true", help="accepted; the format is recognised by itself")
    parser.add_argument("--Apix", type=float, help="pixel size in Å, for origins in Å; else taken from the STAR file")
    parser.add_argument("-o", "--out", type=Path, metavar="PKL", help="poses to write")
    parser.add_argument("--labels", type=Path, metavar="PKL", help="cluster of each particle")
    parser.add_argument("--outdir", type=Path, metavar="DIR", help="folder for pre{i}.star of each label")
    parser.add_argument("--poses", type=Path, metavar="PKL", help="refined poses, to use instead of the STAR file's")
    parser.add_argument("--out-star", type=Path, metavar="STAR", help="write the STAR file with these poses")
    parser.add_argument("--perturb-rot", type=float, default=0.0, metavar="DEG", help="turn by up to DEG degrees")
    parser.add_argument("--perturb-trans", type=float, default=0.0, metavar="PX", help="shift by up to PX pixels")
    parser.add_argument("--seed", type=int, default=0, help="seed of the perturbation")


def run_parse_pose_star(args: argparse.Namespace) -> None:
    """Do what the options say."""
    from opustomo.io.poses import origin_note, read_poses, require_origins, write_poses
    from opustomo.io.star_conventions import ignored_origins
    from opustomo.io.star_poses import box_note, check_box, pose_notes, poses_from_star, star_with_poses
    from opustomo.io.star_tables import read_particles

    _check_options(args)
    star = read_particles(args.star)
    box = check_box(star, args.D)
    box_note(args.D, box)
    for note in pose_notes(star, box, args.Apix):
        print(f"Note: {note}.")
    if args.poses is None:
        poses = poses_from_star(star, box, args.Apix)
    else:
        poses = read_poses(args.poses)
        if len(poses) != len(star):
            raise UserError(
                f"{args.poses}: {len(poses)} poses for the {len(star)} particles of {args.star}; "
                "give the poses of this STAR file."
            )
        require_origins(poses.origins, box, args.poses)
        _require_box_of_run(args.poses, box)
    if (doubt := origin_note(poses.origins, box)) is not None:
        print(f"Note: {doubt}.")
    perturbed = args.perturb_rot > 0 or args.perturb_trans > 0
    if perturbed:
        poses = _perturbed(poses, args, box)
    if args.poses is not None or perturbed:
        star = star_with_poses(star, poses, box, args.Apix)
    # labels may not fit; nothing is written before they are checked
    if args.labels is not None:
        _write_clusters(star, args.labels, args.outdir)
    if args.out is not None:
        write_poses(args.out, poses)
        print(f"Wrote {len(poses)} poses to {args.out}")
    if args.out_star is not None:
        star.write(args.out_star)
        print(f"Wrote {len(star)} particles to {args.out_star}")
    ignored = ignored_origins(star) if args.out_star is not None or args.labels is not None else None
    if ignored is not None:
        print(f"Note: {ignored}")


def _require_box_of_run(poses: Path, box: int) -> None:
    """Compare the box length with that of the run that the poses lie in, if they do."""
    from opustomo.checkpoint.config import read_config

    config = poses.parent / "config.pkl"
    if not config.is_file():
        return
    trained = read_config(config, box)[1].box
    if trained != box:
        raise UserError(
            f"{config}: the run was trained on subtomograms of {trained} pixels, but -D is {box}, which would scale "
            f"the refined origins of {poses.name} by {box}/{trained}; give -D {trained}."
        )


def _check_options(args: argparse.Namespace) -> None:
    if args.out is None and args.labels is None and args.out_star is None:
        raise UserError("nothing to write; give -o PKL, --labels PKL with --outdir DIR, or --out-star STAR.")
    if (args.labels is None) != (args.outdir is None):
        raise UserError("--labels and --outdir belong together; give both or neither.")
    if args.Apix is not None and not args.Apix > 0:
        raise UserError(f"--Apix must be a positive pixel size in Å, not {args.Apix:g}.")
    for option, value in (("--perturb-rot", args.perturb_rot), ("--perturb-trans", args.perturb_trans)):
        if not 0 <= value < float("inf"):
            raise UserError(f"{option} must be 0 or a positive number, not {value:g}.")


def _perturbed(poses: Poses, args: argparse.Namespace, box: int) -> Poses:
    import numpy as np

    from opustomo.geometry.rotations import perturb_eulers
    from opustomo.io.poses import Poses

    generator = np.random.default_rng(args.seed)
    eulers = perturb_eulers(poses.eulers_deg, args.perturb_rot, generator)
    shifts = generator.uniform(-args.perturb_trans, args.perturb_trans, poses.origins.shape)
    return Poses(eulers, poses.origins + shifts / box)


def _write_clusters(star: ParticleStar, labels: Path, outdir: Path) -> None:
    from opustomo.analysis.clusters import load_labels, write_cluster_stars

    written = write_cluster_stars(star, load_labels(labels), outdir)
    print(f"Wrote {len(written)} STAR files to {outdir}")


PARSE_POSE_STAR = Command(
    ("Write the poses of a STAR file as a pickle; split the STAR file by clusters; put refined poses into it."),
    add_parse_pose_star_arguments,
    run_parse_pose_star,
)


def add_prepare_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("star", type=Path, metavar="STAR", help="particle table of any RELION version or WARP")
    parser.add_argument("box", type=int, metavar="D", help="box length of the subtomograms, pixels")
    parser.add_argument("apix", type=float, help="pixel size of the subtomograms, Å")
    parser.add_argument("--relion31", action="store_true", help="accepted; the format is recognised by itself")


def run_prepare(args: argparse.Namespace) -> None:
    """Write the poses."""
    from opustomo.io.poses import origin_note, write_poses
    from opustomo.io.star_poses import box_note, check_box, pose_notes, poses_from_star
    from opustomo.io.star_tables import read_particles

    if not args.apix > 0:
        raise UserError(f"the pixel size must be positive, not {args.apix:g} Å.")
    star = read_particles(args.star)
    box = check_box(star, args.box)
    box_note(args.box, box)
    for note in pose_notes(star, box, args.apix):
        print(f"Note: {note}.")
    poses = poses_from_star(star, box, args.apix)
    if (doubt := origin_note(poses.origins, box)) is not None:
        print(f"Note: {doubt}.")
    out = args.star.with_name(f"{args.star.stem}_pose_euler.pkl")
    write_poses(out, poses)
    print(f"Wrote {len(poses)} poses to {out}")


PREPARE = Command("Write the poses of a STAR file to {dir}/{stem}_pose_euler.pkl.", add_prepare_arguments, run_prepare)


def add_parse_pose_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh parse_pose``."""
    parser.add_argument("star", metavar="STAR", type=Path, help="the STAR file used for training")
    parser.add_argument(
        "D", type=int, nargs="?", help="box size of the subtomograms in pixels (default: that of the training)"
    )
    parser.add_argument(
        "apix", type=float, nargs="?", help="pixel size of the subtomograms in Å (default: that of the training)"
    )
    parser.add_argument("resdir", type=Path, help="output folder of dsd train_tomo")
    parser.add_argument("N", help=EPOCH_HELP)
    parser.add_argument("K", type=int, help="number of clusters")
    add_cluster_method(parser)
    parser.add_argument("--refined", action="store_true", help="replace the poses by the refined ones of pose.N.pkl")
    parser.add_argument(
        "--relion31", action="store_true", help="accepted for old scripts; the format is recognised by itself"
    )


def run_parse_pose(args: argparse.Namespace) -> None:
    """Split the STAR file by the labels of ``kmeans{K}``, ``gmm{K}`` or ``hdbscan{K}`` and write the parts there."""
    from opustomo.analysis.clusters import Clustering, load_labels, write_cluster_stars
    from opustomo.commands.options import selected_round
    from opustomo.io.star_conventions import ignored_origins
    from opustomo.io.star_poses import pose_notes
    from opustomo.io.star_tables import read_particles

    if args.D is not None and args.apix is None:
        raise UserError(
            f"The box size {args.D} is given without a pixel size. Give both (pixels, then Å) or neither, because "
            "both are known from the training."
        )
    if args.D is not None and (args.D < 2 or not args.apix > 0):
        raise UserError(f"Box {args.D} and pixel size {args.apix} must be positive; give pixels, then Å.")
    star = read_particles(args.star)
    results, which = selected_round(args.resdir, args.N)
    box, apix = results.box_of_run(args.D, args.apix)
    path = results.analysed_file(which, Clustering(args.K, cluster_method(args)).folder, "labels.pkl")
    labels = load_labels(path)
    results.require_same_particles(star, len(labels), path)
    for note in pose_notes(star, box, apix):
        print(f"Note: {note}.")
    if args.refined:
        star = results.with_refined_poses(star, which.epoch, box, apix)
    written = write_cluster_stars(star, labels, path.parent, num_clusters=args.K)
    print(f"{len(written)} STAR files written to {path.parent}")
    ignored = ignored_origins(star)
    if ignored is not None:
        print(f"Note: {ignored}")


PARSE_POSE = Command("write one STAR file per cluster of an analysis", add_parse_pose_arguments, run_parse_pose)
