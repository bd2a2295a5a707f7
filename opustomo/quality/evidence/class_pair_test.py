"""Test whether two classes differ beyond contrast, pose errors and noise.

The likelihood that classes gain over one class is computed for particles that were held out of the maps: each particle
is compared with maps of the half set that it does not belong to. Its own class is not used: the likelihood of several
classes is that of the mixture. A class that was made from the noise of its particles, or that differs from another by
less than the noise of the maps, therefore lowers the likelihood.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from opustomo.quality.evidence.covariates import SIGNIFICANT, Covariate, propensity_strata
from opustomo.quality.evidence.permutation_tests import SplitTest, compare_split, matched_permutations
from opustomo.quality.evidence.residual_features import EXPECTED_DIFFERENCE, ParticleFeatures, Residuals, shell_mean

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
        value = f"{self.mean:+.3g} ± {self.error:.2g} nats per particle"
        if self.positive or self.mean <= 0 or not np.isfinite(self.mean):
            return value
        if self.mean <= NEGLIGIBLE_GAIN:
            return f"{value}, which is negligible"
        return f"{value}, which is not significant"


def difference_prior(residuals: Residuals) -> Tensor:
    """Return the weight (M,) that is added to that of the particles to regularize maps of differences."""
    spectra, consensus = residuals.spectra, residuals.consensus
    power = shell_mean(consensus.spectrum.abs().square(), spectra)
    floor = 1e-6 * float(power.max())
    return (consensus.noise / (EXPECTED_DIFFERENCE * power.clamp(min=floor)))[spectra.shells]


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
    prior = difference_prior(residuals)
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


MOSTLY_CONFIRMED = 0.5
"""Fraction of a difference that must be confirmed by independent noise."""
SMALL = 0.05
"""Power of a difference relative to that of the map; three tRNAs of a ribosome make 5 %. If larger differences are
excluded and none was found, a class is not supported. If larger ones could have been missed, the verdict is
"cannot tell"."""
SYSTEMATIC = 0.025
"""Power of a difference relative to that of the map that errors of the imaging model (CTF, interpolation, poses) can
cause: 2 % for classes of simulated ribosomes of one state that were made from the residuals themselves."""
EQUIVALENT = 0.005
"""Power of a difference relative to that of the map below which classes are called the same, even if the difference is
significant: a quarter of that of a single tRNA of a ribosome, and a fifth of what the imaging model can cause."""
CONTROLS = 5
"""Number of matched random splits for which the likelihood is computed."""
MATCHABLE = 0.25
"""Fraction of the variance of the class membership that must remain between particles of equal views and scores."""
COPY_CONTRAST = 0.05
"""Relative difference in contrast from which a class is called a copy of another."""
FEWEST = 8
"""Minimum number of particles of a class that is tested."""

DIFFERENT, SAME, NOISE, UNCLEAR = "different", "same", "noise", "unclear"


@dataclass(frozen=True)
class PairTest:
    """Comparison of two classes.

    Attributes
    ----------
    first, second
        Numbers of the classes.
    split
        Test of the difference.
    gain
        Gain in log-likelihood of two maps over one map, less that for matched random splits.
    contrast_ratio, p_contrast
        Mean contrast of the first class over that of the second, and the p-value of their difference.
    enough
        Whether both classes have enough particles.
    """

    first: int
    second: int
    split: SplitTest
    gain: Gain
    contrast_ratio: float
    p_contrast: float
    enough: bool

    @property
    def outcome(self) -> str:
        """``different``, ``same``, ``noise`` (the difference is made of noise) or ``unclear``."""
        split = self.split
        if not self.enough or split.movable < MATCHABLE:
            return UNCLEAR
        if split.upper < EQUIVALENT:
            return SAME
        if split.p_value <= SIGNIFICANT:
            made_of_noise = split.confirmed_high < MOSTLY_CONFIRMED
            if self.gain.positive and not made_of_noise:
                return DIFFERENT if split.change >= SYSTEMATIC else UNCLEAR
            unconfirmed = split.upper < SMALL and not split.confirmed_low > 0
            return NOISE if made_of_noise or unconfirmed else UNCLEAR
        return SAME if split.upper < SMALL else UNCLEAR

    def sentence(self, of: int, named: bool = False) -> str:
        """Return what the comparison says about class `of`, which is named instead of called "it" if `named`."""
        other = self.second if of == self.first else self.first
        split = self.split
        it, this = (f"class {of}", f"Class {of}") if named else ("it", "It")
        if not self.enough:
            return f"There are too few particles to compare {it} with class {other}."
        if split.movable < MATCHABLE:
            return (
                f"Views, scores or tomograms alone distinguish {it} from class {other}, so there are no matched "
                "particles to compare."
            )
        chance = f"p = {split.p_value:.2g}" if split.p_value >= 1e-10 else "p < 1e-10"
        change = f"{max(split.change, 0):.1%} of the signal's power"
        differs = f"{this} differs from class {other}"
        match self.outcome:
            case "different":
                return (
                    f"{differs} in {change} ({chance} against matched random splits), and two maps "
                    f"explain the particles of the other half set better than one ({self.gain})."
                )
            case "noise" if split.confirmed_high < MOSTLY_CONFIRMED:
                return (
                    f"{differs} in {change} ({chance}), but this difference arises from the noise "
                    f"of its particles: independent noise confirms at most {max(split.confirmed_high, 0):.0%} of it."
                )
            case "noise":
                return (
                    f"{differs} in only {change} ({chance}), and two maps explain the particles of "
                    f"the other half set {'hardly' if self.gain.mean > 0 else 'no'} better than one ({self.gain})."
                )
            case "same" if self.p_contrast <= SIGNIFICANT and abs(np.log(self.contrast_ratio)) > COPY_CONTRAST:
                ratio = self.contrast_ratio if of == self.first else 1 / self.contrast_ratio
                return (
                    f"{this} is a copy of class {other} with {ratio:.2f} times the contrast: beyond contrast, at most "
                    f"{split.upper:.1%} of the signal's power differs ({chance})."
                )
            case "same" if split.p_value <= SIGNIFICANT:
                return (
                    f"{differs} in only {change} ({chance}), far less than the {SYSTEMATIC:.1%} "
                    "that errors of CTF, poses and imaging model can cause: the data show one class, not two."
                )
            case "same":
                return (
                    f"{this} does not differ from class {other} more than matched random splits do ({chance}; at most "
                    f"{split.upper:.1%} of the signal's power)."
                )
        if split.p_value <= SIGNIFICANT and self.gain.positive:
            return (
                f"{differs} in {change} ({chance}), but errors of CTF, poses and imaging model can "
                f"cause differences of up to {SYSTEMATIC:.1%}."
            )
        if split.p_value <= SIGNIFICANT:
            return (
                f"{differs} in {change} ({chance}), but it is not clear that two maps explain the "
                f"particles of the other half set better than one ({self.gain})."
            )
        return (
            f"{this} is not found to differ from class {other} ({chance}), but a difference of up to "
            f"{split.upper:.0%} of the signal's power would have been missed."
        )


def compare_pair(
    residuals: Residuals,
    features: ParticleFeatures,
    labels: np.ndarray,
    pair: tuple[int, int],
    covariates: list[Covariate],
    seed: int = 0,
) -> PairTest:
    """Compare two classes with random splits of their particles that are matched in the covariates.

    Parameters
    ----------
    residuals, features
        Residuals of n particles relative to the map of all, and their inner products.
    labels
        Class of each particle, (n,).
    pair
        Numbers of the two classes.
    covariates
        Covariates of the n particles for which the splits are matched.
    seed
        Random seed of the splits.
    """
    from scipy import stats

    chosen = np.flatnonzero((labels == pair[0]) | (labels == pair[1]))
    side = labels[chosen] == pair[0]
    matched = [Covariate(one.name, one.values[chosen], one.matched) for one in covariates]
    contrast = features.contrast[chosen]
    enough = int(min(side.sum(), (~side).sum())) >= FEWEST
    strata = propensity_strata(matched, side, seed)
    split = compare_split(features, chosen, side, strata, seed)
    if not enough:
        return PairTest(*pair, split, Gain.of(np.empty(0)), float("nan"), 1.0, enough)
    controls = matched_permutations(side, strata, CONTROLS, np.random.default_rng(seed))
    gains = [mixture_gain(residuals, chosen, one.astype(np.int64), 2) for one in (side, *controls)]
    return PairTest(
        *pair,
        split=split,
        gain=Gain.over_controls(gains[0], gains[1:]),
        contrast_ratio=float(contrast[side].mean() / contrast[~side].mean()),
        p_contrast=float(stats.ttest_ind(contrast[side], contrast[~side], equal_var=False).pvalue),
        enough=enough,
    )
