"""One batch of subtomograms on the device."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from opustomo.physics.ctf import TiltBatch


@dataclass(frozen=True)
class Batch:
    """Subtomograms of a step with their current poses.

    Attributes
    ----------
    index
        (B,) particle indices.
    volumes
        (B, D, D, D) voxels divided by the data's standard deviation.
    tilts
        Distinct CTF tables of the batch, fields (U, T).
    table
        (B,) index of the table of each particle; None for one each, in order.
    rotation
        (B, 3, 3) RELION A.
    origin_px
        (B, 3) shift that centers the particle, in pixels of the input box.
    weight
        (B,) 1, or 0 for a place without a usable subtomogram; None stands for ones.
    deviation
        (B, 6) of the poses from the given ones: rotation vector (rad) and shift (pixels), reference frame; None where
        poses are not inferred.
    """

    index: Tensor
    volumes: Tensor
    tilts: TiltBatch
    table: Tensor | None
    rotation: Tensor
    origin_px: Tensor
    weight: Tensor | None = None
    deviation: Tensor | None = None

    def __len__(self) -> int:
        return len(self.index)
