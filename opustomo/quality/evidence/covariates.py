"""Covariates of classes: imaging conditions, strata of equal propensity, and the FSC of matched controls.

:func:`effect_sizes` measures whether a clustering is explained by how particles were imaged. :func:`matched_fsc`
compares the FSC of each class inside its own mask with that of controls of equal size, which are drawn from all
particles with the propensities of the class, that is, its views, scores and tomograms. A small complex is compared with
controls inside the mask of the small complex, so that its size has no influence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from opustomo.data.particles import ParticleSet
from opustomo.io.tomograms import coordinates_of, scores_of, tomograms_of
from opustomo.quality.evidence.permutation_tests import matched_permutations
from opustomo.quality.evidence.residual_features import Residuals, shell_mean

PERMUTATIONS = 1999
SIGNIFICANT = 0.01
MEDIUM_EFFECT, LARGE_EFFECT = 0.06, 0.14
"""Fractions of variance that are conventionally called a medium and a large effect (Cohen 1988)."""
STRATA = 5
"""Number of strata of the propensity score, which remove about 90 % of the bias (Rosenbaum and Rubin 1984)."""


@dataclass(frozen=True)
class Covariate:
    """Property of the particles that is known without the latents.

    Attributes
    ----------
    name
        Name for the user, for example ``tomogram``.
    values
        One column per component, standardized, (n, q); categories are indicator columns.
    matched
        Whether controls are matched for it. The division into training and held-out particles is only tested.
    """

    name: str
    values: np.ndarray
    matched: bool = True


@dataclass(frozen=True)
class Effect:
    """Association of a covariate with the clusters.

    Attributes
    ----------
    name
        Name of the covariate.
    size
        Fraction of its variance that lies between clusters, corrected for the fraction expected by chance.
    p_value
        Permutation p-value, corrected for the number of covariates (Holm 1979).
    """

    name: str
    size: float
    p_value: float

    @property
    def notable(self) -> bool:
        """Whether the association is significant and at least of medium size."""
        return self.p_value <= SIGNIFICANT and self.size >= MEDIUM_EFFECT

    def sentence(self) -> str:
        """Return the association in words."""
        strength = "large" if self.size >= LARGE_EFFECT else "medium" if self.size >= MEDIUM_EFFECT else "small"
        return f"{self.name} ({strength}, {max(self.size, 0):.0%} of its variance, p = {self.p_value:.2g})"


def standardized(values: np.ndarray) -> np.ndarray:
    """Center columns (n, q) and divide them by their standard deviation; constant columns are dropped."""
    values = np.asarray(values, dtype=np.float64)
    values = values.reshape(len(values), -1)
    spread = values.std(0)
    return np.asarray((values - values.mean(0))[:, spread > 1e-9] / spread[spread > 1e-9])


def categories(index: np.ndarray, most: int = 60) -> np.ndarray:
    """Return indicator columns (n, q) of the `most` frequent categories, scaled by the total variance."""
    numbers, counts = np.unique(index, return_counts=True)
    frequent = numbers[np.argsort(-counts, kind="stable")[:most]]
    columns = (index[:, None] == frequent).astype(np.float64)
    return np.asarray(columns - columns.mean(0))


def effect_sizes(covariates: list[Covariate], labels: np.ndarray, seed: int = 0) -> list[Effect]:
    """Measure the association of each covariate with a classification.

    Parameters
    ----------
    covariates
        Covariates of n particles.
    labels
        Class of each particle, (n,).
    seed
        Random seed of the permutations.

    Returns
    -------
    list of Effect
        Effect of each covariate; p-values are corrected for the number of covariates (Holm 1979).
    """
    clusters = np.unique(labels, return_inverse=True)[1]
    count, groups = len(labels), int(clusters.max()) + 1 if len(labels) else 0
    rng = np.random.default_rng(seed)
    orders = [np.arange(count), *(rng.permutation(count) for _ in range(PERMUTATIONS))]
    used = [covariate for covariate in covariates if (covariate.values**2).sum() > 0]
    if groups < 2 or not used:
        return []
    columns = np.concatenate([covariate.values for covariate in used], 1)
    owner = np.repeat(np.arange(len(used)), [covariate.values.shape[1] for covariate in used])
    sizes = np.bincount(clusters, minlength=groups)
    total = np.bincount(owner, (columns**2).sum(0))
    between = np.empty((len(orders), len(used)))
    for row, order in enumerate(orders):
        indicator = np.zeros((groups, count))
        indicator[clusters[order], np.arange(count)] = 1.0
        between[row] = np.bincount(owner, ((indicator @ columns) ** 2 / sizes[:, None]).sum(0)) / total
    null = between[1:]
    p_values = (1 + (null >= between[0] - 1e-12).sum(0)) / (1 + len(null))
    # A perfect association has size 1, an association by chance has size 0 on average.
    strength = (between[0] - null.mean(0)) / np.maximum(1 - null.mean(0), 1e-9)
    found = [
        Effect(covariate.name, float(size), float(p_value))
        for covariate, size, p_value in zip(used, strength, p_values, strict=True)
    ]
    return _holm(found)


def _holm(effects: list[Effect]) -> list[Effect]:
    order = sorted(range(len(effects)), key=lambda number: effects[number].p_value)
    corrected, running = [0.0] * len(effects), 0.0
    for rank, number in enumerate(order):
        running = max(running, min(1.0, (len(effects) - rank) * effects[number].p_value))
        corrected[number] = running
    return [Effect(effect.name, effect.size, p) for effect, p in zip(effects, corrected, strict=True)]


def propensity_strata(covariates: list[Covariate], side: np.ndarray, seed: int = 0) -> np.ndarray:
    """Divide particles into strata of equal propensity to belong to one of two classes, given the covariates.

    The propensity is predicted by a regularized logistic regression for particles that were not used to fit it. Within
    a stratum, the covariates of both classes have the same distribution (Rosenbaum and Rubin 1983), so permuting the
    classes there makes controls of equal size, views, scores and tomograms.

    Parameters
    ----------
    covariates
        Covariates of n particles.
    side
        Whether each particle belongs to the second of the two classes, bool, (n,).
    seed
        Random seed of the division into training and predicted particles.

    Returns
    -------
    ndarray, int64, (n,)
        Stratum of each particle.
    """
    columns = [covariate.values for covariate in covariates if covariate.matched and covariate.values.shape[1]]
    smaller = int(min(side.sum(), (~side).sum()))
    if not columns or smaller < 10:
        return np.zeros(len(side), dtype=np.int64)
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    model = LogisticRegression(C=0.1, max_iter=200)
    score = cross_val_predict(model, np.concatenate(columns, 1), side, cv=folds, method="predict_proba")[:, 1]
    number = int(np.clip(smaller // 10, 1, STRATA))
    edges = np.quantile(score, np.linspace(0, 1, number + 1)[1:-1])
    return np.searchsorted(edges, score, side="right").astype(np.int64)


def imaging_covariates(particles: ParticleSet, chosen: np.ndarray, held_out: np.ndarray) -> list[Covariate]:
    """Return the covariates of the particles `chosen` (n,): view, tilt axis, defocus, tomogram, score, height, split.

    Covariates that are the same for all particles or that the table lacks are absent.

    Parameters
    ----------
    particles
        Particle set.
    chosen
        Particle indices, (n,).
    held_out
        Indices of the particles that were held out from training.
    """
    rotations = particles.poses.rotations[chosen].astype(np.float64)
    view, axis = rotations[:, 2], rotations[:, 1]  # beam and tilt axis in the frame of the reference: rows of A
    found = [
        Covariate("the viewing direction", standardized(np.concatenate([view, _products(view)], 1))),
        Covariate("the direction of the tilt axis", standardized(_products(axis))),
    ]
    defocus = np.array([float(np.mean(table.defocus_u_A)) for table in particles.tables])[particles.table[chosen]]
    found.append(Covariate("defocus", standardized(defocus)))
    tilts = np.array([len(table.tilt_deg) for table in particles.tables], dtype=np.float64)[particles.table[chosen]]
    found.append(Covariate("the number of tilts", standardized(tilts)))
    tomograms = tomograms_of(particles.star)
    if tomograms is not None and len(np.unique(tomograms.index[chosen])) > 1:
        found.append(Covariate("the tomogram", categories(tomograms.index[chosen])))
    for name, values in scores_of(particles.star).items():
        found.append(Covariate(f"the score {name}", standardized(values[chosen])))
    coordinates = coordinates_of(particles.star)
    if coordinates is not None:
        found.append(Covariate("the height in the tomogram", standardized(coordinates[chosen, 2])))
    split = np.isin(chosen, held_out).astype(np.float64)
    found.append(Covariate("being held out from training", standardized(split), matched=False))
    return [covariate for covariate in found if covariate.values.shape[1]]


def _products(vectors: np.ndarray) -> np.ndarray:
    """Return the products of the components of unit vectors (n, 3), which do not depend on their sign, (n, 5)."""
    x, y, z = vectors.T
    return np.stack([x * y, x * z, y * z, x**2 - y**2, z**2], 1)


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
    """Compare the FSC of a class with that of matched controls.

    Parameters
    ----------
    residuals
        Residuals of n particles, with their spectra and half sets.
    labels
        Class of each particle, (n,).
    number
        Number of the class.
    covariates
        Covariates of the n particles for which the controls are matched.
    seed
        Random seed of the controls.

    Returns
    -------
    MatchedFsc or None
        None for fewer than 8 particles.
    """
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
