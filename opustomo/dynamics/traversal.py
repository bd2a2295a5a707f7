"""Rotation axes of bodies from a series of volumes along a latent (spec 4, ``--volumes``)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from opustomo.dynamics.definition import BodyMasks
from opustomo.dynamics.frames import centre_of_mass
from opustomo.errors import UserError
from opustomo.io.mrc import read_volume

Array = npt.NDArray[np.float64]
LARGEST_DISPERSION_DEG = 15.0
LEAST_SWEPT_DEG = 0.5
HINGE_DEG, COMMON_DEG = 140.0, 40.0
LARGE_CROSS = 0.25
"""Crosses of at least this part of the largest one count in the dispersion; small ones are mostly rounding."""
MASS_INSIDE = 0.95


@dataclass(frozen=True, eq=False)
class AxisFit:
    """How one body moves about its parent along a series.

    Attributes
    ----------
    axis
        Unit vector x, y, z; the body turns right-handedly about it from first to last volume.
    pivot, start
        The parent's centre, and the body's in the first volume; voxels of the subtomograms from the centre.
    swept_deg
        Angle about the axis from first to last volume.
    dispersion_deg
        Median angle to the axis of the large crosses of pairs of positions: small when one axis explains the path.
    out_of_plane_A
        Root mean square of the positions along the axis about their mean, Å.
    """

    axis: Array
    pivot: Array
    start: Array
    swept_deg: float
    dispersion_deg: float
    out_of_plane_A: float

    @property
    def well_defined(self) -> bool:
        """Whether the path has one axis and is long enough to have any."""
        return self.dispersion_deg < LARGEST_DISPERSION_DEG and abs(self.swept_deg) > LEAST_SWEPT_DEG

    def frame(self) -> Array:
        """Frame (3, 3) for the decoder: from body to pivot across the axis, axis × that, axis."""
        across = self.pivot - self.start
        across = across - (across @ self.axis) * self.axis
        across /= np.linalg.norm(across)
        return np.stack([across, np.cross(self.axis, across), self.axis])


@dataclass(frozen=True, eq=False)
class Series:
    """Volumes of a traversal, with the masks on their grid."""

    volumes: npt.NDArray[np.float32]
    masks: npt.NDArray[np.float32]
    apix: float
    folder: Path

    def densities(self, volume: int) -> npt.NDArray[np.float32]:
        """Positive density of each body in one volume: (B, n, n, n)."""
        return self.masks * np.maximum(self.volumes[volume], 0.0)

    def centres(self, scale: float) -> Array:
        """Centre of mass of every body in every volume, (n volumes, B, 3), times ``scale``."""
        return scale * np.stack(
            [[centre_of_mass(density) for density in self.densities(i)] for i in range(len(self.volumes))]
        )


def read_series(folder: Path, count: int, bodies: BodyMasks, box: int, apix: float) -> Series:
    """Read ``reference0.mrc`` … and bring the masks to their grid by pixel size.

    Raises
    ------
    UserError
        Fewer than two volumes; one is missing, not an even cube, of another size or without pixel size; they are
        larger than the subtomograms or do not hold the bodies.
    """
    if count < 2:
        raise UserError(f"--num-volumes {count}: a motion needs at least 2 volumes.")
    paths = [folder / f"reference{i}.mrc" for i in range(count)]
    missing = next((path for path in paths if not path.is_file()), None)
    if missing is not None:
        raise UserError(
            f"{missing} does not exist; give a folder of dsdsh eval_vol with {count} volumes, or --num-volumes."
        )
    read = [read_volume(path) for path in paths]
    shape, pixel = read[0][0].shape, read[0][1]
    for path, (volume, found) in zip(paths, read, strict=True):
        if len(set(volume.shape)) != 1 or volume.shape[0] % 2:
            size = "×".join(str(n) for n in reversed(volume.shape))
            raise UserError(f"{path}: {size} voxels; even cubes are needed, decode the volumes with dsdsh eval_vol.")
        if found is None:
            raise UserError(f"{path}: its header holds no pixel size, which places the masks; decode it again.")
        if volume.shape != shape or pixel is None or abs(found / pixel - 1) > 1e-3:
            raise UserError(
                f"{path}: {volume.shape[0]} voxels of {found:g} Å but reference0.mrc has {shape[0]} of {pixel:g} Å; "
                "give the volumes of one traversal."
            )
    assert pixel is not None
    if shape[0] * pixel > 1.02 * box * apix:
        raise UserError(
            f"{paths[0]}: {shape[0]} voxels of {pixel:g} Å are a larger box than {box} voxels of {apix:g} Å; "
            "give volumes of this set, or the right box and pixel size."
        )
    mask_apix = bodies.apix if bodies.apix is not None else box * apix / bodies.masks.shape[-1]
    masks = np.stack([_onto(mask, mask_apix, shape[0], pixel) for mask in bodies.masks])
    for name, before, after in zip(bodies.names, bodies.masks, masks, strict=True):
        kept = after.sum(dtype=np.float64) * pixel**3 / (before.sum(dtype=np.float64) * mask_apix**3)
        if kept < MASS_INSIDE:
            raise UserError(
                f"{folder}: volumes of {shape[0]} voxels of {pixel:g} Å hold only {kept:.0%} of the body {name.name}; "
                "give volumes of the box that the masks belong to."
            )
    return Series(np.stack([volume for volume, _ in read]), masks, pixel, folder)


def _onto(mask: npt.NDArray[np.float32], apix: float, size: int, wanted: float) -> npt.NDArray[np.float32]:
    """Trilinear samples of a cube on ``size`` voxels of ``wanted`` Å, voxel N/2 at ``size``/2."""
    ratio = wanted / apix
    offset = len(mask) // 2 - size // 2 * ratio
    resampled = ndimage.affine_transform(mask, np.full(3, ratio), offset, (size,) * 3, order=1)
    return np.asarray(resampled, dtype=np.float32)


def fit_axis(centres: Array, pivot: Array, voxel_A: float) -> AxisFit:
    """Fit the axis about which a body turns, from the whole path.

    Parameters
    ----------
    centres
        (n, 3) centres of mass of the body, in order.
    pivot
        (3,) the parent's centre.
    voxel_A
        Å per unit of the positions.
    """
    relative = pivot - centres
    first, second = np.triu_indices(len(relative), 1)
    crosses = np.cross(relative[first], relative[second])
    total = crosses.sum(0)
    length = np.linalg.norm(total)
    sizes = np.linalg.norm(crosses, axis=1)
    arm = np.linalg.norm(relative, axis=1).min()
    if length < 1e-9 or arm < 1e-6:
        return AxisFit(np.array([0.0, 0.0, 1.0]), pivot, centres[0], 0.0, 90.0, 0.0)
    axis = total / length
    along = relative @ axis
    flat = relative - along[:, None] * axis
    steps = np.arctan2(np.cross(flat[:-1], flat[1:]) @ axis, (flat[:-1] * flat[1:]).sum(1))
    large = sizes >= LARGE_CROSS * sizes.max()
    angles = np.degrees(np.arccos(np.clip(crosses[large] @ axis / sizes[large], -1.0, 1.0)))
    return AxisFit(
        axis=axis,
        pivot=pivot,
        start=centres[0],
        swept_deg=float(np.degrees(steps.sum())),
        dispersion_deg=float(np.median(angles)),
        out_of_plane_A=float((along - along.mean()).std() * voxel_A),
    )


def fit_series(series: Series, bodies: BodyMasks, box: int, apix: float) -> list[AxisFit]:
    """Axis of every body about its parent's centre (from the parent's mask), in voxels of the subtomograms."""
    mask_apix = bodies.apix if bodies.apix is not None else box * apix / bodies.masks.shape[-1]
    pivots = np.stack([centre_of_mass(mask) for mask in bodies.masks]) * mask_apix / apix
    centres = series.centres(series.apix / apix)
    return [fit_axis(centres[:, body], pivots[parent], apix) for body, parent in enumerate(bodies.parents)]


def relation(first: AxisFit, second: AxisFit) -> tuple[float, str]:
    """Angle (degrees) between two axes and what it says: ``hinge``, ``common drift`` or ``uncorrelated``."""
    angle = float(np.degrees(np.arccos(np.clip(first.axis @ second.axis, -1.0, 1.0))))
    if angle > HINGE_DEG:
        return angle, "hinge"
    return angle, "common drift" if angle < COMMON_DEG else "uncorrelated"
