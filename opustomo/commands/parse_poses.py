"""Poses and STAR files: `dsd parse_pose_star`, `dsdsh prepare` and `dsdsh parse_pose`.

The commands write the poses of a STAR file to a pickle, and clusters or refined poses to STAR files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from opustomo.commands.options import add_cluster_method, add_run, cluster_method
from opustomo.commands.registry import Command
from opustomo.errors import UserError

if TYPE_CHECKING:
    from opustomo.io.poses import Poses
    from opustomo.io.star_tables import ParticleStar


def add_parse_pose_star_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsd parse_pose_star``."""
    parser.add_argument("star", type=Path, metavar="STAR", help="particle table of any RELION version or WARP")
    parser.add_argument("-D", type=int, required=True, metavar="BOX", help="box size of the subtomograms in pixels")
    parser.add_argument(
        "--relion31", action="store_true", help="ignored (for compatibility); the format is detected automatically"
    )
    parser.add_argument(
        "--Apix", type=float, help="pixel size in Å, used for origins in Å (default: from the STAR file)"
    )
    parser.add_argument("-o", "--out", type=Path, metavar="PKL", help="output file of the poses")
    parser.add_argument("--labels", type=Path, metavar="PKL", help="labels.pkl with the cluster of each particle")
    parser.add_argument("--outdir", type=Path, metavar="DIR", help="output folder of pre{i}.star for each label i")
    parser.add_argument("--poses", type=Path, metavar="PKL", help="refined poses that replace those of the STAR file")
    parser.add_argument("--out-star", type=Path, metavar="STAR", help="output STAR file with these poses")
    parser.add_argument(
        "--perturb-rot", type=float, default=0.0, metavar="DEG", help="apply random rotations of up to DEG degrees"
    )
    parser.add_argument(
        "--perturb-trans", type=float, default=0.0, metavar="PX", help="apply random shifts of up to PX pixels"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed of the perturbation")


def run_parse_pose_star(args: argparse.Namespace) -> None:
    """Write the requested poses and STAR files."""
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
                f"{args.poses} contains {len(poses)} poses, but {args.star} has {len(star)} particles. "
                "Give the poses of this STAR file."
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
    # Check and write the labels first, so that no other file is written if they do not match the table.
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
    """Raise ``UserError`` if the poses are in the folder of a run with another box size."""
    from opustomo.checkpoint.config import read_config

    config = poses.parent / "config.pkl"
    if not config.is_file():
        return
    trained = read_config(config, box)[1].box
    if trained != box:
        raise UserError(
            f"-D is {box}, but the run of {config} was trained on subtomograms of {trained} pixels, so the origins in "
            f"{poses.name} would be scaled by {box}/{trained}. Use -D {trained}."
        )


def _check_options(args: argparse.Namespace) -> None:
    if args.out is None and args.labels is None and args.out_star is None:
        raise UserError("No output is requested. Give -o PKL, --labels PKL with --outdir DIR, or --out-star STAR.")
    if (args.labels is None) != (args.outdir is None):
        raise UserError("--labels and --outdir must be given together.")


def _perturbed(poses: Poses, args: argparse.Namespace, box: int) -> Poses:
    import numpy as np

    from opustomo.geometry.rotations import perturb_eulers
    from opustomo.io.poses import Poses

    generator = np.random.default_rng(args.seed)
    eulers = perturb_eulers(poses.eulers_deg, args.perturb_rot, generator)
    shifts = generator.uniform(-args.perturb_trans, args.perturb_trans, poses.origins.shape)
    return Poses(eulers, poses.origins + shifts / box)


def _write_clusters(star: ParticleStar, labels: Path, outdir: Path) -> None:
    from opustomo.analysis.clusters.cluster_stars import load_labels, write_cluster_stars

    written = write_cluster_stars(star, load_labels(labels), outdir)
    print(f"Wrote {len(written)} STAR files to {outdir}")


PARSE_POSE_STAR = Command(
    "write the poses of a STAR file to a pickle, split it by clusters, or insert refined poses",
    add_parse_pose_star_arguments,
    run_parse_pose_star,
)


def add_prepare_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh prepare``."""
    parser.add_argument("star", type=Path, metavar="STAR", help="particle table of any RELION version or WARP")
    parser.add_argument("box", type=int, metavar="D", help="box size of the subtomograms in pixels")
    parser.add_argument("apix", type=float, help="pixel size of the subtomograms in Å")
    parser.add_argument(
        "--relion31", action="store_true", help="ignored (for compatibility); the format is detected automatically"
    )


def run_prepare(args: argparse.Namespace) -> None:
    """Write the poses of the STAR file."""
    from opustomo.commands.closing_messages import print_next
    from opustomo.io.poses import origin_note, write_poses
    from opustomo.io.star_poses import box_note, check_box, pose_notes, poses_from_star
    from opustomo.io.star_tables import read_particles

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
    print_next((["dsd", "check", args.star, "--poses", out], "with -r mask.mrc if there is a mask"))


PREPARE = Command("write the poses of a STAR file to {dir}/{stem}_pose_euler.pkl", add_prepare_arguments, run_prepare)


def add_parse_pose_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh parse_pose``."""
    parser.add_argument("star", metavar="STAR", type=Path, help="STAR file used for training")
    parser.add_argument(
        "D", type=int, nargs="?", help="box size of the subtomograms in pixels (default: that of the training)"
    )
    parser.add_argument(
        "apix", type=float, nargs="?", help="pixel size of the subtomograms in Å (default: that of the training)"
    )
    add_run(parser)
    parser.add_argument("K", type=int, help="number of clusters")
    add_cluster_method(parser)
    parser.add_argument("--refined", action="store_true", help="replace the poses by the refined ones of pose.N.pkl")
    parser.add_argument(
        "--relion31", action="store_true", help="ignored (for compatibility); the format is detected automatically"
    )


def run_parse_pose(args: argparse.Namespace) -> None:
    """Write one STAR file per cluster to ``kmeans{K}``, ``gmm{K}`` or ``hdbscan{K}``."""
    from opustomo.analysis.clusters.cluster_stars import load_labels, write_cluster_stars
    from opustomo.analysis.clusters.clustering import Clustering
    from opustomo.commands.closing_messages import print_maps
    from opustomo.commands.options import selected_round
    from opustomo.io.star_conventions import ignored_origins
    from opustomo.io.star_poses import pose_notes
    from opustomo.io.star_tables import read_particles

    if args.D is not None and args.apix is None:
        raise UserError(
            f"The box size {args.D} is given without a pixel size. Give both (pixels, then Å) or neither, because "
            "both are known from the training."
        )
    star = read_particles(args.star)
    results, which = selected_round(args.resdir, args.N)
    box, apix = results.box_of_run(args.D, args.apix)
    path = results.analyzed_file(which, Clustering(args.K, cluster_method(args)).folder, "labels.pkl")
    labels = load_labels(path)
    results.require_same_particles(star, len(labels), path)
    for note in pose_notes(star, box, apix):
        print(f"Note: {note}.")
    if args.refined:
        star = results.with_refined_poses(star, which.epoch, box, apix)
    written = write_cluster_stars(star, labels, path.parent, num_clusters=args.K)
    print(f"Wrote {len(written)} STAR files to {path.parent}")
    ignored = ignored_origins(star)
    if ignored is not None:
        print(f"Note: {ignored}")
    print_maps(results, written)


PARSE_POSE = Command("write one STAR file per cluster of an analysis", add_parse_pose_arguments, run_parse_pose)
