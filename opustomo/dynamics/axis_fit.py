"""Rotation axes of bodies fitted to a series of volumes along a latent (``--volumes``)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from opustomo.dynamics.body_masks import BodyMasks, center_of_mass
from opustomo.errors import UserError
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
    paths = [folder / f"reference{i}.mrc" for i in range(count)]
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
