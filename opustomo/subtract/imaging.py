"""Images of posed densities as subtomograms contain them.

A subtomogram is the sum of tilt images that were inserted into a Fourier grid as slices. The training approximates it
by the product of the density's spectrum and a 3D CTF. The product is exact on the slices only: between them, a
reconstruction contains the values of nearby slices. What is subtracted is therefore imaged slice by slice, unless the
data prefer the 3D CTF, for example because the reconstruction program padded the box.
"""

from __future__ import annotations

import math
from enum import Enum

import torch
from torch import Tensor

from opustomo.physics.backprojection import interpolate_rotated
from opustomo.physics.ctf import FIELDS, TiltBatch, ctf_at
from opustomo.physics.fourier import rfft3
from opustomo.physics.slice_insertion import SliceInserter, plane_frequencies


class Imaging(Enum):
    """Ways to image a posed density; w is the sampling weight of a voxel."""

    CTF = "the 3D CTF"
    SUM = "sums of slices"
    DIVIDED = "slices divided by max(w, 1)"
    FILLED = "slices divided by w"

    @property
    def smallest_divisor(self) -> float | None:
        """Lower limit of the sampling weights that divide the sum of the slices; None for no division."""
        return {Imaging.DIVIDED: 1.0, Imaging.FILLED: SliceInserter.EMPTY}.get(self)


def inserted_slices(posed: Tensor, tilts: TiltBatch, apix: float, shift_px: Tensor, imaging: Imaging) -> Tensor:
    """Image posed densities slice by slice and insert the slices into a Fourier grid.

    Parameters
    ----------
    posed
        Densities in the frame of the subtomogram, shape (B, n, n, n).
    tilts
        Optics of the tilts, common to all densities, fields of shape (T,).
    apix
        Pixel size of the densities in Å.
    shift_px
        Shifts of the densities in voxels, shape (B, 3).
    imaging
        Division by the sampling weights; not `Imaging.CTF`.

    Returns
    -------
    Tensor
        Half spectra, shape (B, n, n, n/2+1).
    """
    size, device = posed.shape[-1], posed.device
    used = tilts[tilts.scale > 0]
    inserter = SliceInserter(used.tilt_deg.double().cpu().numpy(), size, normalize=False, device=device)
    x, y = plane_frequencies(size, device)
    angle = torch.deg2rad(used.tilt_deg)[:, None, None]
    x, y = x.expand(len(angle), size, -1), y[:, None].expand(len(angle), -1, size // 2 + 1)
    at = torch.stack([x * torch.cos(angle), y, -x * torch.sin(angle)], -1)
    columns = TiltBatch(**{name: getattr(used, name)[:, None, None] for name in FIELDS})
    transfer = ctf_at(x / (size * apix), y / (size * apix), columns) * columns.scale
    phases = torch.exp((-2j * math.pi / size) * torch.einsum("tyxi,bi->btyx", at, shift_px))
    eye = torch.eye(3, device=device).expand(len(posed), 3, 3)
    slices = interpolate_rotated(rfft3(posed), eye, at.flatten(0, 2)).unflatten(1, at.shape[:3])
    spectra = rfft3(inserter.insert(slices * transfer * phases))
    if imaging.smallest_divisor is None:
        return spectra
    weights = inserter.weights.to(device) / len(angle)
    return spectra / weights.clamp(min=imaging.smallest_divisor / len(angle))
