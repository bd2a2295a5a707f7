"""Tilt geometry: position and depth of a point of a tomogram in the images of its tilt series.

Deformations are values on a coarse grid that are interpolated by natural cubic splines, as in WARP.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline


@dataclass(frozen=True, eq=False)
class SplineGrid:
    """Tensor product of natural cubic splines through the nodes of a grid.

    Nodes are evenly spaced over [0, 1] along each axis, including both ends. With a margin m, coordinates are first
    compressed to [m, 1 - m]. Axes with one node are constant. Beyond the ends, the last polynomial is extrapolated.

    Attributes
    ----------
    nodes
        (X, Y, Z) or (X, Y, Z, W) values.
    margins
        Margin of each axis.
    """

    nodes: np.ndarray
    margins: tuple[float, ...]

    @classmethod
    def constant(cls, value: float, axes: int = 3) -> SplineGrid:
        """Return a grid with one node."""
        return cls(np.full((1,) * axes, value), (0.0,) * axes)

    @property
    def is_constant(self) -> bool:
        """Whether the grid has one node."""
        return self.nodes.size == 1

    def __call__(self, *coordinates: np.ndarray) -> np.ndarray:
        """Return the values at coordinates 0 … 1, given as one broadcastable array per axis."""
        if len(coordinates) != self.nodes.ndim:
            raise ValueError(f"there are {len(coordinates)} coordinates, but the grid has {self.nodes.ndim} axes")
        shape = np.broadcast_shapes(*(np.shape(at) for at in coordinates))
        if self.is_constant:
            return np.full(shape, self.nodes.item())
        count = int(np.prod(shape))
        values: np.ndarray = np.broadcast_to(self.nodes[None], (count, *self.nodes.shape))
        for at, margin in zip(coordinates, self.margins, strict=True):
            flat = np.broadcast_to(at, shape).ravel()
            weights = _weights(flat * (1 - 2 * margin) + margin, values.shape[1])
            values = np.einsum("bi...,bi->b...", values, weights)
        return values.reshape(shape)


def _weights(at: np.ndarray, nodes: int) -> np.ndarray:
    """Return the weight of each node at each coordinate, (B, nodes)."""
    if nodes == 1:
        return np.ones((len(at), 1))
    basis = CubicSpline(np.linspace(0.0, 1.0, nodes), np.eye(nodes), bc_type="natural")
    return basis(at)


def rotation_x(degrees: np.ndarray) -> np.ndarray:
    """Return right-handed rotations about x, (..., 3, 3)."""
    return _about(degrees, 1, 2)


def rotation_y(degrees: np.ndarray) -> np.ndarray:
    """Return right-handed rotations about y, (..., 3, 3); Ry of RELION's Euler angles is the transpose."""
    return _about(degrees, 2, 0)


def rotation_z(degrees: np.ndarray) -> np.ndarray:
    """Return right-handed rotations about z, (..., 3, 3); Rz of RELION's Euler angles is the transpose."""
    return _about(degrees, 0, 1)


def _about(degrees: np.ndarray, first: int, second: int) -> np.ndarray:
    angle = np.deg2rad(np.asarray(degrees, dtype=np.float64))
    matrix = np.zeros((*angle.shape, 3, 3))
    matrix[..., range(3), range(3)] = 1.0
    matrix[..., first, first] = matrix[..., second, second] = np.cos(angle)
    matrix[..., second, first] = np.sin(angle)
    matrix[..., first, second] = -np.sin(angle)
    return matrix


@dataclass(frozen=True, eq=False)
class Deformation:
    """Deformation of the specimen and the images, as estimated by WARP and M.

    Attributes
    ----------
    volume_size_A, image_size_A
        Sizes in Å that correspond to grid coordinates 0 … 1.
    time
        (T,) accumulated dose, scaled to 0 … 1.
    movement
        x, y shifts (Å) of the image content as a function of image x, y and tilt index.
    warp
        x, y, z shifts (Å) of the specimen as a function of x, y, z and dose.
    angles
        x, y, z corrections (degrees) of the orientation as a function of x, y and tilt index.
    """

    volume_size_A: np.ndarray
    image_size_A: np.ndarray
    time: np.ndarray
    movement: tuple[SplineGrid, SplineGrid]
    warp: tuple[SplineGrid, SplineGrid, SplineGrid]
    angles: tuple[SplineGrid, SplineGrid, SplineGrid]


@dataclass(frozen=True, eq=False)
class TiltGeometry:
    """Geometry of a tilt series.

    Attributes
    ----------
    rotations
        (T, 3, 3) matrices M; the components of M x are image x, image y and the coordinate along the beam.
    shifts_A
        (T, 2) image coordinates of the center of the tomogram.
    hand
        +1 if defocus increases with the coordinate along the beam, -1 if it decreases (rlnTomoHand of RELION).
    deformation
        Deformation of WARP or M; None for a rigid specimen.
    """

    rotations: np.ndarray
    shifts_A: np.ndarray
    hand: int = 1
    deformation: Deformation | None = None

    def __len__(self) -> int:
        return len(self.rotations)

    def project(self, positions_A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute image positions and depths.

        Parameters
        ----------
        positions_A
            Positions in the tomogram relative to its center, (N, 3).

        Returns
        -------
        image_A
            (N, T, 2) image x, y relative to the center of the image.
        depth_A
            (N, T) contribution of the height of the point to the defocus of the tilt.
        """
        points = np.asarray(positions_A, dtype=np.float64)[:, None, :]
        bent = self.deformation
        if bent is not None:
            at = points / bent.volume_size_A + 0.5
            points = points + np.stack([grid(*np.moveaxis(at, -1, 0), bent.time) for grid in bent.warp], axis=-1)
        seen = np.einsum("tij,ntj->nti", self.rotations, np.broadcast_to(points, (len(points), len(self), 3)))
        image = seen[..., :2] + self.shifts_A
        if bent is not None:
            on_image = image / bent.image_size_A + 0.5
            image = image - np.stack([grid(*np.moveaxis(on_image, -1, 0), self._index()) for grid in bent.movement], -1)
        return image, self.hand * seen[..., 2]

    def orientations(self, positions_A: np.ndarray) -> np.ndarray:
        """Return the rotations (N, T, 3, 3) at positions (N, 3), including the corrections of the angles by M."""
        bent = self.deformation
        if bent is None:
            return np.broadcast_to(self.rotations, (len(positions_A), *self.rotations.shape))
        at = np.asarray(positions_A, dtype=np.float64)[:, None, :2] / bent.volume_size_A[:2] + 0.5
        x, y, z = (grid(at[..., 0], at[..., 1], self._index()) for grid in bent.angles)
        return rotation_z(z) @ rotation_y(y) @ rotation_x(x) @ self.rotations

    def _index(self) -> np.ndarray:
        """Return the tilt indices, scaled to 0 … 1."""
        return np.linspace(0.0, 1.0, len(self)) if len(self) > 1 else np.zeros(1)


@dataclass(frozen=True, eq=False)
class SliceFrame:
    """Tilts as central slices that are rotated about y, the geometry of a 3D CTF.

    Attributes
    ----------
    frame
        (3, 3) rotation F from tomogram coordinates to the frame in which the tilt axis is y.
    tilt_deg
        (T,) tilt angle t: the x axis of the slice is along (cos t, 0, -sin t) of that frame.
    in_plane
        (T, 2, 2); the columns are the x and y axes of the slice in the image.
    off_axis_deg
        (T,) angle between the normal of the slice and the plane across y, which this description neglects.
    """

    frame: np.ndarray
    tilt_deg: np.ndarray
    in_plane: np.ndarray
    off_axis_deg: np.ndarray

    @property
    def residual_deg(self) -> float:
        """Largest of `off_axis_deg`."""
        return float(self.off_axis_deg.max(initial=0.0))

    def take(self, tilts: np.ndarray) -> SliceFrame:
        """Return the frame with the selected tilts."""
        return SliceFrame(self.frame, self.tilt_deg[tilts], self.in_plane[tilts], self.off_axis_deg[tilts])

    @property
    def turn_deg(self) -> float:
        """Angle of the rotation `frame`."""
        return float(np.rad2deg(np.arccos(np.clip((np.trace(self.frame) - 1) / 2, -1, 1))))

    @property
    def image_angle_deg(self) -> np.ndarray:
        """Azimuth of the x axis of each slice in the image, (T,)."""
        return np.rad2deg(np.arctan2(self.in_plane[:, 1, 0], self.in_plane[:, 0, 0]))


def slice_frame(rotations: np.ndarray, *, turn: bool = True, axis: np.ndarray | None = None) -> SliceFrame:
    """Describe tilts as slices that are rotated about y.

    Parameters
    ----------
    rotations
        (T, 3, 3), as in `TiltGeometry`.
    turn
        Whether the frame is rotated so that the common tilt axis is y; otherwise the frame of the tomogram is kept.
    axis
        (3,) common tilt axis, a unit vector; None fits it to all tilts.
    """
    if not turn:
        axis = np.array([0.0, 1.0, 0.0])
    elif axis is None:
        axis = fit_axis(rotations[:, 2])
    frame = _shortest_turn_to_y(axis)
    turned = rotations @ frame.T
    normal = turned[:, 2]
    tilt = np.arctan2(normal[:, 0], normal[:, 2])
    along_x = np.stack([np.cos(tilt), np.zeros_like(tilt), -np.sin(tilt)], axis=-1)
    x_axis = np.einsum("tij,tj->ti", turned, along_x)[:, :2]
    in_plane = np.stack([x_axis, turned[:, :2, 1]], axis=-1)
    return SliceFrame(frame, np.rad2deg(tilt), in_plane, np.rad2deg(np.arcsin(np.clip(np.abs(normal[:, 1]), 0, 1))))


def fit_axis(normals: np.ndarray) -> np.ndarray:
    """Return the direction to which unit vectors (T, 3) are most perpendicular, (3,); y if it is undetermined."""
    if len(normals) > 1:
        spread, directions = np.linalg.eigh(normals.T @ normals)
        if spread[1] > 1e-6 * len(normals):
            return directions[:, 0] * (np.sign(directions[1, 0]) or 1.0)
    return np.array([0.0, 1.0, 0.0])


def fit_axis_robustly(normals: np.ndarray, tolerance_deg: float) -> np.ndarray:
    """Return the direction to which most unit vectors are perpendicular, independent of outliers.

    The initial axis is the cross product of two normals for which the median deviation is smallest. The axis is then
    fitted to all normals within the tolerance until this set no longer changes.

    Parameters
    ----------
    normals
        Unit vectors, (T, 3).
    tolerance_deg
        Largest deviation of an included normal from the plane across the axis, degrees.

    Returns
    -------
    ndarray, (3,)
    """
    first, second = np.triu_indices(len(normals), 1)
    crossed = np.cross(normals[first], normals[second])
    length = np.linalg.norm(crossed, axis=1)
    candidates = crossed[length > _PARALLEL] / length[length > _PARALLEL, None]
    if not len(candidates):
        return fit_axis(normals)
    axis = candidates[np.median(np.abs(candidates @ normals.T), axis=1).argmin()]
    near = np.abs(normals @ axis)
    within = near <= max(np.sin(np.deg2rad(tolerance_deg)), np.median(near))
    for _ in range(_REFITS):
        axis = fit_axis(normals[within])
        again = np.abs(normals @ axis) <= np.sin(np.deg2rad(tolerance_deg))
        if again.sum() < 2 or (again == within).all():
            break
        within = again
    return axis * (np.sign(axis[1]) or 1.0)


_PARALLEL = 1e-3
"""Minimum length of a cross product of normals that defines an axis."""
_REFITS = 20


def _shortest_turn_to_y(axis: np.ndarray) -> np.ndarray:
    """Return the rotation about axis × y that maps `axis` to y (Rodrigues)."""
    y = np.array([0.0, 1.0, 0.0])
    cross = np.cross(axis, y)
    skew = np.array([[0, -cross[2], cross[1]], [cross[2], 0, -cross[0]], [-cross[1], cross[0], 0]])
    return np.eye(3) + skew + skew @ skew / (1.0 + axis @ y)
