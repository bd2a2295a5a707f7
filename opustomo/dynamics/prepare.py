"""The geometry of bodies from masks and, where there is one, a traversal that shows how they move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt

from opustomo.dynamics.definition import BodyMasks
from opustomo.dynamics.frames import geometry_of_densities, geometry_of_masks
from opustomo.dynamics.traversal import AxisFit, Series, fit_series, read_series, relation
from opustomo.errors import UserError
from opustomo.geometry.bodies import BodyGeometry
from opustomo.io.bodies import check_inside

Say = Callable[[str], None]


@dataclass(frozen=True)
class GeometryRequest:
    """What to make a geometry for.

    Attributes
    ----------
    box, apix
        Side (voxels) and pixel size (Å) of the subtomograms.
    origin
        Body from 0 that the others move against (``--origin-rel`` counts from 1).
    volumes, num_volumes
        Folder of a traversal's ``reference0.mrc`` …, and how many; None takes masks only.
    """

    box: int
    apix: float
    origin: int = 0
    volumes: Path | None = None
    num_volumes: int = 10


def make_geometry(bodies: BodyMasks, request: GeometryRequest, say: Say = print) -> BodyGeometry:
    """Geometry of the bodies in voxels of the subtomograms (spec 4), with a word on every axis found.

    Raises
    ------
    UserError
        The origin is no body, or masks and volumes do not belong together.
    """
    if not 0 <= request.origin < len(bodies):
        raise UserError(
            f"--origin-rel {request.origin + 1}: {bodies.star} defines bodies 1 to {len(bodies)}; give one of them."
        )
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
    """Moments from the middle volume, frames from the axes; a body without an axis keeps the frame of its lever."""
    middle = (len(series.volumes) - 1) // 2
    scale = series.apix / request.apix
    plain = geometry_of_densities(series.densities(middle), scale, bodies.parents, request.origin)
    check_inside(plain, request.box, str(series.folder))
    frames, levers = plain.array("orient_bodies"), plain.array("rotate_directions")
    for body, fit in enumerate(fits):
        if fit.well_defined:
            frames[body] = fit.frame()
    levers[request.origin] = 0.0
    return replace(plain, orient_bodies=frames, rotate_directions=levers)


def describe(fits: list[AxisFit], bodies: BodyMasks) -> list[str]:
    """What the fits say, one sentence each: bodies, pairs of axes, and where a motion has no axis."""
    lines = []
    for body, (fit, parent) in enumerate(zip(fits, bodies.parents, strict=True), 1):
        axis = ", ".join(f"{value:+.3f}" for value in fit.axis)
        lines.append(
            f"body {body} about body {parent + 1}: axis ({axis}), swept {fit.swept_deg:.2f}°, dispersion "
            f"{fit.dispersion_deg:.1f}°, out of plane {fit.out_of_plane_A:.2f} Å"
        )
        if not fit.well_defined:
            lines.append(
                f"warning: the motion of body {body} does not define an axis (dispersion below 15° and more than 0.5° "
                "swept are needed); its frame follows the lever to its parent."
            )
    for a, b in combinations(range(len(fits)), 2):
        if fits[a].well_defined and fits[b].well_defined:
            angle, word = relation(fits[a], fits[b])
            lines.append(f"axes of bodies {a + 1} and {b + 1}: {angle:.0f}° apart, {word}")
    return lines


@dataclass(frozen=True, eq=False)
class RankedTraversal:
    """A traversal and its fits; ``score`` is the swept angle of the bodies with an axis, less what disperses.

    ``centres`` (n volumes, B, 3) are the bodies' centres of mass, x, y, z from the centre of the box in Å.
    """

    folder: Path
    fits: list[AxisFit]
    centres: npt.NDArray[np.float64]

    @property
    def defined(self) -> int:
        """How many bodies have an axis."""
        return sum(fit.well_defined for fit in self.fits)

    @property
    def score(self) -> float:
        """Sum over the bodies with an axis of the swept angle times the cosine of the dispersion, degrees."""
        return float(sum(abs(f.swept_deg) * np.cos(np.radians(f.dispersion_deg)) for f in self.fits if f.well_defined))


def rank_traversals(
    folders: list[Path], bodies: BodyMasks, box: int, apix: float, num_volumes: int
) -> list[RankedTraversal]:
    """Fit several traversals; the one that shows the clearest motion about axes first."""
    ranked = []
    for folder in folders:
        series = read_series(folder, num_volumes, bodies, box, apix)
        ranked.append(RankedTraversal(folder, fit_series(series, bodies, box, apix), series.centres(series.apix)))
    return sorted(ranked, key=lambda one: (-one.defined, -one.score))


def folders_with_volumes(paths: list[Path]) -> tuple[list[Path], list[Path]]:
    """Divide what a pattern such as ``analyze.16/pc*`` matches into folders of decoded volumes and all other files.

    Raises
    ------
    UserError
        No path is a folder that holds ``reference0.mrc``.
    """
    folders = [path for path in paths if (path / "reference0.mrc").is_file()]
    if not folders:
        raise UserError(
            f"{paths[0]}: none of the {len(paths)} paths given is a folder with reference0.mrc; decode traversals with "
            "dsdsh eval_vol first."
        )
    return folders, [path for path in paths if path not in folders]


def ranking_table(ranked: list[RankedTraversal]) -> str:
    """Return the ranking as text, one line for every body of every traversal, columns separated by tabs."""
    head = "rank folder score_deg body defined swept_deg dispersion_deg out_of_plane_A axis_x axis_y axis_z".split()
    lines = ["\t".join(head)]
    for place, one in enumerate(ranked, 1):
        for body, fit in enumerate(one.fits, 1):
            words = [str(place), str(one.folder), f"{one.score:.2f}", str(body), "yes" if fit.well_defined else "no"]
            numbers = (fit.swept_deg, fit.dispersion_deg, fit.out_of_plane_A, *fit.axis)
            lines.append("\t".join([*words, *(f"{value:.4f}" for value in numbers)]))
    return "\n".join(lines) + "\n"
