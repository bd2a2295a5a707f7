"""Noise spectrum estimated from residuals of known noise, also with a mask and a missing wedge."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import norm

from opustomo.model.residual_spectra import NoiseSums, profile_likelihood, residual_sums, whitening
from opustomo.physics.fourier import frequencies, half_spectrum_weights, irfft3, rfft3
from opustomo.physics.fsc import measured_shells, shell_numbers

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


def test_the_likelihood_is_that_of_gaussian_noise() -> None:
    """Against the density of SciPy at the best variances, whose exponents add the same constant for all residuals."""
    spectra = colored(torch.Generator().manual_seed(4))
    measured = torch.ones(COUNT, SIZE, SIZE, SIZE // 2 + 1)
    shells, twice = measured_shells(SIZE).flatten(), half_spectrum_weights(SIZE).expand(SIZE, SIZE, -1).flatten()

    def plain(found: torch.Tensor) -> float:
        squares = (found.abs().square().double() / SIZE**3).mean(0).flatten()
        total = 0.0
        for shell in shells.unique():
            inside = shells == shell
            variance = float((squares * twice)[inside].sum() / twice[inside].sum())
            total -= COUNT * float(twice[inside].sum()) * norm.logpdf(variance**0.5, scale=variance**0.5)
        return total

    sums, smaller = (residual_sums(scale * spectra, measured, torch.ones(COUNT), None) for scale in (1.0, 0.9))
    constant = 0.5 * COUNT * SIZE**3 * (1.0 + math.log(2.0 * math.pi))
    assert float(profile_likelihood(sums)) + constant == pytest.approx(plain(spectra), rel=1e-4)
    gained = float(profile_likelihood(sums) - profile_likelihood(smaller))
    assert gained == pytest.approx(-COUNT * SIZE**3 * math.log(0.9), rel=1e-3)
    empty = sums._replace(power=torch.zeros_like(sums.power), voxels=torch.zeros_like(sums.voxels))
    assert float(profile_likelihood(empty)) == 0.0
