"""CTF-weighted back-projection of subtomograms in Fourier space.

A posed density is y(x) = V(Aᵀ x), so its spectrum is Ŷ(k) = V̂(Aᵀ k), and V̂(k) = Ŷ(A k). Spectra are interpolated
trilinearly on a grid of twice the sampling (the box is padded with zeros). Trilinear interpolation attenuates the
density towards the edge of the box by sinc² along each axis, which is corrected before the transform. The remaining
error is 2 % (rms) for density at two fifths of the distance to the edge."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from opustomo.physics.fourier import crop_center, frequencies, irfft3, pad_center, rfft3, shift_phases

INTERPOLATION_PADDING = 2


def sphere_frequencies(size: int, device: torch.device | str | None = None, padding: int = 1) -> tuple[Tensor, Tensor]:
    """Return the frequencies up to Nyquist of a box of `size` voxels on the grid of a box `padding` times as large.

    Returns
    -------
    indices : Tensor, (M,)
        Flat indices into the half spectrum of the larger box.
    points : Tensor, (M, 3)
        Frequencies k (x, y, z) in Fourier voxels of the box of `size`, which are multiples of 1/padding.
    """
    fine = padding * size
    kz, ky, kx = (k.expand(fine, fine, fine // 2 + 1) / padding for k in frequencies(fine, device))
    inside = (kx**2 + ky**2 + kz**2) <= (size / 2) ** 2
    return inside.flatten().nonzero().flatten(), torch.stack([kx[inside], ky[inside], kz[inside]], -1)


def interpolation_attenuation(size: int, device: torch.device | str | None = None) -> Tensor:
    """Return the attenuation (D,) along one axis of a box of `size` by linear interpolation on the padded grid."""
    at = (torch.arange(size, device=device, dtype=torch.float32) - size // 2) / (INTERPOLATION_PADDING * size)
    return torch.sinc(at).square()


def interpolate_rotated(spectra: Tensor, rotations: Tensor, points: Tensor) -> Tensor:
    """Interpolate spectra at rotated frequencies.

    Parameters
    ----------
    spectra
        Half spectra in FFT order with phases about voxel D/2 (see :mod:`opustomo.physics.fourier`),
        (B, D, D, D/2+1).
    rotations
        RELION rotation matrices A, (B, 3, 3).
    points
        Frequencies k (x, y, z) in Fourier voxels, (M, 3).

    Returns
    -------
    Tensor, complex, (B, M)
        Spectrum at A k with phases about the center of rotation.
    """
    size = spectra.shape[-2]
    attenuation = interpolation_attenuation(size, spectra.device)
    volumes = irfft3(spectra) / (attenuation[:, None, None] * attenuation[:, None] * attenuation)
    padded = torch.fft.ifftshift(pad_center(volumes, INTERPOLATION_PADDING * size), dim=(-3, -2, -1))
    fine = rfft3(padded)
    values, mirrored = _interpolate(torch.view_as_real(fine).movedim(-1, 1), rotations, INTERPOLATION_PADDING * points)
    return torch.complex(values[:, 0], torch.where(mirrored, -values[:, 1], values[:, 1]))


def interpolate_rotated_weights(weights: Tensor, rotations: Tensor, points: Tensor) -> Tensor:
    """Interpolate real, even half spectra (B, D, D, D/2+1) trilinearly at A k and return the values, (B, M).

    Trilinear interpolation preserves non-negative values.
    """
    return _interpolate(weights[:, None], rotations, points)[0][:, 0]


def _interpolate(channels: Tensor, rotations: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Interpolate half spectra at rotated frequencies.

    Parameters
    ----------
    channels
        Half spectra, (B, C, n, n, n/2+1).
    rotations
        RELION rotation matrices A, (B, 3, 3).
    points
        Frequencies k (x, y, z) in Fourier voxels, (M, 3).

    Returns
    -------
    values : Tensor, (B, C, M)
        Interpolated values at A k, or at -A k where `mirrored` is True.
    mirrored : Tensor, bool, (B, M)
        Whether the value at -A k was read, of which the value at A k is the complex conjugate.
    """
    half = channels.shape[-1] - 1
    rotated = torch.einsum("bij,mj->bmi", rotations, points)
    mirrored = rotated[..., 0] < 0  # only kx >= 0 is stored; the value at -k is the conjugate
    rotated = torch.where(mirrored[..., None], -rotated, rotated)
    # Order the frequencies -n/2 … n/2 so that the grid ends at ±1; the plane at +n/2 equals the plane at -n/2.
    shifted = torch.fft.fftshift(channels, dim=(-3, -2))
    shifted = torch.cat([shifted, shifted[..., :1, :, :]], -3)
    shifted = torch.cat([shifted, shifted[..., :1, :]], -2)
    scale = rotated.new_tensor([2.0 / half, 1.0 / half, 1.0 / half])
    grid = (rotated * scale - rotated.new_tensor([1.0, 0.0, 0.0]))[:, None, None]
    values = functional.grid_sample(shifted, grid.to(shifted), align_corners=True)[:, :, 0, 0]
    return values, mirrored


REGULARIZATION = 0.1
"""Regularization added to the weights, relative to their shell average; it damps poorly sampled voxels."""
PADDING = 2
"""Padding factor of the box in which sums are accumulated; the reconstruction is cropped.

Weights that vary between voxels spread noise beyond the box, which aliases into the box without padding. For 267
experimental ribosomes (box 48), padding increases the mean shell correlation with the atomic model within the largest
sphere from 0.701 to 0.723. Within the mask of the particle, the correlations agree within 0.002.
"""


class Backprojection:
    """Weighted sums Σ c·Y and Σ c² in the reference frame for one or more sets of particles.

    Parameters
    ----------
    box
        Box size D of the subtomograms in voxels.
    sums
        Number of sums.
    device
        Device of the sums.
    padding
        Padding factor, see ``PADDING``. The memory of the sums grows with its third power.
    """

    def __init__(self, box: int, sums: int, device: torch.device | str, padding: int = PADDING) -> None:
        self.box, self.padding, self.device = box, padding, torch.device(device)
        self.left_out: dict[int, str] = {}
        """Reason for each excluded particle, by particle index."""
        self._indices, self._points = sphere_frequencies(box, self.device, padding)
        self._signal = torch.zeros(sums, len(self._points), dtype=torch.complex64, device=self.device)
        self._weight = torch.zeros(sums, len(self._points), device=self.device)
        self._counts = torch.zeros(sums, dtype=torch.long, device=self.device)

    @torch.no_grad()
    def add(self, volumes: Tensor, ctf: Tensor, rotations: Tensor, origins_px: Tensor, members: Tensor) -> None:
        """Add a batch of subtomograms.

        Parameters
        ----------
        volumes
            Subtomograms, (B, D, D, D).
        ctf
            3D CTFs in the frames of the subtomograms, (B, D, D, D/2+1).
        rotations, origins_px
            RELION rotation matrices A, (B, 3, 3), and shifts that center the particles in voxels, (B, 3).
        members
            Index of the sum to which each subtomogram is added, one row per division of the particles; -1 for none,
            (S, B).
        """
        spectra = rfft3(volumes) * shift_phases(origins_px, self.box, self.box)
        self.add_interpolated(self.interpolated(spectra, rotations), ctf, rotations, members)

    @torch.no_grad()
    def interpolated(self, spectra: Tensor, rotations: Tensor) -> Tensor:
        """Return centered spectra (B, D, D, D/2+1) in the reference frame, as :meth:`add_interpolated` takes them."""
        return interpolate_rotated(spectra, rotations, self._points)

    @torch.no_grad()
    def add_interpolated(self, signal: Tensor, ctf: Tensor, rotations: Tensor, members: Tensor) -> None:
        """Add spectra that :meth:`interpolated` has returned; other arguments as in :meth:`add`."""
        # Interpolate CTF and spectrum separately: their product extends beyond the box and would alias.
        transfer = interpolate_rotated_weights(ctf, rotations, self._points)
        signal = signal * transfer
        weight = transfer.square()
        for row in members:
            inside = row >= 0
            if inside.any():
                self._signal.index_add_(0, row[inside], signal[inside])
                self._weight.index_add_(0, row[inside], weight[inside])
                self._counts.index_add_(0, row[inside], torch.ones_like(row[inside]))

    def add_up(self, total: Callable[[Tensor], Tensor]) -> None:
        """Replace all sums by their totals over several processes, each of which has added its own particles."""
        self._signal = torch.view_as_complex(total(torch.view_as_real(self._signal)))
        self._weight, self._counts = total(self._weight), total(self._counts)

    def count(self, *sums: int) -> int:
        """Return the total number of particles in the given sums."""
        return int(self._counts[list(sums)].sum())

    def volume(self, *sums: int) -> Tensor:
        """Reconstruct a volume (D, D, D) on the CPU from the union of the given sums; zeros without particles.

        The reconstruction is ``V̂ = Σ c·Y / (Σ c² + r)``, where r is 0.1 times the shell average of Σ c². This is a
        Wiener filter for a signal-to-noise ratio of ten in an average voxel of the shell.
        """
        signal, weight = self._signal[list(sums)].sum(0), self._weight[list(sums)].sum(0)
        shells = self._points.norm(dim=1).round().long()
        number = torch.bincount(shells).clamp(min=1)
        mean = torch.zeros(len(number), device=self.device).index_add_(0, shells, weight) / number
        regularization = (REGULARIZATION * mean[shells]).clamp(min=torch.finfo(torch.float32).tiny)
        size = self.padding * self.box
        spectrum = torch.zeros(size * size * (size // 2 + 1), dtype=torch.complex64, device=self.device)
        spectrum[self._indices] = signal / (weight + regularization)
        centered = torch.fft.fftshift(irfft3(spectrum.view(size, size, -1)))
        return crop_center(centered, self.box).clone().cpu()
