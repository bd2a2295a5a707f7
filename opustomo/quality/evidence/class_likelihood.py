"""Likelihood that classes gain over one class, for particles that were held out of the maps.

Each particle is compared with maps of the half set that it does not belong to. Its own class is not used: the
likelihood of several classes is that of the mixture. A class that was made from the noise of its particles, or that
differs from another by less than the noise of the maps, therefore lowers the likelihood.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from opustomo.quality.evidence.particle_features import EXPECTED_DIFFERENCE, Residuals, shell_mean

FLOOR = 0.01
"""Regularization of the weights of the common map, relative to their shell average."""

NEGLIGIBLE_GAIN = 0.02
"""Gain in nats per particle that is not counted as evidence. Where it is smaller, particles cannot be assigned."""


@dataclass(frozen=True)
class Gain:
    """Mean gain in log-likelihood per particle in nats, and its standard error; NaN without particles."""

    mean: float
    error: float

    @classmethod
    def of(cls, values: np.ndarray) -> Gain:
        """Return the mean of the gains of single particles."""
        if len(values) < 2:
            return cls(float("nan"), float("nan"))
        return cls(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))))

    @classmethod
    def over_controls(cls, values: np.ndarray, controls: list[np.ndarray]) -> Gain:
        """Return the mean of the gains (n,) less that of controls, whose scatter is part of the error."""
        gain = cls.of(values - np.mean(controls, 0))
        scatter = np.var([control.mean() for control in controls], ddof=1) * (1 + 1 / len(controls))
        return cls(gain.mean, float(np.sqrt(gain.error**2 + scatter)))

    @property
    def positive(self) -> bool:
        """Whether the gain is significantly above zero (p < 0.01) and not negligible."""
        return self.mean > max(2.33 * self.error, NEGLIGIBLE_GAIN)

    @property
    def negative(self) -> bool:
        """Whether the gain is significantly below zero (p < 0.01)."""
        return self.mean < -2.33 * self.error

    def __str__(self) -> str:
        return f"{self.mean:+.3g} ± {self.error:.2g} nats per particle"


@torch.no_grad()
def mixture_gain(residuals: Residuals, chosen: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """Return the gain of a mixture of maps over one map for each of the particles `chosen`, (n,).

    Parameters
    ----------
    residuals
        Residuals of all particles.
    chosen
        Rows of the particles that are compared, (n,).
    groups
        Class of each of these particles, from 0 to `count` - 1, (n,).
    count
        Number of classes.
    """
    spectra, consensus = residuals.spectra, residuals.consensus
    power = shell_mean(consensus.spectrum.abs().square(), spectra)
    floor = 1e-6 * float(power.max())
    prior = (consensus.noise / (EXPECTED_DIFFERENCE * power.clamp(min=floor)))[spectra.shells]
    importance = consensus.importance(spectra)
    halves = residuals.halves[chosen]
    gain = np.zeros(len(chosen))
    for half in (0, 1):
        test = chosen[halves == half]
        rows = [chosen[(halves != half) & (groups == group)] for group in range(count)]
        sums = [(residuals.values[r].sum(0), spectra.weight[r].sum(0)) for r in rows]
        signal, weight = torch.stack([s for s, _ in sums]), torch.stack([w for _, w in sums])
        # Classes are compared as deviations from the map of all chosen particles of the same half set, whose own
        # noise they share.
        total = weight.sum(0)
        pooled = signal.sum(0) / (total + FLOOR * shell_mean(total, spectra)[spectra.shells] + 1e-12)
        maps = torch.cat([pooled[None], (signal - weight * pooled) / (weight + prior)])
        maps = spectra.spectra(spectra.volumes(maps) * residuals.mask)
        remaining = residuals.values[test] - spectra.weight[test] * maps[0]
        # Each complex frequency occurs twice in the full spectrum, and log p = -|Y - cV|² / noise for one of both.
        overlap = (remaining @ (maps[1:].conj() * importance).T).real
        log_ratio = overlap - spectra.weight[test] @ (maps[1:].abs().square() * importance).T / 2
        fractions = torch.tensor([max(len(r), 1e-9) for r in rows], dtype=torch.float32)
        mixture = torch.logsumexp(log_ratio + torch.log(fractions / fractions.sum()), 1)
        gain[halves == half] = mixture.numpy()
    return gain
