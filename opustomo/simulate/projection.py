"""Central slices of a posed density, read from its padded and gridding-corrected Fourier transform."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from opustomo.slices.frequencies import plane_frequencies


class SliceSource:
    """The Fourier transform of one density, ready to be read along any central plane.

    The density is padded and divided by the real-space footprint of linear interpolation (sinc² along each
    axis), so that linear interpolation between the samples of its transform does not darken the rim of the
    box. Only the half with kx >= 0 is kept; the other half is its conjugate mate.

    Parameters
    ----------
    density
        (D, D, D) real tensor, axes z, y, x, D even, centre at voxel D/2.
    padding
        Size of the padded box over D; by default 4, less where that would take more than `LARGEST` voxels an
        axis. What linear interpolation gets wrong falls with the square of it: a density that fills half of
        the box is exact to 8 % (at worst) with 2, to 2 % with 4.
    """

    #: size up to which boxes are padded more than twofold
    LARGEST = 384

    def __init__(self, density: Tensor, padding: int | None = None) -> None:
        box = density.shape[-1]
        if density.shape != (box, box, box) or box % 2:
            raise ValueError(f"a density needs a cubic box of even size, not {tuple(density.shape)}")
        self.box = box
        self.padded = box * (padding or min(4, max(2, self.LARGEST // box)))
        distance = (torch.arange(box, device=density.device) - box // 2) / self.padded
        rim = 1.0 / torch.sinc(distance) ** 2
        corrected = density.float() * rim[:, None, None] * rim[:, None] * rim
        big = torch.zeros((self.padded,) * 3, device=density.device)
        # the centre goes to voxel 0, so that phases are counted from the centre of the box
        first = torch.arange(-box // 2, box // 2, device=density.device) % self.padded
        big[first[:, None, None], first[:, None], first] = corrected
        transform = torch.fft.fftshift(torch.fft.rfftn(big), dim=(0, 1))
        self._transform = torch.view_as_real(transform).permute(3, 0, 1, 2)[None].contiguous()

    def slices(self, rotations: Tensor, tilt_deg: Tensor) -> Tensor:
        """Transforms of the projections of the posed density along the beam of each tilt.

        Parameters
        ----------
        rotations
            (B, 3, 3) matrices A that take reference to subtomogram coordinates.
        tilt_deg
            (T,) tilt angles in degrees about y: a slice's x axis lies along (cos t, 0, -sin t).

        Returns
        -------
        Complex tensor (B, T, D, D//2 + 1), native FFT order, phases counted from the box centre.
        """
        points = self._reference_points(rotations, tilt_deg)
        mate = points[..., 0] < 0
        points = torch.where(mate[..., None], -points, points)
        factor = self.padded / self.box
        half = self.padded // 2
        # x spans 0 … half; y and z span -half … half - 1
        scale = torch.tensor([2 * factor / half, 2 * factor / (2 * half - 1), 2 * factor / (2 * half - 1)])
        start = torch.tensor([-1.0, 2 * half / (2 * half - 1) - 1, 2 * half / (2 * half - 1) - 1])
        grid = points * scale.to(points.device) + start.to(points.device)
        read = torch.nn.functional.grid_sample(
            self._transform,
            grid.reshape(1, 1, 1, -1, 3),
            mode="bilinear",
            padding_mode="zeros",
            align_corners=True,
        )
        real, imaginary = read.reshape(2, *mate.shape)
        return torch.complex(real, torch.where(mate, -imaginary, imaginary))

    def _reference_points(self, rotations: Tensor, tilt_deg: Tensor) -> Tensor:
        """Where slice samples lie in the reference's Fourier space, (B, T, D, D//2+1, 3) x, y, z."""
        x, y = plane_frequencies(self.box, rotations.device)
        angle = torch.deg2rad(tilt_deg.to(rotations.device, torch.float64))
        zero = torch.zeros_like(angle)
        along_x = torch.stack([angle.cos(), zero, -angle.sin()], -1)
        along_y = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64, device=rotations.device)
        # A takes reference to subtomogram, so the row vector e·A is Aᵀe, the axis seen from the reference
        axis_x = torch.einsum("ti,bij->btj", along_x, rotations.double()).float()
        axis_y = torch.einsum("i,bij->bj", along_y, rotations.double()).float()
        return x[:, None] * axis_x[:, :, None, None, :] + y[:, None, None] * axis_y[:, None, None, None, :]


def origin_phases(origins: Tensor, tilt_deg: Tensor, box: int) -> Tensor:
    """Phase factors that put the content of every tilt image at -origin.

    Parameters
    ----------
    origins
        (B, 3) x, y, z in voxels: the shifts that will centre the particles again.
    tilt_deg
        (T,) degrees.
    box
        Image size in pixels.

    Returns
    -------
    Complex tensor (B, T, box, box//2 + 1), native FFT order.
    """
    x, y = plane_frequencies(box, origins.device)
    angle = torch.deg2rad(tilt_deg.to(origins.device, torch.float64))
    along_x = origins[:, 0, None] * angle.cos() - origins[:, 2, None] * angle.sin()
    turns_x = (2 * math.pi / box) * along_x.float()[..., None] * x
    turns_y = (2 * math.pi / box) * origins[:, 1, None].float() * y
    unit_x = torch.polar(torch.ones_like(turns_x), turns_x)
    unit_y = torch.polar(torch.ones_like(turns_y), turns_y)
    return unit_y[:, None, :, None] * unit_x[:, :, None, :]
