"""Fourier shell correlation (FSC) of two volumes, with and without a mask, and the resolution derived from it.

Shell s contains the frequencies with |k| rounded to s Fourier voxels. The last shell is Nyquist, D/2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from opustomo.physics.fourier import half_spectrum_weights, irfft3, rfft3, squared_radius

FSC_THRESHOLD, CONSERVATIVE_THRESHOLD = 0.143, 0.5
"""FSC of independent half maps at which the resolution is stated (Rosenthal & Henderson 2003), and a stricter one."""
RANDOMIZE_BELOW = 0.8
"""FSC without mask below which phases are randomized, as in RELION."""
UNCORRECTED_SHELLS = 2
"""Number of shells from the first randomized one in which the masked FSC is not corrected."""


@dataclass(frozen=True)
class ShellCorrelation:
    """FSC curves of two half maps, one float64 value per shell, (D/2 + 1,).

    Attributes
    ----------
    box, apix
        Box size D in voxels, pixel size in Å.
    unmasked
        FSC without mask.
    masked, randomized
        FSC with mask, for the original half maps and after phase randomization; None without mask.
    randomized_from
        First shell with randomized phases.
    """

    box: int
    apix: float
    unmasked: Tensor
    masked: Tensor | None = None
    randomized: Tensor | None = None
    randomized_from: int | None = None

    @property
    def frequencies(self) -> Tensor:
        """Spatial frequency of each shell in 1/Å."""
        return torch.arange(len(self.unmasked), dtype=torch.float64) / (self.box * self.apix)

    @property
    def corrected(self) -> Tensor:
        """FSC corrected for the correlation that the mask introduces: ``(FSC_m - FSC_r) / (1 - FSC_r)``.

        See Chen et al., Ultramicroscopy 135 (2013) 24. The result is FSC_m up to two shells beyond the first randomized
        one, and the FSC without mask if there is none.
        """
        if self.masked is None or self.randomized is None or self.randomized_from is None:
            return self.unmasked
        first = self.randomized_from + UNCORRECTED_SHELLS
        corrected = (self.masked - self.randomized) / (1.0 - self.randomized).clamp(min=1e-3)
        shell = torch.arange(len(self.masked))
        return torch.where(shell < first, self.masked, corrected)

    def resolution_A(self, threshold: float = FSC_THRESHOLD) -> float:
        """Return the resolution in Å at which the corrected FSC first falls below ``threshold``."""
        return resolution_A(self.corrected, self.frequencies, threshold)

    def reaches_nyquist(self, threshold: float = FSC_THRESHOLD) -> bool:
        """Return whether the corrected FSC stays above ``threshold`` up to the last shell."""
        return bool((self.corrected[1:] >= threshold).all())


def shell_numbers(size: int, device: torch.device | str | None = None) -> Tensor:
    """Return the shell of each voxel of a half spectrum, int64, (D, D, D/2+1); corners have shells above D/2."""
    return (squared_radius(size, device).double().sqrt() * size).round().long()


def measured_shells(size: int, device: torch.device | str | None = None) -> Tensor:
    """Return :func:`shell_numbers` with the corners beyond Nyquist counted to the last shell, D/2."""
    return shell_numbers(size, device).clamp(max=size // 2)


def shell_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return the FSC of two real volumes (D, D, D), D even: float64, (D/2 + 1,); 0 in shells without signal."""
    if first.shape != second.shape or first.ndim != 3 or len(set(first.shape)) != 1 or first.shape[0] % 2:
        raise ValueError(
            f"expected two cubes of the same even size, got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    return spectra_correlation(rfft3(first.double()), rfft3(second.double()))


def spectra_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return the FSC of two half spectra (D, D, D/2+1), see :func:`shell_correlation`."""
    size = first.shape[0]
    shells = shell_numbers(size, first.device).flatten()
    weight = half_spectrum_weights(size, first.device).double().expand(size, size, -1)

    def summed(values: Tensor) -> Tensor:
        total = torch.zeros(int(shells.max()) + 1, dtype=torch.float64, device=first.device)
        return total.index_add_(0, shells, (values * weight).flatten())[: size // 2 + 1]

    cross = summed((first * second.conj()).real.double())
    powers = summed(first.abs().double().square()) * summed(second.abs().double().square())
    return torch.where(powers > 0, cross / powers.clamp(min=torch.finfo(torch.float64).tiny).sqrt(), 0.0).cpu()


def half_map_correlation(
    first: Tensor, second: Tensor, apix: float, mask: Tensor | None = None, seed: int = 0
) -> ShellCorrelation:
    """Compute the FSC of two half maps (D, D, D).

    With a mask (D, D, D), the result also contains the masked FSC and its correction by phase randomization, with
    random phases determined by ``seed``.
    """
    one, two = first.double(), second.double()
    unmasked = shell_correlation(one, two)
    box = first.shape[0]
    if mask is None:
        return ShellCorrelation(box, apix, unmasked)
    if mask.shape != first.shape:
        raise ValueError(f"the mask is {tuple(mask.shape)} but the volumes are {tuple(first.shape)}")
    soft = mask.double()
    below = torch.nonzero(unmasked[1:] < RANDOMIZE_BELOW).flatten()
    start = int(below[0]) + 1 if len(below) else box // 2
    generator = torch.Generator().manual_seed(seed)
    scrambled = [randomize_phases(volume, start, generator) * soft for volume in (one, two)]
    return ShellCorrelation(
        box, apix, unmasked, shell_correlation(one * soft, two * soft), shell_correlation(*scrambled), start
    )


def randomize_phases(volume: Tensor, first_shell: int, generator: torch.Generator) -> Tensor:
    """Replace the phases of a volume (D, D, D) from ``first_shell`` on by those of white noise."""
    noise = torch.randn(volume.shape, generator=generator, dtype=torch.float64).to(volume.device)
    spectrum, phases = rfft3(volume.double()), torch.angle(rfft3(noise))
    beyond = shell_numbers(volume.shape[0], volume.device) >= first_shell
    return irfft3(torch.where(beyond, torch.polar(spectrum.abs(), phases), spectrum))


def resolution_A(curve: Tensor, frequencies: Tensor, threshold: float) -> float:
    """Return the resolution at which a curve first falls below a threshold, with linear interpolation between shells.

    Returns
    -------
    float
        Resolution in Å: that of the last shell (Nyquist) if the curve never falls below the threshold, infinity if it
        does in shell 1. Shell 0 is ignored.
    """
    below = torch.nonzero(curve[1:] < threshold).flatten()
    if not len(below):
        return 1.0 / float(frequencies[-1])
    shell = int(below[0]) + 1
    if shell == 1:
        return float("inf")
    high, low = float(curve[shell - 1]), float(curve[shell])
    fraction = (high - threshold) / (high - low)
    frequency = float(frequencies[shell - 1]) + fraction * float(frequencies[shell] - frequencies[shell - 1])
    return 1.0 / frequency
