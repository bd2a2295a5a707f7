"""Geometry of the rigid bodies of a particle: centres, levers, frames and extents (docs/dynamics.md)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

LEAST_BODIES = 2
Numbers = tuple[Any, ...] | npt.NDArray[np.float64]
"""Nested numbers; a geometry turns arrays into tuples."""


@dataclass(frozen=True)
class BodyGeometry:
    """Where the bodies of a particle are and about what they turn.

    Lengths are voxels of the subtomograms, vectors x, y, z, positions relative to voxel D/2. Plain numbers, so that it
    can be compared, hashed and stored anywhere.

    Attributes
    ----------
    com_bodies
        B × 3, centre of mass of each body.
    in_relatives
        B × 3, centre of mass of its parent.
    rotate_directions
        B × 3, lever from the parent's centre to the body's.
    orient_bodies
        B × 3 × 3, frame in which the body's rotations are expressed; vectors go into it by ``orient · x``.
    radii_bodies
        B × 3, root of the eigenvalues of the density's covariance, ascending.
    principal_axes
        B × 3 × 3, the eigenvectors as rows.
    parents
        B, which body each is relative to, from 0; the body itself where that is not known.
    """

    com_bodies: Numbers
    in_relatives: Numbers
    rotate_directions: Numbers
    orient_bodies: Numbers
    radii_bodies: Numbers
    principal_axes: Numbers
    parents: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.com_bodies)
        if count < LEAST_BODIES:
            raise ValueError(f"bodies: at least {LEAST_BODIES} are needed, got {count}")
        for name in TENSOR_NAMES:
            values = np.asarray(getattr(self, name), dtype=np.float64)
            shape = (count, 3, 3) if name in ("orient_bodies", "principal_axes") else (count, 3)
            if values.shape != shape or not np.isfinite(values).all():
                raise ValueError(f"bodies: {name} must be {shape} finite numbers, got {values.shape}")
            object.__setattr__(self, name, _nested(values))
        if not (np.asarray(self.radii_bodies) > 0).all():
            raise ValueError("bodies: radii_bodies must be positive")
        parents = tuple(int(p) for p in self.parents) or infer_parents(self)
        if len(parents) != count or not all(0 <= p < count for p in parents):
            raise ValueError(f"bodies: parents must be {count} numbers of bodies, got {parents}")
        object.__setattr__(self, "parents", parents)

    def __len__(self) -> int:
        return len(self.com_bodies)

    def array(self, name: str) -> npt.NDArray[np.float64]:
        """One of the members as an array."""
        return np.asarray(getattr(self, name), dtype=np.float64)

    def tensor(self, name: str) -> Tensor:
        """One of the members as a float32 tensor."""
        return torch.from_numpy(self.array(name)).float()


TENSOR_NAMES = tuple(f.name for f in fields(BodyGeometry) if f.name != "parents")
"""Members that the torch file of masks holds (docs/files.md)."""


def infer_parents(geometry: BodyGeometry) -> tuple[int, ...]:
    """Parents from the geometry alone: the body nearest to where the lever starts.

    A body without lever, the origin of the others, is its own parent.
    """
    centres, levers = geometry.array("com_bodies"), geometry.array("rotate_directions")
    starts = geometry.array("in_relatives")
    parents = []
    for body in range(len(centres)):
        if np.linalg.norm(levers[body]) < 1e-6:
            parents.append(body)
            continue
        distance = np.linalg.norm(centres - starts[body], axis=1)
        distance[body] = np.inf
        parents.append(int(distance.argmin()))
    return tuple(parents)


def _nested(values: npt.NDArray[np.float64]) -> tuple[Any, ...]:
    if values.ndim == 1:
        return tuple(float(v) for v in values)
    return tuple(_nested(v) for v in values)
