"""`dsd analyze_dynamics`: rank traversals by the clarity of the rotation of the bodies."""

import argparse
from pathlib import Path

from opustomo.errors import UserError

HELP = "rank traversals by how well they define the rotation axes of the bodies"


def add_arguments(parser: argparse.ArgumentParser) -> None:
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


def run(args: argparse.Namespace) -> None:
    """Fit the rotation axes, rank the traversals and print the ranking."""
    import json
    import math

    from opustomo.dynamics.definition import read_bodies
    from opustomo.dynamics.prepare import describe, folders_with_volumes, rank_traversals, ranking_table
    from opustomo.io.atomic import atomic_path

    bodies = read_bodies(args.masks)
    apix = bodies.apix if args.Apix is None else args.Apix
    if apix is None:
        raise UserError(
            f"The MRC headers of the masks in {args.masks} have no pixel size. "
            "Give the pixel size of the subtomograms with --Apix."
        )
    if not 0 < apix < math.inf:
        raise UserError(f"--Apix must be a positive pixel size in Å, not {apix:g}.")
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
            for volume, centers in enumerate(traversal.centres):
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
