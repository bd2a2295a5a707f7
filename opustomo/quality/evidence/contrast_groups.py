"""Detect a class of particles that mixes objects, by the contrast at which its particles show the map of the class.

A particle that shows another object than the map of its class resembles it in part and shows it with a fraction of the
contrast of the others. If a class mixes objects because the latents do not tell them apart, the contrasts of its
particles therefore form two groups, whereas ice thickness and dose vary the contrast of one object continuously.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FEWEST = 20
"""Least number of particles whose contrasts are divided into groups."""
LEAST_EVIDENCE = 10.0
"""Least difference of the Bayesian information criterion in favor of two groups (Kass & Raftery 1995: very strong)."""
VALLEY = 0.8
"""Largest density between two groups, relative to the lower of both peaks; a skewed distribution has no valley."""
SMALLEST_GROUP = 0.05
"""Least fraction of the particles in a group; fewer are outliers."""


@dataclass(frozen=True)
class ContrastGroups:
    """Two groups of contrasts.

    Attributes
    ----------
    ratio
        Mean contrast of the lower group over that of the upper one.
    lower
        Number of particles in the lower group.
    particles
        Number of particles in both.
    boundary
        Contrast between the groups, where their density is lowest.
    """

    ratio: float
    lower: int
    particles: int
    boundary: float


def contrast_groups(contrast: np.ndarray) -> ContrastGroups | None:
    """Return the two groups that contrasts (n,) form, or None if one normal distribution describes them."""
    from sklearn.mixture import GaussianMixture

    values = contrast[np.isfinite(contrast)][:, None]
    if len(values) < FEWEST or not values.std() > 0:
        return None
    one, two = (GaussianMixture(count, n_init=5, random_state=0).fit(values) for count in (1, 2))
    if one.bic(values) - two.bic(values) < LEAST_EVIDENCE:
        return None
    means = two.means_[:, 0]
    low, high = np.argsort(means)
    between = np.linspace(means[low], means[high], 101)
    density = np.exp(two.score_samples(between[:, None]))
    valley = int(density.argmin())
    boundary = float(between[valley])
    members = int((values < boundary).sum())
    peak = min(density[: valley + 1].max(), density[valley:].max())
    if density[valley] > VALLEY * peak or not SMALLEST_GROUP <= members / len(values) <= 1 - SMALLEST_GROUP:
        return None
    return ContrastGroups(float(means[low] / means[high]), members, len(values), boundary)
