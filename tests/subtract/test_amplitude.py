import torch

from opustomo.physics.fourier import crop_spectrum, irfft3, pad_spectrum, rfft3
from opustomo.physics.fsc import measured_shells
from opustomo.subtract.predicted_signal import ShellSums, particle_factors, shrink_factors

BOX = 16


def spectra(seed: int, count: int = 12) -> torch.Tensor:
    return rfft3(torch.randn(count, BOX, BOX, BOX, generator=torch.Generator().manual_seed(seed)))


def test_factors_of_shells_are_recovered() -> None:
    predicted, noise = spectra(0), 0.3 * spectra(1)
    true = torch.linspace(0.5, 1.5, BOX // 2 + 1)
    shells = measured_shells(BOX, torch.device("cpu"))
    sums = ShellSums.empty(BOX, torch.device("cpu"))
    sums.add(predicted[:5], predicted[:5] * true[shells] + noise[:5])
    sums.add(predicted[5:], predicted[5:] * true[shells] + noise[5:])
    torch.testing.assert_close(sums.factors()[1:], true[1:], atol=0.05, rtol=0)
    # the noise has the power 0.09 · BOX³ per coefficient
    torch.testing.assert_close(sums.noise()[2:], torch.full((BOX // 2 - 1,), 0.09 * BOX**3), rtol=0.15, atol=0)


def test_factors_of_particles_are_shrunk_by_their_noise() -> None:
    predicted = spectra(2)
    true = torch.linspace(0.6, 1.4, 12)
    level = torch.full((BOX // 2 + 1,), 0.01 * BOX**3)
    factors, variances = particle_factors(predicted, predicted * true.view(-1, 1, 1, 1) + 0.1 * spectra(3), level)
    torch.testing.assert_close(factors, true, atol=0.02, rtol=0)
    torch.testing.assert_close(shrink_factors(factors, variances), true, atol=0.02, rtol=0)
    equal = 1.0 + 0.1 * torch.randn(500, generator=torch.Generator().manual_seed(4))
    assert (shrink_factors(equal, torch.full((500,), 0.0105)) - 1.0).abs().max() < 0.06, "only noise: all factors are 1"


def test_padding_reverses_cropping() -> None:
    small = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(5))
    small = irfft3(rfft3(small) * (measured_shells(8, torch.device("cpu")) < 4))  # without the Nyquist frequency
    large = pad_spectrum(rfft3(small), BOX)
    torch.testing.assert_close(irfft3(crop_spectrum(large, 8)), small, atol=1e-5, rtol=0)
    torch.testing.assert_close(irfft3(large)[:, ::2, ::2, ::2], small, atol=1e-5, rtol=0)
