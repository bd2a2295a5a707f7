"""`dsd analyze_dynamics`: which of several traversals shows the clearest motion of bodies about axes."""

import argparse
from pathlib import Path

from opustomo.errors import UserError

HELP = "Rank traversals by how well they define the axes about which bodies turn."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="folder with reference0.mrc …")
    parser.add_argument("--masks", type=Path, required=True, metavar="STAR", help="RELION multi-body STAR file")
    parser.add_argument("--num-volumes", type=int, default=10, help="volumes of each traversal")
    parser.add_argument("-D", type=int, metavar="BOX", help="box of the subtomograms (default: that of the masks)")
    parser.add_argument("--Apix", type=float, help="their pixel size, Å (default: that of the masks)")
    parser.add_argument(
        "-o", "--out", type=Path, metavar="FILE", help="also write the ranking: a table, or all numbers to FILE.json"
    )
    parser.add_argument("--verbose", action="store_true", help="say for every volume where the bodies are")


def run(args: argparse.Namespace) -> None:
    """Fit, rank, print."""
    import json
    import math

    from opustomo.dynamics.definition import read_bodies
    from opustomo.dynamics.prepare import describe, folders_with_volumes, rank_traversals, ranking_table
    from opustomo.io.atomic import atomic_path

    bodies = read_bodies(args.masks)
    apix = bodies.apix if args.Apix is None else args.Apix
    if apix is None:
        raise UserError(f"{args.masks}: the masks' headers hold no pixel size; give that of the subtomograms: --Apix.")
    if not 0 < apix < math.inf:
        raise UserError(f"--Apix must be a positive pixel size in Å, not {apix:g}.")
    box = bodies.masks.shape[-1] if args.D is None else args.D
    folders, others = folders_with_volumes(args.folders)
    if others:
        names = ", ".join(str(path) for path in others[:5]) + (" …" if len(others) > 5 else "")
        print(f"Note: left out, because these paths are not folders with reference0.mrc: {names}")
    ranked = rank_traversals(folders, bodies, box, apix, args.num_volumes)
    for place, one in enumerate(ranked, 1):
        print(
            f"{place}. {one.folder}: {one.defined} of {len(bodies)} bodies turn about an axis, "
            f"{one.score:.2f}° swept in all"
        )
        for line in describe(one.fits, bodies):
            print(f"   {line}")
        if args.verbose:
            for volume, centres in enumerate(one.centres):
                places = "; ".join(f"({x:.2f}, {y:.2f}, {z:.2f})" for x, y, z in centres)
                print(f"   reference{volume}.mrc: centres of the bodies {places} Å from the centre of the box")
    if args.out is None:
        return
    if args.out.suffix.lower() == ".json":
        table = [
            {
                "folder": str(one.folder),
                "defined": one.defined,
                "score_deg": one.score,
                "bodies": [
                    {
                        "axis": fit.axis.tolist(),
                        "swept_deg": fit.swept_deg,
                        "dispersion_deg": fit.dispersion_deg,
                        "out_of_plane_A": fit.out_of_plane_A,
                        "well_defined": fit.well_defined,
                    }
                    for fit in one.fits
                ],
            }
            for one in ranked
        ]
        text = json.dumps(table, indent=2) + "\n"
    else:
        text = ranking_table(ranked)
    with atomic_path(args.out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"Wrote {args.out}")
