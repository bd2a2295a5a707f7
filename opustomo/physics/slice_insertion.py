"""Insertion of tilt slices into a three-dimensional Fourier grid."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from scipy import sparse
from torch import Tensor


def plane_frequencies(box: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Return the integer frequencies of the half plane of a `box` x `box` image in FFT order.

    Returns
    -------
    x : Tensor, (box//2 + 1,)
        Frequencies 0 … box/2 in Fourier voxels.
    y : Tensor, (box,)
        Frequencies 0 … box/2 - 1, -box/2 … -1 in Fourier voxels.
    """
    x = torch.arange(box // 2 + 1, dtype=torch.float32, device=device)
    y = (torch.fft.fftfreq(box, device=device) * box).round()
    return x, y


class SliceInserter:
    """Reconstruct subtomograms by inserting the slices of a tilt series into a Fourier grid.

    Slices are rotated about y, so a sample at (x', y) of tilt t lies exactly on row y and between four grid columns
    around (kx, kz) = x'·(cos t, -sin t). Its bilinear weights are the same for all rows and particles of the tilt
    series, so the insertion is a multiplication by one sparse matrix.

    Parameters
    ----------
    tilt_deg
        Tilt angles in degrees, (T,), each strictly between -90 and 90.
    box
        Even box size D in voxels.
    normalize
        True divides each voxel by the sum of its weights (weighted back-projection; voxels with negligible weight
        remain 0). False divides by the number of tilts (plain back-projection). Frequencies beyond Nyquist,
        |k| > D/2, are set to 0, as in common reconstruction programs.
    device
        Device of the slices.
    """

    EMPTY = 1e-3
    """Sum of weights below which a voxel remains 0."""

    def __init__(
        self, tilt_deg: np.ndarray, box: int, *, normalize: bool = True, device: torch.device | str = "cpu"
    ) -> None:
        angles = np.deg2rad(np.asarray(tilt_deg, dtype=np.float64))
        if np.abs(angles).max(initial=0.0) >= np.pi / 2:
            raise ValueError("tilt angles must lie between -90 and 90 degrees")
        self.box = box
        self.n_tilts = len(angles)
        rows, columns, weights = self._linear_weights(angles, box)
        half = box // 2 + 1
        shape = (box * half, self.n_tilts * half)
        matrix = sparse.csr_array((weights.astype(np.float32), (rows, columns)), shape=shape)
        received = torch.from_numpy(matrix.sum(axis=1).reshape(box, half))
        self.weights = self._add_mates(received[:, None, :].expand(box, box, half).to(torch.complex64)[None])[0].real
        if normalize:
            filled = self.weights > self.EMPTY
            factor = torch.where(filled, 1.0 / self.weights.clamp(min=self.EMPTY), 0.0)
        else:
            factor = torch.full_like(self.weights, 1.0 / self.n_tilts)
        self._factor = (factor * self._within_nyquist(box)).to(device)
        with warnings.catch_warnings():
            # torch warns at first use that sparse CSR tensors are in beta state
            warnings.simplefilter("ignore", UserWarning)
            self._matrix = torch.sparse_csr_tensor(
                torch.from_numpy(matrix.indptr.astype(np.int64)),
                torch.from_numpy(matrix.indices.astype(np.int64)),
                torch.from_numpy(matrix.data),
                shape,
                check_invariants=False,
            ).to(device)

    @staticmethod
    def _within_nyquist(box: int) -> Tensor:
        """Return a mask, 1 where |k| <= D/2, with axes (kz, ky, kx) in FFT order."""
        x, y = plane_frequencies(box)
        return (y[:, None, None] ** 2 + y[:, None] ** 2 + x**2 <= (box / 2) ** 2).float()

    @staticmethod
    def _linear_weights(angles: np.ndarray, box: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Compute the rows (kz, kx), columns (tilt, x') and weights of the insertion matrix for samples x' >= 0."""
        half = box // 2 + 1
        sample = np.arange(half, dtype=np.float64)
        # Samples at x' = 0 are their own conjugate mates and are counted twice by `_add_mates`.
        multiplicity = np.where(sample == 0, 0.5, 1.0)
        kx = sample * np.cos(angles)[:, None]
        kz = -sample * np.sin(angles)[:, None]
        column = np.arange(kx.size).reshape(kx.shape)
        rows, columns, weights = [], [], []
        for step_x in (0, 1):
            for step_z in (0, 1):
                grid_x, grid_z = np.floor(kx) + step_x, np.floor(kz) + step_z
                weight = (1 - np.abs(kx - grid_x)) * (1 - np.abs(kz - grid_z)) * multiplicity
                inside = (weight > 1e-7) & (grid_x < half) & (np.abs(grid_z) <= box // 2)
                rows.append(((grid_z % box) * half + grid_x)[inside].astype(np.int64))
                columns.append(column[inside])
                weights.append(weight[inside])
        return np.concatenate(rows), np.concatenate(columns), np.concatenate(weights)

    def _add_mates(self, grid: Tensor) -> Tensor:
        """Add the contribution of the conjugate half x' < 0 of each slice to the plane kx = 0."""
        plane = grid[..., 0]
        mate = torch.roll(torch.flip(plane, (-2, -1)), (1, 1), (-2, -1)).conj()
        return torch.cat([(plane + mate)[..., None], grid[..., 1:]], -1)

    def insert(self, slices: Tensor) -> Tensor:
        """Reconstruct subtomograms from slices.

        Parameters
        ----------
        slices : Tensor, complex, (B, T, D, D//2 + 1)
            Slices in FFT order with phases relative to the box center.

        Returns
        -------
        Tensor, (B, D, D, D)
            Subtomograms, axes z, y, x, with the center at voxel D/2. Noise-free slices of a density that cover
            Fourier space completely reproduce the density.
        """
        batch, tilts, box, half = slices.shape
        if (tilts, box) != (self.n_tilts, self.box):
            raise ValueError(f"expected {self.n_tilts} slices of box {self.box}, not {tilts} of {box}")
        columns = torch.view_as_real(slices).permute(1, 3, 0, 2, 4).reshape(tilts * half, -1)
        summed = (self._matrix @ columns).reshape(box, half, batch, box, 2).permute(2, 0, 3, 1, 4)
        grid = self._add_mates(torch.view_as_complex(summed.contiguous())) * self._factor
        return torch.fft.fftshift(torch.fft.irfftn(grid, s=(box, box, box), dim=(1, 2, 3)), dim=(1, 2, 3))
