"""Difference maps of each class from the other classes, in standard deviations of matched random splits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from opustomo.quality.evidence.class_pair_test import FEWEST, difference_prior
from opustomo.quality.evidence.covariates import Covariate, propensity_strata
from opustomo.quality.evidence.permutation_tests import matched_permutations
from opustomo.quality.evidence.residual_features import Residuals

SPLITS = 100
"""Number of matched random splits."""
CHANCE = 0.05
"""Probability that a matched random split exceeds the threshold anywhere in the mask."""
INSIDE = 0.05
"""Smallest value of the mask inside which voxels are compared."""


@dataclass(frozen=True)
class DifferenceMap:
    """Difference of a class from the other classes beyond contrast and pose errors.

    Attributes
    ----------
    number
        Number of the class.
    deviations
        Difference divided by its standard deviation over matched random splits, (box, box, box), float32; positive
        where the class has more density than the others, 0 outside the mask.
    apix
        Voxel size in Å. The box has the same extent as that of the subtomograms.
    threshold
        Absolute value that 5 % of the matched random splits exceed anywhere in the mask.
    half_correlation
        Correlation, inside the mask, of the differences in both half sets.
    fraction
        Fraction of the voxels in the mask that exceed the threshold.
    """

    number: int
    deviations: np.ndarray
    apix: float
    threshold: float
    half_correlation: float
    fraction: float

    def sentence(self) -> str:
        """Return where the class differs, in words."""
        if not self.fraction:
            return f"Class {self.number} differs nowhere from the others by more than matched random splits do."
        return (
            f"Class {self.number} differs from the others in {self.fraction:.1%} of the mask, where its difference map "
            f"exceeds ±{self.threshold:.1f} standard deviations; both half sets show differences with a correlation of "
            f"{self.half_correlation:.2f}."
        )


@torch.no_grad()
def difference_map(
    residuals: Residuals,
    labels: np.ndarray,
    number: int,
    covariates: list[Covariate],
    num_clusters: int,
    seed: int = 0,
) -> DifferenceMap | None:
    """Compute the difference map of a class from all other classes.

    Parameters
    ----------
    residuals
        Residuals of n particles relative to the map of all.
    labels
        Class of each particle, (n,). Labels of `num_clusters` or more mark excluded particles.
    number, num_clusters
        Number of the class, and of classes.
    covariates
        Covariates of the n particles for which random splits are matched.
    seed
        Random seed of the splits.

    Returns
    -------
    DifferenceMap or None
        None if the class or the others have too few particles.
    """
    rows = np.flatnonzero(labels < num_clusters)
    side = labels[rows] == number
    if min(side.sum(), (~side).sum()) < FEWEST:
        return None
    matched = [Covariate(one.name, one.values[rows], one.matched) for one in covariates]
    strata = propensity_strata(matched, side, seed)
    sides = np.concatenate([side[None], matched_permutations(side, strata, SPLITS, np.random.default_rng(seed))])
    inside = residuals.mask > INSIDE
    prior = difference_prior(residuals)
    differences = _differences(residuals, prior, rows, sides)[:, inside]
    centered = differences - differences[1:].mean(0)
    squares = centered[1:].square().sum(0)
    # Each random split is compared with the others, because its own extremes would raise its standard deviation.
    count = len(differences) - 1
    others = (squares - centered[1:].square() * count / (count - 1)) / (count - 2)
    random = centered[1:] * count / (count - 1) / others.clamp(min=1e-24).sqrt()
    threshold = float(torch.quantile(random.abs().amax(1), 1 - CHANCE))
    deviations = centered[0] / (squares / (count - 1)).clamp(min=1e-24).sqrt()
    halves = residuals.halves[rows]
    pair = torch.cat(
        [_differences(residuals, prior, rows[halves == h], side[None, halves == h])[:, inside] for h in (0, 1)]
    )
    result = torch.zeros(inside.shape)
    result[inside] = deviations
    return DifferenceMap(
        number,
        result.numpy(),
        residuals.spectra.apix,
        threshold,
        half_correlation=float(torch.corrcoef(pair)[0, 1]),
        fraction=float((deviations.abs() > threshold).float().mean()),
    )


def _differences(residuals: Residuals, prior: Tensor, rows: np.ndarray, sides: np.ndarray) -> Tensor:
    """Return the maps (R, box, box, box) of splits (R, n) of the particles `rows`: members less the others."""
    spectra = residuals.spectra
    members = torch.from_numpy(sides.astype(np.float32))
    values, weights = residuals.values[rows], spectra.weight[rows]
    signal = torch.complex(members @ values.real, members @ values.imag)
    weight = members @ weights
    maps = signal / (weight + prior) - (values.sum(0) - signal) / (weights.sum(0) - weight + prior)
    return spectra.volumes(torch.where(spectra.shells > 0, maps, 0))  # the mean value is arbitrary
