"""Noise spectrum estimated from residuals of known noise, also with a mask and a missing wedge."""

from __future__ import annotations

import pytest
import torch

from opustomo.model.residual_spectra import NoiseSums, residual_sums, whitening
from opustomo.physics.fourier import frequencies, irfft3, rfft3
from opustomo.physics.fsc import shell_numbers

SIZE, COUNT = 24, 64


def colored(generator: torch.Generator) -> torch.Tensor:
    """Noise whose standard deviation falls from 3 at the origin to 1 at Nyquist."""
    shells = shell_numbers(SIZE).clamp(max=SIZE // 2)
    return rfft3(torch.randn(COUNT, SIZE, SIZE, SIZE, generator=generator)) * (3.0 - 2.0 * shells / (SIZE / 2))


def test_variance_per_shell_is_that_of_the_noise() -> None:
    spectra = colored(torch.Generator().manual_seed(0))
    measured = torch.ones(COUNT, SIZE, SIZE, SIZE // 2 + 1)
    sums = residual_sums(spectra, measured, torch.ones(COUNT), None)
    expected = (3.0 - 2.0 * torch.arange(SIZE // 2 + 1) / (SIZE / 2)) ** 2
    torch.testing.assert_close(sums.variance[1:], expected[1:], rtol=0.1, atol=0)
    assert float(sums.voxels.sum()) == COUNT * SIZE**3
    total = float(sums.power.sum() / sums.voxels.sum())
    assert total == pytest.approx(float(irfft3(spectra).square().mean()), rel=1e-4)
    weighted = float((sums.power * sums.variance).sum() / sums.power.sum())
    assert total < float(sums.reference_variance) == pytest.approx(weighted, rel=1e-5)


def test_wedge_and_mask_do_not_count() -> None:
    """White noise of variance 4, measured in a part of Fourier space, seen through a mask of half the box."""
    generator = torch.Generator().manual_seed(1)
    kz, _, kx = frequencies(SIZE)
    inside = (kz.abs() <= 1.5 * kx.abs()).float().expand(COUNT, SIZE, SIZE, -1)
    noise = irfft3(rfft3(2.0 * torch.randn(COUNT, SIZE, SIZE, SIZE, generator=generator)) * inside)
    mask = (torch.arange(SIZE) < SIZE // 2).float().expand(COUNT, SIZE, SIZE, SIZE)
    sums = residual_sums(rfft3(noise * mask), inside, mask.square().mean((1, 2, 3)), None)
    assert float(sums.reference_variance) == pytest.approx(4.0, rel=0.05)


def test_particles_without_weight_are_left_out() -> None:
    spectra = colored(torch.Generator().manual_seed(2))[:2]
    spectra[1] = 1e6
    measured = torch.ones(2, SIZE, SIZE, SIZE // 2 + 1)
    one = residual_sums(spectra[:1], measured[:1], torch.ones(1), None)
    both = residual_sums(spectra, measured, torch.ones(2), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(both, one)


def test_whitened_noise_is_white() -> None:
    spectra = colored(torch.Generator().manual_seed(3))
    measured = torch.ones(COUNT, SIZE, SIZE, SIZE // 2 + 1)
    sums = residual_sums(spectra, measured, torch.ones(COUNT), None)
    white = residual_sums(spectra * whitening(sums, SIZE), measured, torch.ones(COUNT), None)
    flat = white.power / white.voxels
    torch.testing.assert_close(flat, sums.reference_variance.expand_as(flat), rtol=1e-3, atol=0)


def test_unknown_noise_is_white() -> None:
    ones = torch.ones(SIZE // 2 + 1)
    assert torch.equal(whitening(NoiseSums(ones, ones), SIZE), torch.ones(SIZE, SIZE, SIZE // 2 + 1))
