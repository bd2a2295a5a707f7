"""Commands for rigid bodies: `parse_multi_pose_star`, `prepare_multi`, `analyze_dynamics` and `dynamics`.

The first two write poses and the geometry of bodies for training with ``--masks``. ``dsd analyze_dynamics`` ranks
traversals by the clarity of the rotation of the bodies, and ``dsdsh dynamics`` reports the motion of a trained run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from opustomo.commands.options import LATEST_HELP, add_device
from opustomo.commands.registry import Command
from opustomo.errors import UserError


def add_parse_multi_pose_star_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsd parse_multi_pose_star``."""
    parser.add_argument("star", type=Path, metavar="STAR", help="particle table of any RELION version or WARP")
    parser.add_argument("-D", type=int, required=True, metavar="BOX", help="box size of the subtomograms in pixels")
    parser.add_argument("--Apix", type=float, required=True, help="pixel size of the subtomograms in Å")
    parser.add_argument("--masks", type=Path, required=True, metavar="STAR", help="RELION multi-body STAR file")
    parser.add_argument("--bodies", type=int, metavar="B", help="expected number of bodies")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="PKL", help="output file of the poses")
    add_geometry_options(parser)


def add_geometry_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that ``dsd parse_multi_pose_star`` and ``dsdsh prepare_multi`` share."""
    add = parser.add_argument
    add(
        "--volumes",
        type=Path,
        metavar="DIR",
        help="folder with reference0.mrc … of a traversal, from which rotation axes are fitted",
    )
    add("--num-volumes", type=int, default=10, help="number of volumes of the traversal")
    add("--outmasks", default="mask_params", metavar="NAME", help="name of the output file NAME.pkl of the geometry")
    add(
        "--origin-rel",
        type=int,
        default=1,
        metavar="B",
        help="reference body, counted from 1, relative to which the other bodies move",
    )
    add("--relion31", action="store_true", help="ignored (for compatibility); the format is detected automatically")


def run_parse_multi_pose_star(args: argparse.Namespace) -> None:
    """Write the poses and the geometry."""
    prepare_bodies(args, args.D, args.Apix, args.bodies, args.out)


def prepare_bodies(args: argparse.Namespace, box: int, apix: float, count: int | None, out: Path) -> None:
    """Read and check all inputs, then write the poses and the geometry."""
    from opustomo.dynamics.body_geometry import GeometryRequest, make_geometry
    from opustomo.dynamics.body_masks import read_bodies
    from opustomo.io.body_files import write_bodies, write_multibody_poses
    from opustomo.io.star_poses import box_note, check_box, pose_notes, poses_from_star
    from opustomo.io.star_tables import read_particles

    star = read_particles(args.star)
    given, box = box, check_box(star, box)
    box_note(given, box)
    for note in pose_notes(star, box, apix):
        print(f"Note: {note}.")
    poses = poses_from_star(star, box, apix)
    bodies = read_bodies(args.masks, count)
    request = GeometryRequest(box, apix, args.origin_rel - 1, args.volumes, args.num_volumes)
    geometry = make_geometry(bodies, request)
    if bodies.apix is None:
        print(
            "Note: The MRC headers of the masks have no pixel size. The masks are assumed to span the box of the "
            "subtomograms."
        )
    for body, (name, parent) in enumerate(zip(bodies.names, bodies.parents, strict=True), 1):
        center = ", ".join(f"{value:.2f}" for value in geometry.com_bodies[body - 1])
        radii = ", ".join(f"{value:.2f}" for value in geometry.radii_bodies[body - 1])
        print(f"body {body} ({name.name}): center ({center}), radii ({radii}) voxels, relative to body {parent + 1}")
    geometry_file = Path(f"{args.outmasks}.pkl")
    write_bodies(geometry_file, geometry, box, apix)
    write_multibody_poses(out, poses, len(bodies))
    print(f"Wrote the geometry of {len(bodies)} bodies to {geometry_file} and {len(poses)} poses to {out}")


PARSE_MULTI_POSE_STAR = Command(
    "write multi-body poses of a STAR file and the geometry of the bodies defined by masks",
    add_parse_multi_pose_star_arguments,
    run_parse_multi_pose_star,
)


def add_prepare_multi_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh prepare_multi``."""
    parser.add_argument("star", type=Path, metavar="STAR", help="particle table of any RELION version or WARP")
    parser.add_argument("box", type=int, metavar="D", help="box size of the subtomograms in pixels")
    parser.add_argument("apix", type=float, help="pixel size of the subtomograms in Å")
    parser.add_argument("masks", type=Path, metavar="MASKS", help="RELION multi-body STAR file")
    parser.add_argument("numb", type=int, help="number of bodies in the STAR file")
    add_geometry_options(parser)


def run_prepare_multi(args: argparse.Namespace) -> None:
    """Write the poses and the geometry."""
    out = args.star.with_name(f"{args.star.stem}_pose_euler.pkl")
    prepare_bodies(args, args.box, args.apix, args.numb, out)


PREPARE_MULTI = Command(
    "write {dir}/{stem}_pose_euler.pkl with multi-body poses, and the geometry of the bodies defined by masks",
    add_prepare_multi_arguments,
    run_prepare_multi,
)


def add_analyze_dynamics_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsd analyze_dynamics``."""
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="folder with reference0.mrc …")
    parser.add_argument("--masks", type=Path, required=True, metavar="STAR", help="RELION multi-body STAR file")
    parser.add_argument("--num-volumes", type=int, default=10, help="number of volumes of each traversal")
    parser.add_argument(
        "-D", type=int, metavar="BOX", help="box size of the subtomograms in voxels (default: that of the masks)"
    )
    parser.add_argument("--Apix", type=float, help="pixel size of the subtomograms in Å (default: that of the masks)")
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="FILE",
        help="also write the ranking as a table, or with all values to FILE.json",
    )
    parser.add_argument("--verbose", action="store_true", help="also print the centers of the bodies in each volume")


def run_analyze_dynamics(args: argparse.Namespace) -> None:
    """Fit the rotation axes, rank the traversals and print the ranking."""
    import json

    from opustomo.dynamics.body_geometry import describe, folders_with_volumes, rank_traversals, ranking_table
    from opustomo.dynamics.body_masks import read_bodies
    from opustomo.io.atomic import atomic_path

    bodies = read_bodies(args.masks)
    apix = bodies.apix if args.Apix is None else args.Apix
    if apix is None:
        raise UserError(
            f"The MRC headers of the masks in {args.masks} have no pixel size. "
            "Give the pixel size of the subtomograms with --Apix."
        )
    box = bodies.masks.shape[-1] if args.D is None else args.D
    folders, skipped = folders_with_volumes(args.folders)
    if skipped:
        names = ", ".join(str(path) for path in skipped[:5]) + (" …" if len(skipped) > 5 else "")
        print(f"Note: these paths are skipped because they are not folders with reference0.mrc: {names}")
    ranked = rank_traversals(folders, bodies, box, apix, args.num_volumes)
    for rank, traversal in enumerate(ranked, 1):
        print(
            f"{rank}. {traversal.folder}: {traversal.defined} of {len(bodies)} bodies rotate about an axis, "
            f"total swept angle {traversal.score:.2f}°"
        )
        for line in describe(traversal.fits, bodies):
            print(f"   {line}")
        if args.verbose:
            for volume, centers in enumerate(traversal.centers):
                positions = "; ".join(f"({x:.2f}, {y:.2f}, {z:.2f})" for x, y, z in centers)
                print(f"   reference{volume}.mrc: body centers {positions} Å, relative to the center of the box")
    if args.out is None:
        return
    if args.out.suffix.lower() == ".json":
        table = [
            {
                "folder": str(traversal.folder),
                "defined": traversal.defined,
                "score_deg": traversal.score,
                "bodies": [
                    {
                        "axis": fit.axis.tolist(),
                        "swept_deg": fit.swept_deg,
                        "dispersion_deg": fit.dispersion_deg,
                        "out_of_plane_A": fit.out_of_plane_A,
                        "well_defined": fit.well_defined,
                    }
                    for fit in traversal.fits
                ],
            }
            for traversal in ranked
        ]
        text = json.dumps(table, indent=2) + "\n"
    else:
        text = ranking_table(ranked)
    with atomic_path(args.out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"Wrote {args.out}")


ANALYZE_DYNAMICS = Command(
    "rank traversals by how well they define the rotation axes of the bodies",
    add_analyze_dynamics_arguments,
    run_analyze_dynamics,
)


def add_dynamics_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh dynamics``."""
    parser.add_argument("resdir", type=Path, help="output folder of dsd train_tomo --masks")
    parser.add_argument("N", help=f"epoch N (counted from 0), or {LATEST_HELP}")
    parser.add_argument("--num-pcs", type=int, default=2, help="number of components of the conformation latent")
    parser.add_argument("--points", type=int, default=20, help="number of volumes along each component")
    parser.add_argument("--apix", type=float, help="pixel size of the volumes in Å (default: that of the template)")
    parser.add_argument(
        "--kmeans",
        type=int,
        metavar="K",
        help="use the composition of a center of this k-means (default: the particle nearest to the mean)",
    )
    parser.add_argument("--dfk", type=int, default=0, metavar="i", help="number of the center of --kmeans")
    parser.add_argument("--skip-vol", action="store_true", help="do not write volumes, figures and movies")
    parser.add_argument(
        "--permutations", type=int, default=19, help="number of permutations of the independence test; 0 skips it"
    )
    parser.add_argument("--star", type=Path, help="particle table for bodies.N.star (default: that of the run)")
    add_device(parser)


def run_dynamics(args: argparse.Namespace) -> None:
    """Write ``dynamics.N`` and ``bodies.N.star``."""
    from opustomo.commands.options import selected_round
    from opustomo.dynamics.dynamics_report import DynamicsRequest, report_dynamics

    results, which = selected_round(args.resdir, args.N)
    request = DynamicsRequest(
        results=results,
        epoch=which.first_epoch(),
        num_pcs=args.num_pcs,
        points=args.points,
        apix=args.apix,
        kmeans=args.kmeans,
        center=args.dfk,
        volumes=not args.skip_vol,
        permutations=args.permutations,
        star=args.star,
        device=args.device,
    )
    print(f"Wrote the dynamics report to {report_dynamics(request)}")


DYNAMICS = Command(
    "report body motion: screw axes, figures, movies, bodies.N.star, and independence of composition",
    add_dynamics_arguments,
    run_dynamics,
)
