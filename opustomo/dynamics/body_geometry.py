"""Body geometry from masks and, optionally, rotation axes fitted to a traversal that shows the motion of the bodies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from opustomo.analysis.volumes.decoding import series_paths
from opustomo.dynamics.body_masks import BodyMasks, center_of_mass, geometry_of_densities, geometry_of_masks
from opustomo.errors import UserError
from opustomo.geometry.rigid_bodies import BodyGeometry
from opustomo.io.body_files import check_inside
from opustomo.io.mrc import read_volume

Array = npt.NDArray[np.float64]
LARGEST_DISPERSION_DEG = 15.0
LEAST_SWEPT_DEG = 0.5
HINGE_DEG, COMMON_DEG = 140.0, 40.0
LARGE_CROSS = 0.25
"""Minimum length, relative to the largest, of cross products in the dispersion; shorter ones are mostly noise."""
MASS_INSIDE = 0.95


@dataclass(frozen=True, eq=False)
class AxisFit:
    """Rotation of one body about its parent along a series.

    Attributes
    ----------
    axis
        Unit vector x, y, z of the right-handed rotation from the first to the last volume.
    pivot, start
        Center of the parent, and center of the body in the first volume, in voxels of the subtomograms relative to
        the center of the box.
    swept_deg
        Rotation angle about the axis from the first to the last volume in degrees.
    dispersion_deg
        Median angle in degrees between the axis and the cross products of pairs of positions. It is small if the
        path is a rotation about one axis.
    out_of_plane_A
        Standard deviation of the positions along the axis in Å.
    """

    axis: Array
    pivot: Array
    start: Array
    swept_deg: float
    dispersion_deg: float
    out_of_plane_A: float

    @property
    def well_defined(self) -> bool:
        """Whether the path follows one axis and is long enough to determine it."""
        return self.dispersion_deg < LARGEST_DISPERSION_DEG and abs(self.swept_deg) > LEAST_SWEPT_DEG

    def frame(self) -> Array:
        """Return the body frame (3, 3) of the decoder.

        Its rows are the unit vector u from the body to the pivot, perpendicular to the axis, then axis × u, and the
        axis.
        """
        radial = self.pivot - self.start
        radial = radial - (radial @ self.axis) * self.axis
        radial /= np.linalg.norm(radial)
        return np.stack([radial, np.cross(self.axis, radial), self.axis])


@dataclass(frozen=True, eq=False)
class Series:
    """Volumes of a traversal and the body masks resampled to their grid."""

    volumes: npt.NDArray[np.float32]
    masks: npt.NDArray[np.float32]
    apix: float
    folder: Path

    def densities(self, volume: int) -> npt.NDArray[np.float32]:
        """Return the positive density of each body in one volume, (B, n, n, n)."""
        return self.masks * np.maximum(self.volumes[volume], 0.0)

    def centers(self, scale: float) -> Array:
        """Compute the center of mass of each body in each volume, multiplied by `scale`, (n volumes, B, 3)."""
        return scale * np.stack(
            [[center_of_mass(density) for density in self.densities(i)] for i in range(len(self.volumes))]
        )


def read_series(folder: Path, count: int, bodies: BodyMasks, box: int, apix: float) -> Series:
    """Read ``reference0.mrc`` … and resample the masks to their grid.

    Raises
    ------
    UserError
        If there are fewer than two volumes; if a volume is missing, is not an even cube, differs in size or has no
        pixel size; or if the volumes are larger than the subtomograms or do not contain the bodies.
    """
    if count < 2:
        raise UserError(f"--num-volumes is {count}, but at least 2 volumes are required.")
    paths = series_paths(folder, count)
    missing = next((path for path in paths if not path.is_file()), None)
    if missing is not None:
        raise UserError(
            f"{missing} does not exist. Give a folder of dsdsh eval_vol with {count} volumes, or set --num-volumes."
        )
    volumes = [read_volume(path) for path in paths]
    shape, pixel = volumes[0][0].shape, volumes[0][1]
    for path, (volume, volume_apix) in zip(paths, volumes, strict=True):
        if len(set(volume.shape)) != 1 or volume.shape[0] % 2:
            size = "×".join(str(n) for n in reversed(volume.shape))
            raise UserError(f"{path} has {size} voxels, but it must be an even cube. Decode it with dsdsh eval_vol.")
        if volume_apix is None:
            raise UserError(
                f"The MRC header of {path} has no pixel size, which is required to align the masks. Decode it again."
            )
        if volume.shape != shape or pixel is None or abs(volume_apix / pixel - 1) > 1e-3:
            raise UserError(
                f"{path} has {volume.shape[0]} voxels of {volume_apix:g} Å, but reference0.mrc has {shape[0]} voxels "
                f"of {pixel:g} Å. Give the volumes of one traversal."
            )
    assert pixel is not None
    if shape[0] * pixel > 1.02 * box * apix:
        raise UserError(
            f"The box of {paths[0]} ({shape[0]} voxels of {pixel:g} Å) is larger than that of the subtomograms "
            f"({box} voxels of {apix:g} Å). Give volumes of these subtomograms, or correct the box and pixel size."
        )
    mask_apix = bodies.apix if bodies.apix is not None else box * apix / bodies.masks.shape[-1]
    masks = np.stack([_resample_mask(mask, mask_apix, shape[0], pixel) for mask in bodies.masks])
    for name, original, resampled in zip(bodies.names, bodies.masks, masks, strict=True):
        inside = resampled.sum(dtype=np.float64) * pixel**3 / (original.sum(dtype=np.float64) * mask_apix**3)
        if inside < MASS_INSIDE:
            raise UserError(
                f"The volumes in {folder} ({shape[0]} voxels of {pixel:g} Å) contain only {inside:.0%} of the body "
                f"{name.name}. Give volumes of the box that the masks belong to."
            )
    return Series(np.stack([volume for volume, _ in volumes]), masks, pixel, folder)


def _resample_mask(mask: npt.NDArray[np.float32], apix: float, size: int, new_apix: float) -> npt.NDArray[np.float32]:
    """Resample a cube to `size` voxels of `new_apix` Å by trilinear interpolation; voxel N/2 maps to size/2."""
    ratio = new_apix / apix
    offset = len(mask) // 2 - size // 2 * ratio
    resampled = ndimage.affine_transform(mask, np.full(3, ratio), offset, (size,) * 3, order=1)
    return np.asarray(resampled, dtype=np.float32)


def fit_axis(centers: Array, pivot: Array, voxel_A: float) -> AxisFit:
    """Fit a rotation axis to the path of a body.

    Parameters
    ----------
    centers
        Centers of mass of the body in the order of the series, (n, 3).
    pivot
        Center of the parent, (3,).
    voxel_A
        Length in Å of the unit of the positions.
    """
    relative = pivot - centers
    first, second = np.triu_indices(len(relative), 1)
    crosses = np.cross(relative[first], relative[second])
    total = crosses.sum(0)
    length = np.linalg.norm(total)
    sizes = np.linalg.norm(crosses, axis=1)
    arm = np.linalg.norm(relative, axis=1).min()
    if length < 1e-9 or arm < 1e-6:
        return AxisFit(np.array([0.0, 0.0, 1.0]), pivot, centers[0], 0.0, 90.0, 0.0)
    axis = total / length
    along = relative @ axis
    flat = relative - along[:, None] * axis
    steps = np.arctan2(np.cross(flat[:-1], flat[1:]) @ axis, (flat[:-1] * flat[1:]).sum(1))
    large = sizes >= LARGE_CROSS * sizes.max()
    angles = np.degrees(np.arccos(np.clip(crosses[large] @ axis / sizes[large], -1.0, 1.0)))
    return AxisFit(
        axis=axis,
        pivot=pivot,
        start=centers[0],
        swept_deg=float(np.degrees(steps.sum())),
        dispersion_deg=float(np.median(angles)),
        out_of_plane_A=float((along - along.mean()).std() * voxel_A),
    )


def fit_series(series: Series, bodies: BodyMasks, box: int, apix: float) -> list[AxisFit]:
    """Fit the axis of each body about the center of the mask of its parent, in voxels of the subtomograms."""
    mask_apix = bodies.apix if bodies.apix is not None else box * apix / bodies.masks.shape[-1]
    pivots = np.stack([center_of_mass(mask) for mask in bodies.masks]) * mask_apix / apix
    centers = series.centers(series.apix / apix)
    return [fit_axis(centers[:, body], pivots[parent], apix) for body, parent in enumerate(bodies.parents)]


def compare_axes(first: AxisFit, second: AxisFit) -> tuple[float, str]:
    """Return the angle (degrees) between two axes and its class: ``hinge``, ``common drift`` or ``uncorrelated``."""
    angle = float(np.degrees(np.arccos(np.clip(first.axis @ second.axis, -1.0, 1.0))))
    if angle > HINGE_DEG:
        return angle, "hinge"
    return angle, "common drift" if angle < COMMON_DEG else "uncorrelated"


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
