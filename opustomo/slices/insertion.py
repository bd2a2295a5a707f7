"""Back-insertion of tilt slices into a three-dimensional Fourier grid."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from opustomo.slices.frequencies import plane_frequencies


class SliceInserter:
    """Puts the slices of a tilt series back into one Fourier grid and returns real subtomograms.

    Slices turn about y, so a sample at (x', y) of tilt t falls on row y exactly, and between four grid
    columns at (kx, kz) = x'·(cos t, -sin t). Its linear weights on them are the same for every row and
    particle of the tilt series: the whole insertion is one sparse matrix.

    Parameters
    ----------
    tilt_deg
        (T,) degrees, each strictly between -90 and 90.
    box
        Box size D in voxels, even.
    normalise
        True: every voxel is divided by the sum of the weights it received (weighted back-projection; voxels
        that received next to nothing stay 0). False: by the number of tilts (plain back-projection).
        Either way nothing is kept beyond Nyquist, |k| > D/2, as the common reconstruction programs do.
    device
        Where slices will be.
    """

    #: voxels that received less weight than this stay empty
    EMPTY = 1e-3

    def __init__(
        self, tilt_deg: np.ndarray, box: int, *, normalise: bool = True, device: torch.device | str = "cpu"
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
        if normalise:
            filled = self.weights > self.EMPTY
            factor = torch.where(filled, 1.0 / self.weights.clamp(min=self.EMPTY), 0.0)
        else:
            factor = torch.full_like(self.weights, 1.0 / self.n_tilts)
        self._factor = (factor * self._within_nyquist(box)).to(device)
        with warnings.catch_warnings():
            # torch announces with every first use that its sparse rows are "in beta"
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
        """1 where |k| <= D/2, (kz, ky, kx) in native FFT order."""
        x, y = plane_frequencies(box)
        return (y[:, None, None] ** 2 + y[:, None] ** 2 + x**2 <= (box / 2) ** 2).float()

    @staticmethod
    def _linear_weights(angles: np.ndarray, box: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows (kz, kx), columns (tilt, x') and weights of the insertion matrix for samples x' >= 0."""
        half = box // 2 + 1
        sample = np.arange(half, dtype=np.float64)
        # samples on x' = 0 are their own mates and will be counted twice
        share = np.where(sample == 0, 0.5, 1.0)
        kx = sample * np.cos(angles)[:, None]
        kz = -sample * np.sin(angles)[:, None]
        column = np.arange(kx.size).reshape(kx.shape)
        rows, columns, weights = [], [], []
        for step_x in (0, 1):
            for step_z in (0, 1):
                grid_x, grid_z = np.floor(kx) + step_x, np.floor(kz) + step_z
                weight = (1 - np.abs(kx - grid_x)) * (1 - np.abs(kz - grid_z)) * share
                inside = (weight > 1e-7) & (grid_x < half) & (np.abs(grid_z) <= box // 2)
                rows.append(((grid_z % box) * half + grid_x)[inside].astype(np.int64))
                columns.append(column[inside])
                weights.append(weight[inside])
        return np.concatenate(rows), np.concatenate(columns), np.concatenate(weights)

    def _add_mates(self, grid: Tensor) -> Tensor:
        """Add to the plane kx = 0 what the conjugate half x' < 0 of every slice puts there."""
        plane = grid[..., 0]
        mate = torch.roll(torch.flip(plane, (-2, -1)), (1, 1), (-2, -1)).conj()
        return torch.cat([(plane + mate)[..., None], grid[..., 1:]], -1)

    def insert(self, slices: Tensor) -> Tensor:
        """Subtomograms from slices.

        Parameters
        ----------
        slices
            Complex (B, T, D, D//2 + 1), native FFT order, phases counted from the box centre.

        Returns
        -------
        Real tensor (B, D, D, D), axes z, y, x, centre at voxel D/2. Full coverage by noise-free slices of a
        density gives that density back.
        """
        batch, tilts, box, half = slices.shape
        if (tilts, box) != (self.n_tilts, self.box):
            raise ValueError(f"expected {self.n_tilts} slices of box {self.box}, not {tilts} of {box}")
        columns = torch.view_as_real(slices).permute(1, 3, 0, 2, 4).reshape(tilts * half, -1)
        summed = (self._matrix @ columns).reshape(box, half, batch, box, 2).permute(2, 0, 3, 1, 4)
        grid = self._add_mates(torch.view_as_complex(summed.contiguous())) * self._factor
        return torch.fft.fftshift(torch.fft.irfftn(grid, s=(box, box, box), dim=(1, 2, 3)), dim=(1, 2, 3))
