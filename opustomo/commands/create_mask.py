"""`dsdsh create_mask`: create a solvent mask from a density map."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from opustomo.prepare.mask_creation import Mask, MaskRecipe

RESAMPLING_BYTES = 12
"""Minimum memory per voxel of a resampled map: its spectrum and its density."""
UNLIKELY = 2.0
"""Ratio of the side lengths of map and mask beyond which the pixel size in the header is doubted."""
HELP = "create a solvent mask from a density map by thresholding and morphological operations, with a soft edge"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh create_mask``; lengths are in voxels of the mask."""
    add = parser.add_argument
    add("map", type=Path, metavar="MAP", help="density map (MRC) with positive density")
    add("-o", "--output", type=Path, required=True, metavar="OUT", help="output mask (MRC)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--threshold", type=float, help="minimum density of the mask (default: determined from the map)")
    which.add_argument(
        "--percentile",
        type=float,
        nargs="?",
        const=99.0,
        help="threshold as a percentile of the densities; 99 without value",
    )
    add("--use-abs", action="store_true", help="apply the threshold to absolute densities")
    add("--largest-component", action="store_true", help="keep only the largest connected component")
    add("--fill-holes", action="store_true", help="fill enclosed cavities")
    add(
        "--open",
        type=float,
        default=0.0,
        metavar="R",
        help="opening by a ball of this radius, which removes thin features",
    )
    add(
        "--close",
        type=float,
        default=0.0,
        metavar="R",
        help="closing by a ball of this radius, which fills narrow gaps",
    )
    add("--dilate", type=float, default=0.0, metavar="R", help="dilation by a ball of this radius")
    add("--erode", type=float, default=0.0, metavar="R", help="erosion by a ball of this radius")
    edge = parser.add_mutually_exclusive_group()
    edge.add_argument("--soft-edge", type=float, default=0.0, metavar="W", help="width of the raised-cosine edge")
    edge.add_argument("--soft-edge-angst", type=float, metavar="Å", help="width of the edge in Å")
    add(
        "--sphere-radius",
        type=float,
        metavar="R",
        help="make the mask a ball of this radius, or restrict the thresholded mask to it",
    )
    add(
        "--sphere-center",
        type=float,
        nargs=3,
        metavar=("X", "Y", "Z"),
        help="center of the ball in voxels (default: box/2)",
    )
    add("--box", type=int, metavar="N", help="resample the map to a box of N voxels first")
    add("--apix", type=float, metavar="Å", help="resample the map to this pixel size first")
    add("--map-apix", type=float, metavar="Å", help="pixel size of MAP (default: MRC header)")


def run(args: argparse.Namespace) -> None:
    """Create and write the mask, and print its properties."""
    from opustomo.errors import UserError
    from opustomo.io.mrc import write_volume
    from opustomo.prepare.mask_creation import make_mask

    _check(args)
    density, apix = _map(args)
    recipe = _recipe(args, apix)
    try:
        mask = make_mask(density, recipe)
    except ValueError as error:
        advice = _doubtful_header(args)
        raise UserError(
            f"{args.map}: {error}; {advice or 'change this step'} (densities: {_range(density)})."
        ) from error
    write_volume(args.output, mask.values, apix)
    _print_summary(args, mask, apix)
    advice = _doubtful_header(args)
    if advice is not None:
        print(f"Note: {advice}.")


def _check(args: argparse.Namespace) -> None:
    from opustomo.errors import UserError

    if args.sphere_center is not None and args.sphere_radius is None:
        raise UserError("--sphere-center requires --sphere-radius.")


def _map(args: argparse.Namespace) -> tuple[np.ndarray, float]:
    """Return the density on the grid of the mask, and its pixel size in Å."""
    import numpy as np

    from opustomo.errors import UserError
    from opustomo.io.host_memory import require_memory
    from opustomo.io.mrc import read_volume
    from opustomo.physics.resampling import resample

    density, apix = read_volume(args.map)
    apix = args.map_apix or apix
    if apix is None:
        raise UserError(f"The MRC header of {args.map} has no pixel size. Give it with --map-apix.")
    if not np.isfinite(density).all():
        raise UserError(f"{args.map} contains values that are not finite. Write the map again.")
    if args.box is None and args.apix is None:
        return density, apix
    if len(set(density.shape)) != 1:
        size = "×".join(str(n) for n in reversed(density.shape))
        raise UserError(f"{args.map} has {size} voxels, but --box and --apix require a cubic map.")
    new_apix = args.apix or apix
    box = args.box or max(4, 2 * round(density.shape[0] * apix / new_apix / 2))
    require_memory(RESAMPLING_BYTES * box**3, f"a mask of {box}³ voxels of {new_apix:g} Å", "give a larger --apix")
    return resample(density, apix, box, new_apix), new_apix


def _doubtful_header(args: argparse.Namespace) -> str | None:
    """Return a note if the pixel size in the header of the map was used but is implausible, else None.

    Programs without a pixel size write 1 Å, so that the sizes of map and mask disagree.
    """
    from opustomo.io.mrc import read_header

    header = read_header(args.map)
    if args.map_apix is not None or header.apix is None or (args.box is None and args.apix is None):
        return None
    apix = args.apix or header.apix
    span = header.shape[0] * header.apix
    box = span if args.box is None else args.box * apix
    if 1 / UNLIKELY < span / box < UNLIKELY and (abs(header.apix - 1.0) > 1e-3 or abs(apix - 1.0) < 1e-3):
        return None
    return (
        f"the header of the map says {header.apix:.4g} Å per pixel, so that the map spans {span:.4g} Å and the box of "
        f"the mask {box:.4g} Å; if that is wrong, give the pixel size of the map with --map-apix"
    )


def _recipe(args: argparse.Namespace, apix: float) -> MaskRecipe:
    from opustomo.prepare.mask_creation import MaskRecipe

    return MaskRecipe(
        threshold=args.threshold,
        percentile=args.percentile,
        use_abs=args.use_abs,
        open=args.open,
        close=args.close,
        dilate=args.dilate,
        erode=args.erode,
        fill_holes=args.fill_holes,
        largest_component=args.largest_component,
        sphere_radius=args.sphere_radius,
        sphere_center=None if args.sphere_center is None else tuple(args.sphere_center),
        soft_edge=args.soft_edge if args.soft_edge_angst is None else args.soft_edge_angst / apix,
    )


def _range(density: np.ndarray) -> str:
    return f"{density.min():.4g} to {density.max():.4g}"


def _print_summary(args: argparse.Namespace, mask: Mask, apix: float) -> None:
    size = "×".join(str(n) for n in reversed(mask.values.shape))
    source = "a ball" if mask.threshold is None else f"densities above {mask.threshold:.4g}"
    volume = float(mask.core.sum()) * apix**3 * 1e-3
    percentage = 100.0 * float((mask.values > 0).mean())
    print(
        f"Wrote a mask of {size} voxels of {apix:.4g} Å from {source} to {args.output}: {volume:.4g} nm³, "
        f"{percentage:.1f} % of the box"
    )
    if mask.touches_faces:
        print("Note: The mask touches the faces of its box. Use a larger box or a narrower edge.")
