"""FSC of each class inside its own mask, against matched controls of equal size.

Controls are drawn from all particles with the propensities, that is, the views, scores and tomograms, of the class. A
small complex is compared with controls inside the mask of the small complex, so that its size does not count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from opustomo.quality.evidence.matched_controls import Covariate, propensity_strata
from opustomo.quality.evidence.matched_splits import matched_permutations
from opustomo.quality.evidence.particle_features import Residuals, shell_mean

DRAWS = 60
FEWEST = 8
MASK_FRACTION = 0.25
"""Density over the maximum of the smoothed map that belongs to the mask of a class."""


@dataclass(frozen=True)
class MatchedFsc:
    """FSC between the half maps of a class, averaged over shells, and that of matched controls.

    Attributes
    ----------
    own
        Mean FSC of the class, inside its own mask.
    control, low, high
        Mean of the controls and the interval that contains 95 % of them.
    """

    own: float
    control: float
    low: float
    high: float

    def sentence(self) -> str:
        """Return the comparison in words."""
        relation = "above" if self.own > self.high else "below" if self.own < self.low else "like"
        return (
            f"Inside its own mask, its half maps have a mean FSC of {self.own:.3f}, {relation} that of "
            f"matched controls of equal size ({self.low:.3f} to {self.high:.3f})."
        )


def class_mask(volume: Tensor, mask: Tensor) -> Tensor:
    """Return a soft mask of the density of a volume inside a mask, both (D, D, D)."""
    kernel = torch.ones(1, 1, 3, 3, 3) / 27
    smooth = torch.nn.functional.conv3d((volume * mask)[None, None], kernel, padding=1)
    dense = (smooth > MASK_FRACTION * smooth.max()).float()
    grown = torch.nn.functional.max_pool3d(dense, 3, stride=1, padding=1)
    return torch.nn.functional.conv3d(grown, kernel, padding=1)[0, 0] * mask


@torch.no_grad()
def matched_fsc(
    residuals: Residuals, labels: np.ndarray, number: int, covariates: list[Covariate], seed: int = 0
) -> MatchedFsc | None:
    """Compare the FSC of class `number` of labels (n,) with matched controls; None for fewer than 8 particles."""
    spectra = residuals.spectra
    side = labels == number
    halves = residuals.halves
    if min(side.sum(), (~side).sum()) < FEWEST or min(np.bincount(halves[side], minlength=2)) < 2:
        return None
    # Permuting within strata and half sets keeps the number of particles in each half map.
    strata = 2 * propensity_strata(covariates, side, seed) + halves
    drawn = np.concatenate([side[None], matched_permutations(side, strata, DRAWS, np.random.default_rng(seed))])
    maps = []
    for half in (0, 1):
        members = torch.from_numpy((drawn & (halves == half)).astype(np.float32))
        weight = members @ spectra.weight
        floor = 0.1 * torch.stack([shell_mean(row, spectra)[spectra.shells] for row in weight]) + 1e-12
        maps.append(spectra.volumes((members.to(torch.complex64) @ spectra.signal) / (weight + floor)))
    mask = class_mask(maps[0][0] + maps[1][0], residuals.mask)
    first, second = (spectra.spectra(volumes * mask) for volumes in maps)
    values = []
    for one, two in zip(first, second, strict=True):
        cross = shell_mean((one * two.conj()).real, spectra)
        power = shell_mean(one.abs().square(), spectra) * shell_mean(two.abs().square(), spectra)
        values.append(float((cross / power.clamp(min=1e-30).sqrt())[1:].mean()))
    controls = np.array(values[1:])
    low, high = np.percentile(controls, [2.5, 97.5])
    return MatchedFsc(values[0], float(controls.mean()), float(low), float(high))
