"""Fourier shell correlation of two volumes, with and without a mask, and the resolution read from it.

Shell s holds the frequencies whose distance from zero rounds to s voxels; shells end at Nyquist, D/2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from opustomo.physics.fourier import half_spectrum_weights, irfft3, rfft3, squared_radius

RANDOMISE_BELOW = 0.8
"""Phases are randomised beyond the shell at which the FSC without mask falls below this, as RELION does."""
SETTLED_AFTER = 2
"""Shells after the first randomised one in which the masked FSC is still taken as it is."""


@dataclass(frozen=True)
class ShellCorrelation:
    """FSC curves of two half maps, each (D/2 + 1,) float64 by shell.

    Attributes
    ----------
    box, apix
        Side D of the volumes in voxels; pixel size, Å.
    unmasked
        FSC of the whole boxes.
    masked, randomised
        FSC inside the mask; the same after phases were randomised beyond ``randomised_from``. None without a mask.
    randomised_from
        First shell with random phases.
    """

    box: int
    apix: float
    unmasked: Tensor
    masked: Tensor | None = None
    randomised: Tensor | None = None
    randomised_from: int | None = None

    @property
    def frequencies(self) -> Tensor:
        """Spatial frequency of each shell, 1/Å."""
        return torch.arange(len(self.unmasked), dtype=torch.float64) / (self.box * self.apix)

    @property
    def true(self) -> Tensor:
        """FSC freed from what the mask alone correlates: ``(FSC_m - FSC_r) / (1 - FSC_r)``; without mask, unmasked.

        Chen et al., Ultramicroscopy 135 (2013) 24; up to two shells beyond the first randomised one it is FSC_m.
        """
        if self.masked is None or self.randomised is None or self.randomised_from is None:
            return self.unmasked
        first = self.randomised_from + SETTLED_AFTER
        corrected = (self.masked - self.randomised) / (1.0 - self.randomised).clamp(min=1e-3)
        shell = torch.arange(len(self.masked))
        return torch.where(shell < first, self.masked, corrected)

    def resolution_A(self, threshold: float = 0.143) -> float:
        """Resolution (Å) at which the true FSC first falls below ``threshold``."""
        return resolution_A(self.true, self.frequencies, threshold)


def shell_numbers(size: int, device: torch.device | str | None = None) -> Tensor:
    """Shell of every voxel of a half spectrum (D, D, D/2+1), int64; corners beyond Nyquist have numbers above D/2."""
    return (squared_radius(size, device).double().sqrt() * size).round().long()


def shell_correlation(first: Tensor, second: Tensor) -> Tensor:
    """FSC of two real volumes (D, D, D), D even: (D/2 + 1,) float64; 0 where a shell is empty of signal."""
    if first.shape != second.shape or first.ndim != 3 or len(set(first.shape)) != 1 or first.shape[0] % 2:
        raise ValueError(f"need two cubes of one even size, got {tuple(first.shape)} and {tuple(second.shape)}")
    return spectra_correlation(rfft3(first.double()), rfft3(second.double()))


def spectra_correlation(first: Tensor, second: Tensor) -> Tensor:
    """As :func:`shell_correlation`, of half spectra (D, D, D/2+1)."""
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
    """FSC of two half maps (D, D, D); with a mask (D, D, D) also masked and corrected by phase randomisation.

    ``seed`` fixes the random phases.
    """
    one, two = first.double(), second.double()
    unmasked = shell_correlation(one, two)
    box = first.shape[0]
    if mask is None:
        return ShellCorrelation(box, apix, unmasked)
    if mask.shape != first.shape:
        raise ValueError(f"the mask is {tuple(mask.shape)} but the volumes are {tuple(first.shape)}")
    soft = mask.double()
    below = torch.nonzero(unmasked[1:] < RANDOMISE_BELOW).flatten()
    start = int(below[0]) + 1 if len(below) else box // 2
    generator = torch.Generator().manual_seed(seed)
    scrambled = [randomise_phases(volume, start, generator) * soft for volume in (one, two)]
    return ShellCorrelation(
        box, apix, unmasked, shell_correlation(one * soft, two * soft), shell_correlation(*scrambled), start
    )


def randomise_phases(volume: Tensor, first_shell: int, generator: torch.Generator) -> Tensor:
    """Replace the phases from ``first_shell`` on by those of white noise, which has a real volume's symmetry."""
    noise = torch.randn(volume.shape, generator=generator, dtype=torch.float64).to(volume.device)
    spectrum, phases = rfft3(volume.double()), torch.angle(rfft3(noise))
    beyond = shell_numbers(volume.shape[0], volume.device) >= first_shell
    return irfft3(torch.where(beyond, torch.polar(spectrum.abs(), phases), spectrum))


def resolution_A(curve: Tensor, frequencies: Tensor, threshold: float) -> float:
    """Where a curve first falls below a threshold, linear between shells, as a length in Å.

    Returns
    -------
    float
        That of the last shell (Nyquist) if it never falls below; infinity if it does at once (shell 0 is not looked
        at).
    """
    below = torch.nonzero(curve[1:] < threshold).flatten()
    if not len(below):
        return 1.0 / float(frequencies[-1])
    shell = int(below[0]) + 1
    if shell == 1:
        return float("inf")
    high, low = float(curve[shell - 1]), float(curve[shell])
    part = (high - threshold) / (high - low)
    frequency = float(frequencies[shell - 1]) + part * float(frequencies[shell] - frequencies[shell - 1])
    return 1.0 / frequency
