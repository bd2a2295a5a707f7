"""`dsd parse_multi_pose_star`: poses and the geometry of rigid bodies, for training with `--masks`."""

import argparse
from pathlib import Path

from opustomo.errors import UserError

HELP = "Write the poses of a STAR file with room for bodies, and the geometry of the bodies that masks define."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("star", type=Path, metavar="STAR", help="particle table of any RELION version or WARP")
    parser.add_argument("-D", type=int, required=True, metavar="BOX", help="box length of the subtomograms, pixels")
    parser.add_argument("--Apix", type=float, required=True, help="their pixel size, Å")
    parser.add_argument("--masks", type=Path, required=True, metavar="STAR", help="RELION multi-body STAR file")
    parser.add_argument("--bodies", type=int, metavar="B", help="how many bodies it must define")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="PKL", help="poses to write")
    add_geometry_options(parser)


def add_geometry_options(parser: argparse.ArgumentParser) -> None:
    """Options shared with `dsdsh prepare_multi`."""
    add = parser.add_argument
    add("--volumes", type=Path, metavar="DIR", help="folder with reference0.mrc … of a traversal, for the axes")
    add("--num-volumes", type=int, default=10, help="volumes of the traversal")
    add("--outmasks", default="mask_params", metavar="NAME", help="geometry is written as NAME.pkl")
    add("--origin-rel", type=int, default=1, metavar="B", help="body, from 1, that the others move against")
    add("--relion31", action="store_true", help="accepted; the format is recognised by itself")


def run(args: argparse.Namespace) -> None:
    """Write both files."""
    prepare_bodies(args, args.star, args.D, args.Apix, args.masks, args.bodies, args.out)


def prepare_bodies(
    args: argparse.Namespace, table: Path, box: int, apix: float, masks: Path, count: int | None, out: Path
) -> None:
    """Read and check everything, then write poses and geometry."""
    from opustomo.dynamics.definition import read_bodies
    from opustomo.dynamics.prepare import GeometryRequest, make_geometry
    from opustomo.io.bodies import write_bodies, write_multibody_poses
    from opustomo.io.star import read_particles
    from opustomo.io.star_poses import box_note, check_box, pose_notes, poses_from_star

    if not 0 < apix < float("inf"):
        raise UserError(f"the pixel size must be positive, not {apix:g} Å.")
    star = read_particles(table)
    given, box = box, check_box(star, box)
    box_note(given, box)
    for note in pose_notes(star, box, apix):
        print(f"Note: {note}.")
    poses = poses_from_star(star, box, apix)
    bodies = read_bodies(masks, count)
    request = GeometryRequest(box, apix, args.origin_rel - 1, args.volumes, args.num_volumes)
    geometry = make_geometry(bodies, request)
    if bodies.apix is None:
        print("note: the masks' headers hold no pixel size; they are taken to span the box of the subtomograms.")
    for body, (name, parent) in enumerate(zip(bodies.names, bodies.parents, strict=True), 1):
        centre = ", ".join(f"{value:.2f}" for value in geometry.com_bodies[body - 1])
        radii = ", ".join(f"{value:.2f}" for value in geometry.radii_bodies[body - 1])
        print(f"body {body} ({name.name}): centre ({centre}), radii ({radii}) voxels, relative to body {parent + 1}")
    geometry_file = Path(f"{args.outmasks}.pkl")
    write_bodies(geometry_file, geometry, box, apix)
    write_multibody_poses(out, poses, len(bodies))
    print(f"Wrote the geometry of {len(bodies)} bodies to {geometry_file} and {len(poses)} poses to {out}")
