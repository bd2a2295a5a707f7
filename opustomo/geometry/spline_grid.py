"""Values on a coarse grid, interpolated by natural cubic splines, as WARP stores what varies over a tilt series."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline


@dataclass(frozen=True, eq=False)
class SplineGrid:
    """A tensor product of natural cubic splines through the nodes of a grid.

    Nodes are evenly spaced over [0, 1] along each axis, the first at 0, the last at 1; a margin m says that coordinates
    are squeezed to [m, 1 - m] before. Axes with one node are constant. Beyond the ends the last piece goes on.

    Attributes
    ----------
    nodes
        (X, Y, Z) or (X, Y, Z, W) values.
    margins
        One per axis.
    """

    nodes: np.ndarray
    margins: tuple[float, ...]

    @classmethod
    def constant(cls, value: float, axes: int = 3) -> SplineGrid:
        """A grid of one node."""
        return cls(np.full((1,) * axes, value), (0.0,) * axes)

    @property
    def is_constant(self) -> bool:
        """Whether the grid has one node."""
        return self.nodes.size == 1

    def __call__(self, *coordinates: np.ndarray) -> np.ndarray:
        """Values at coordinates 0 … 1, one broadcastable array per axis."""
        if len(coordinates) != self.nodes.ndim:
            raise ValueError(f"{len(coordinates)} coordinates for a grid of {self.nodes.ndim} axes")
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
    """(B, nodes): what each node contributes at each coordinate."""
    if nodes == 1:
        return np.ones((len(at), 1))
    basis = CubicSpline(np.linspace(0.0, 1.0, nodes), np.eye(nodes), bc_type="natural")
    return basis(at)
