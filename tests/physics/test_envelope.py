"""B-factor envelopes at single frequencies."""

from __future__ import annotations

import math

import pytest
import torch

from opustomo.physics.ctf import model_envelope, sharpening
from opustomo.physics.fourier import irfft3, rfft3

SIZE = 16
FREQUENCIES = [(0, 0, 0), (0, 0, 5), (0, 4, 0), (3, 0, 0), (-3, 2, 0), (2, -3, 4), (-6, 1, 2), (5, 5, 5), (-8, 0, 8)]


@pytest.mark.parametrize(("kz", "ky", "kx"), FREQUENCIES)
@pytest.mark.parametrize("b", [0.4, -0.3])
def test_sharpening(kz: int, ky: int, kx: int, b: float) -> None:
    k2 = (kz**2 + ky**2 + kx**2) / SIZE**2
    factor = sharpening(SIZE, torch.tensor([0.1, b], dtype=torch.float64))
    assert float(factor[1, kz, ky, kx]) == pytest.approx(math.exp(math.pi**2 * b * k2))


@pytest.mark.parametrize(("kz", "ky", "kx"), FREQUENCIES)
def test_model_envelope_damps_by_tilt(kz: int, ky: int, kx: int) -> None:
    b = 0.7
    k2 = (kz**2 + ky**2 + kx**2) / SIZE**2
    expected = math.exp(-(math.pi**2) * b / 2 * k2) * math.exp(-(math.pi**2) * b / 2 * k2 * abs(math.atan2(kz, kx)))
    envelope = model_envelope(SIZE, torch.tensor([0.1, b], dtype=torch.float64))
    assert float(envelope[1, kz, ky, kx]) == pytest.approx(expected)


def test_no_bfactor_changes_nothing() -> None:
    ones = torch.ones(1, SIZE, SIZE, SIZE // 2 + 1)
    assert torch.equal(sharpening(SIZE, torch.zeros(1)), ones)
    assert torch.equal(model_envelope(SIZE, torch.zeros(1)), ones)


def test_blurring_a_gaussian_widens_it() -> None:
    """exp(-π² b k²) is the transform of a Gaussian of variance b/2 voxels²."""
    axis = torch.arange(32, dtype=torch.float64) - 16
    r2 = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2
    variance, b = 4.0, 3.0
    narrow = torch.exp(-0.5 * r2 / variance)
    blurred = irfft3(rfft3(narrow[None]) * sharpening(32, torch.tensor([-b], dtype=torch.float64)))[0]
    wide = variance + b / 2
    expected = torch.exp(-0.5 * r2 / wide) * (variance / wide) ** 1.5
    assert torch.allclose(blurred, expected, atol=1e-5)


def test_sharpening_undoes_two_untilted_model_envelopes() -> None:
    """On kz = 0 the model side has b/2; the data side's -b makes up for that of data and model together."""
    b = torch.tensor([1.3], dtype=torch.float64)
    product = sharpening(SIZE, b) * model_envelope(SIZE, b) ** 2
    assert torch.allclose(product[:, 0], torch.ones_like(product[:, 0]))
