"""Body geometry from masks and, optionally, from a traversal that shows the motion of the bodies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt

from opustomo.dynamics.axis_fit import AxisFit, Series, compare_axes, fit_series, read_series
from opustomo.dynamics.body_masks import BodyMasks, geometry_of_densities, geometry_of_masks
from opustomo.errors import UserError
from opustomo.geometry.rigid_bodies import BodyGeometry
from opustomo.io.body_files import check_inside

Say = Callable[[str], None]


@dataclass(frozen=True)
class GeometryRequest:
    """Settings of the body geometry.

    Attributes
    ----------
    box, apix
        Box (voxels) and pixel size (Å) of the subtomograms.
    origin
        Index of the body relative to which the others move, counted from 0 (``--origin-rel`` counts from 1).
    volumes, num_volumes
        Folder and number of the volumes ``reference0.mrc`` … of a traversal; None uses only the masks.
    """

    box: int
    apix: float
    origin: int = 0
    volumes: Path | None = None
    num_volumes: int = 10


def make_geometry(bodies: BodyMasks, request: GeometryRequest, say: Say = print) -> BodyGeometry:
    """Compute the geometry of the bodies in voxels of the subtomograms and report the fitted rotation axes.

    Raises
    ------
    UserError
        If the origin is not a body, or if masks and volumes do not match.
    """
    if not 0 <= request.origin < len(bodies):
        raise UserError(f"--origin-rel is {request.origin + 1}, but {bodies.star} defines bodies 1 to {len(bodies)}.")
    if request.volumes is None:
        return geometry_of_masks(bodies, request.box, request.apix, request.origin)
    series = read_series(request.volumes, request.num_volumes, bodies, request.box, request.apix)
    fits = fit_series(series, bodies, request.box, request.apix)
    for line in describe(fits, bodies):
        say(line)
    return geometry_of_series(series, fits, bodies, request)


def geometry_of_series(
    series: Series, fits: list[AxisFit], bodies: BodyMasks, request: GeometryRequest
) -> BodyGeometry:
    """Compute the moments from the middle volume and the frames from the fitted axes.

    A body without a well-defined axis keeps the frame defined by the vector to its parent.
    """
    middle = (len(series.volumes) - 1) // 2
    scale = series.apix / request.apix
    geometry = geometry_of_densities(series.densities(middle), scale, bodies.parents, request.origin)
    check_inside(geometry, request.box, str(series.folder))
    frames, levers = geometry.array("orient_bodies"), geometry.array("rotate_directions")
    for body, fit in enumerate(fits):
        if fit.well_defined:
            frames[body] = fit.frame()
    levers[request.origin] = 0.0
    return replace(geometry, orient_bodies=frames, rotate_directions=levers)


def describe(fits: list[AxisFit], bodies: BodyMasks) -> list[str]:
    """Return a report of the fitted axes: one line per body and per pair of axes, and warnings for undefined axes."""
    lines = []
    for body, (fit, parent) in enumerate(zip(fits, bodies.parents, strict=True), 1):
        axis = ", ".join(f"{value:+.3f}" for value in fit.axis)
        lines.append(
            f"body {body} about body {parent + 1}: axis ({axis}), swept {fit.swept_deg:.2f}°, dispersion "
            f"{fit.dispersion_deg:.1f}°, out of plane {fit.out_of_plane_A:.2f} Å"
        )
        if not fit.well_defined:
            lines.append(
                f"warning: the motion of body {body} does not define an axis, which requires a dispersion below 15° "
                "and a swept angle above 0.5°. Its frame follows the vector to its parent."
            )
    for a, b in combinations(range(len(fits)), 2):
        if fits[a].well_defined and fits[b].well_defined:
            angle, interpretation = compare_axes(fits[a], fits[b])
            lines.append(f"axes of bodies {a + 1} and {b + 1}: {angle:.0f}° apart, {interpretation}")
    return lines


@dataclass(frozen=True, eq=False)
class RankedTraversal:
    """Traversal with the fitted axes of its bodies.

    Attributes
    ----------
    folder
        Folder of the volumes.
    fits
        Fitted axis of each body.
    centers
        Centers of mass of the bodies (x, y, z) relative to the center of the box in Å, (n volumes, B, 3).
    """

    folder: Path
    fits: list[AxisFit]
    centers: npt.NDArray[np.float64]

    @property
    def defined(self) -> int:
        """Number of bodies with a well-defined axis."""
        return sum(fit.well_defined for fit in self.fits)

    @property
    def score(self) -> float:
        """Sum of the swept angle times the cosine of the dispersion over bodies with a well-defined axis, degrees."""
        return float(sum(abs(f.swept_deg) * np.cos(np.radians(f.dispersion_deg)) for f in self.fits if f.well_defined))


def rank_traversals(
    folders: list[Path], bodies: BodyMasks, box: int, apix: float, num_volumes: int
) -> list[RankedTraversal]:
    """Fit several traversals and sort them by the clarity of the rotation, clearest first."""
    ranked = []
    for folder in folders:
        series = read_series(folder, num_volumes, bodies, box, apix)
        ranked.append(RankedTraversal(folder, fit_series(series, bodies, box, apix), series.centers(series.apix)))
    return sorted(ranked, key=lambda traversal: (-traversal.defined, -traversal.score))


def folders_with_volumes(paths: list[Path]) -> tuple[list[Path], list[Path]]:
    """Divide the matches of a pattern such as ``analyze.16/pc*`` into folders of decoded volumes and other paths.

    Raises
    ------
    UserError
        If no path is a folder that contains ``reference0.mrc``.
    """
    folders = [path for path in paths if (path / "reference0.mrc").is_file()]
    if not folders:
        raise UserError(
            f"None of the {len(paths)} given paths, starting with {paths[0]}, is a folder with reference0.mrc. "
            "Decode traversals with dsdsh eval_vol first."
        )
    return folders, [path for path in paths if path not in folders]


def ranking_table(ranked: list[RankedTraversal]) -> str:
    """Return the ranking as tab-separated text with one line per body and traversal."""
    header = "rank folder score_deg body defined swept_deg dispersion_deg out_of_plane_A axis_x axis_y axis_z".split()
    lines = ["\t".join(header)]
    for rank, traversal in enumerate(ranked, 1):
        for body, fit in enumerate(traversal.fits, 1):
            defined = "yes" if fit.well_defined else "no"
            words = [str(rank), str(traversal.folder), f"{traversal.score:.2f}", str(body), defined]
            numbers = (fit.swept_deg, fit.dispersion_deg, fit.out_of_plane_A, *fit.axis)
            lines.append("\t".join([*words, *(f"{value:.4f}" for value in numbers)]))
    return "\n".join(lines) + "\n"
