"""Transforms, crops and shifts of centered boxes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from opustomo.physics.fourier import (
    crop_center,
    crop_spectrum,
    frequencies,
    half_spectrum_weights,
    irfft3,
    pad_center,
    rfft3,
    shift_phases,
    squared_radius,
)

DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])


def waves(size: int, center: int, spacing: float) -> torch.Tensor:
    """Sum of plane waves of up to 5 periods a box of 32, sampled about the center voxel; float64."""
    rng = np.random.default_rng(0)
    at = (np.arange(size) - center) * spacing
    z, y, x = np.meshgrid(at, at, at, indexing="ij")
    total = np.zeros((size,) * 3)
    for _ in range(6):
        kz, ky, kx = rng.integers(-5, 6, 3)
        total += rng.normal() * np.cos(2 * np.pi * (kx * x + ky * y + kz * z) / 32 + rng.uniform(0, 6))
    return torch.from_numpy(total)


@DEVICES
@pytest.mark.parametrize("size", [12, 16, 24, 30, 32])
def test_cropping_the_spectrum_resamples_the_volume(size: int, device: str) -> None:
    """Values and center stay: voxel 16 of 32 becomes voxel size/2."""
    full = waves(32, 16, 1.0).to(device)
    small = irfft3(crop_spectrum(rfft3(full), size)).cpu()
    assert torch.allclose(small, waves(size, size // 2, 32 / size), atol=1e-10)


def test_cropping_keeps_the_mean() -> None:
    volumes = torch.rand(2, 16, 16, 16, dtype=torch.float64)
    small = irfft3(crop_spectrum(rfft3(volumes), 10))
    assert torch.allclose(small.mean((1, 2, 3)), volumes.mean((1, 2, 3)))


def test_cropping_to_the_same_size_changes_nothing() -> None:
    spectra = rfft3(torch.rand(2, 8, 8, 8))
    assert torch.equal(crop_spectrum(spectra, 8), spectra)


@pytest.mark.parametrize("size", [18, 7])
def test_cropping_to_a_larger_or_odd_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="cannot crop"):
        crop_spectrum(rfft3(torch.rand(1, 16, 16, 16)), size)


def test_transform_and_back() -> None:
    volumes = torch.rand(2, 3, 10, 10, 10, dtype=torch.float64)
    assert torch.allclose(irfft3(rfft3(volumes)), volumes)


@DEVICES
@pytest.mark.parametrize("shift", [(3, 0, 0), (0, -2, 0), (0, 0, 5), (-1, 4, 7)])
def test_whole_pixel_shifts_are_rolls(shift: tuple[int, int, int], device: str) -> None:
    """Content moves by +shift; x, y, z in the argument, z, y, x on the axes."""
    volumes = torch.rand(1, 12, 12, 12, dtype=torch.float64, device=device)
    phases = shift_phases(torch.tensor([shift], dtype=torch.float64, device=device), 12, 12)
    moved = irfft3(rfft3(volumes) * phases)
    assert torch.allclose(moved, torch.roll(volumes, shift[::-1], (1, 2, 3)))


def test_shifts_are_in_pixels_of_the_uncropped_box() -> None:
    """Two pixels of 32 are one pixel of 16; the same particle is found whether cropped or shifted first."""
    full = waves(32, 16, 1.0)[None]
    shift = torch.tensor([[2.0, -4.0, 6.0]], dtype=torch.float64)
    first_cropped = irfft3(crop_spectrum(rfft3(full), 16) * shift_phases(shift, 32, 16))
    assert torch.allclose(first_cropped, torch.roll(waves(16, 8, 2.0)[None], (3, -2, 1), (1, 2, 3)), atol=1e-10)


def test_shifts_by_fractions_of_a_pixel() -> None:
    at = (torch.arange(16, dtype=torch.float64) - 8)[None, None, :].expand(16, 16, 16)
    wave = torch.cos(2 * torch.pi * 3 * at / 16)
    moved = irfft3(rfft3(wave[None]) * shift_phases(torch.tensor([[0.3, 0.0, 0.0]], dtype=torch.float64), 16, 16))
    assert torch.allclose(moved[0], torch.cos(2 * torch.pi * 3 * (at - 0.3) / 16))


def test_each_particle_gets_its_own_shift() -> None:
    shifts = torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.0, 2.5]])
    both = shift_phases(shifts, 16, 8)
    assert both.dtype == torch.complex64
    assert both.shape == (2, 8, 8, 5)
    assert torch.equal(both[1], shift_phases(shifts[1:], 16, 8)[0])


@pytest.mark.parametrize("size", [6, 8])
def test_half_spectrum_weights_count_every_frequency_once(size: int) -> None:
    """Parseval: Σ y² = Σ |F|² / D³."""
    volumes = torch.randn(size, size, size, dtype=torch.float64)
    weights = half_spectrum_weights(size)
    power = (rfft3(volumes).abs().square() * weights).sum() / size**3
    assert float(power) == pytest.approx(float(volumes.square().sum()))
    assert float(weights.sum()) == size


def test_frequencies_are_those_of_numpy() -> None:
    kz, ky, kx = frequencies(10)
    expected = np.fft.fftfreq(10) * 10
    assert kz.shape == (10, 1, 1)
    assert np.allclose(kz.flatten(), expected)
    assert np.allclose(ky.flatten(), expected)
    assert np.allclose(kx.flatten(), np.fft.rfftfreq(10) * 10)
    radius2 = squared_radius(10)
    assert radius2.shape == (10, 10, 6)
    assert float(radius2[-3, 2, 4]) == pytest.approx((9 + 4 + 16) / 100)


@pytest.mark.parametrize(("small", "large"), [(8, 12), (8, 14), (10, 12), (8, 8)])
def test_padding_and_cropping_are_inverse_and_keep_the_center(small: int, large: int) -> None:
    volumes = torch.rand(2, small, small, small)
    padded = pad_center(volumes, large)
    assert padded.shape == (2, large, large, large)
    assert torch.equal(padded[:, large // 2, large // 2, large // 2], volumes[:, small // 2, small // 2, small // 2])
    assert float(padded.sum()) == pytest.approx(float(volumes.sum()), rel=1e-5)
    assert torch.equal(crop_center(padded, small), volumes)
