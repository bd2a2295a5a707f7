"""`dsdsh prepare`: the poses of a STAR file, in the place where training looks for them."""

import argparse
from pathlib import Path

HELP = "Write the poses of a STAR file to {dir}/{stem}_pose_euler.pkl."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("star", type=Path, metavar="STAR", help="particle table of any RELION version or WARP")
    parser.add_argument("box", type=int, metavar="D", help="box length of the subtomograms, pixels")
    parser.add_argument("apix", type=float, help="pixel size of the subtomograms, Å")
    parser.add_argument("--relion31", action="store_true", help="accepted; the format is recognised by itself")


def run(args: argparse.Namespace) -> None:
    """Write the poses."""
    from opustomo.errors import UserError
    from opustomo.io.pose_limits import origin_note
    from opustomo.io.poses import write_poses
    from opustomo.io.star import read_particles
    from opustomo.io.star_poses import box_note, check_box, pose_notes, poses_from_star

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
