"""FSC compared with its definition in NumPy, closed formulas and phase randomization."""

import math

import numpy as np
import pytest
import torch

from opustomo.physics.fsc import (
    ShellCorrelation,
    half_map_correlation,
    randomize_phases,
    resolution_A,
    shell_correlation,
)

SIZE, APIX = 24, 5.0


def noise(seed: int, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(size,) * 3)


def smooth(volume: np.ndarray, width: float) -> np.ndarray:
    k = np.fft.fftfreq(volume.shape[0])
    k2 = k[:, None, None] ** 2 + k[:, None] ** 2 + k**2
    return np.fft.ifftn(np.fft.fftn(volume) * np.exp(-k2 * width)).real


def ball(radius: float) -> np.ndarray:
    at = np.arange(SIZE) - SIZE // 2
    distance = np.sqrt(at[:, None, None] ** 2 + at[:, None] ** 2 + at**2)
    return np.clip(radius + 0.5 - distance, 0.0, 1.0)


def fsc_by_definition(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Over the full spectrum, shell by shell."""
    one, two = np.fft.fftn(a), np.fft.fftn(b)
    k = np.fft.fftfreq(len(a), 1 / len(a))
    shell = np.round(np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2))
    curve = []
    for s in range(len(a) // 2 + 1):
        x, y = one[shell == s], two[shell == s]
        curve.append((x * y.conj()).sum().real / math.sqrt((abs(x) ** 2).sum() * (abs(y) ** 2).sum()))
    return np.array(curve)


def test_fsc_is_what_its_definition_says() -> None:
    a = noise(0)
    b = a + 0.8 * noise(1)
    found = shell_correlation(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    np.testing.assert_allclose(found, fsc_by_definition(a, b), atol=1e-12)
    assert found[3:].mean() == pytest.approx(1 / math.sqrt(1 + 0.64), abs=0.03)


def test_fsc_knows_neither_scale_nor_an_empty_shell() -> None:
    a = torch.from_numpy(noise(2))
    np.testing.assert_allclose(shell_correlation(a, 3.0 * a).numpy(), 1.0)
    np.testing.assert_allclose(shell_correlation(a, -a).numpy(), -1.0)
    assert (shell_correlation(a, torch.zeros_like(a)) == 0).all()


@pytest.mark.parametrize("shape", [(8, 8, 10), (9, 9, 9)])
def test_only_even_cubes(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="even size"):
        shell_correlation(torch.zeros(shape), torch.zeros(shape))


def test_resolution_lies_between_the_shells() -> None:
    curve = torch.tensor([1.0, 1.0, 0.9, 0.5, 0.1, 0.4, 0.0])
    frequencies = torch.arange(7) / 120.0
    assert resolution_A(curve, frequencies, 0.5) == pytest.approx(40.0)  # not below at shell 3 itself
    assert resolution_A(curve, frequencies, 0.3) == pytest.approx(120 / 3.5)
    assert resolution_A(curve, frequencies, -1.0) == pytest.approx(20.0)
    assert math.isinf(resolution_A(torch.tensor([1.0, 0.0, 1.0]), frequencies[:3], 0.143))


def test_random_phases_keep_amplitudes_and_low_frequencies() -> None:
    volume = torch.from_numpy(noise(3))
    changed = randomize_phases(volume, 5, torch.Generator().manual_seed(0))
    before, after = np.fft.fftn(volume.numpy()), np.fft.fftn(changed.numpy())
    curve = shell_correlation(volume, changed).numpy()
    np.testing.assert_allclose(abs(after), abs(before), rtol=1e-9)
    np.testing.assert_allclose(curve[:5], 1.0)
    assert abs(curve[6:]).max() < 0.25


def test_a_mask_alone_correlates_noise_and_the_correction_takes_that_away() -> None:
    signal, mask = 40.0 * smooth(noise(4), 300.0) * ball(5.0), torch.from_numpy(ball(5.0))
    halves = [torch.from_numpy(signal + noise(seed)) for seed in (5, 6)]
    curve = half_map_correlation(halves[0], halves[1], APIX, mask)
    assert curve.masked is not None and curve.randomized is not None and curve.randomized_from is not None
    expected = (curve.masked - curve.randomized) / (1 - curve.randomized)
    beyond = curve.randomized_from + 2
    np.testing.assert_allclose(curve.corrected[beyond:], expected[beyond:])
    np.testing.assert_allclose(curve.corrected[:beyond], curve.masked[:beyond])
    # the mask takes away noise, so that the signal reaches further than without
    assert curve.resolution_A(0.5) < ShellCorrelation(SIZE, APIX, curve.unmasked).resolution_A(0.5)
    assert abs(float(curve.corrected[8:].mean())) < 0.15


def test_noise_under_a_tight_mask_has_no_resolution() -> None:
    mask = torch.from_numpy(ball(3.0))
    shared = 5.0 * mask  # the halves agree in nothing but a blob of the mask's shape
    halves = [shared + torch.from_numpy(noise(seed)) * 0.3 for seed in (7, 8)]
    curve = half_map_correlation(halves[0], halves[1], APIX, mask)
    assert curve.masked is not None
    assert float(curve.masked[4:].mean()) > float(curve.corrected[4:].mean())


def test_without_a_mask_the_curve_is_the_plain_one() -> None:
    a, b = torch.from_numpy(noise(9)), torch.from_numpy(noise(10))
    curve = half_map_correlation(a, b, APIX)
    assert curve.masked is None and torch.equal(curve.corrected, curve.unmasked)
    np.testing.assert_allclose(curve.frequencies.numpy(), np.arange(13) / (24 * 5.0))
