"""Mixed classes: detection and division of classes with objects that the latents do not separate.

A particle that shows another object than the map of its class resembles it in part and shows it with a fraction of the
contrast of the others. In a mixed class, the contrasts of the particles therefore form two groups, whereas ice
thickness and dose vary the contrast of one object continuously.

The particles of a molecule are compared with its mean map. If some of them show another object, their residuals agree
with each other. The particles are therefore divided by the principal components of their residuals, and the parts are
refined like other classes. The division is accepted if its maps explain the particles of the other half set better
than the classes of the molecule, and if two parts are unrelated. Parts of one object in different states, with
different contrasts or wrong poses are related and stay together. See docs/junk.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from opustomo.quality.evidence.junk_classes import (
    MEMBERS,
    ClassMaps,
    class_gains,
    join_classes,
    latent_classes,
    log_odds,
    mixture_likelihood,
    most_likely,
    refined_classes,
)
from opustomo.quality.evidence.particle_spectra import ParticleSpectra, mask_on_box
from opustomo.quality.evidence.residual_features import fit_residuals, particle_features

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


COMPONENTS = 4
"""Principal components of the residuals by which particles are divided."""
PARTS = (2, 3, 4)
"""Numbers of parts that are tried."""
MOST_DIVISIONS = 4
"""Largest number of divisions, one after another."""


def chosen_spectra(spectra: ParticleSpectra, rows: np.ndarray) -> ParticleSpectra:
    """Return the spectra of some rows, (n,) int."""
    return replace(spectra, index=spectra.index[rows], signal=spectra.signal[rows], weight=spectra.weight[rows])


def residual_parts(spectra: ParticleSpectra, halves: np.ndarray, mask: np.ndarray | None, count: int) -> np.ndarray:
    """Divide particles into `count` parts by the principal components of their residuals, (n,).

    Parameters
    ----------
    spectra
        Spectra of n particles.
    halves
        Half set of these particles, 0 or 1, shape (n,).
    mask
        Solvent mask, shape (D, D, D), or None for a ball.
    count
        Number of parts.
    """
    from sklearn.cluster import KMeans

    gram = particle_features(fit_residuals(spectra, halves, mask_on_box(mask, spectra.box))).gram
    np.fill_diagonal(gram, 0.0)  # the diagonal is dominated by the noise of single particles
    values, vectors = np.linalg.eigh(gram)
    coordinates = vectors[:, -COMPONENTS:] * np.sqrt(values[-COMPONENTS:].clip(min=0.0))
    return np.asarray(KMeans(count, n_init=10, random_state=0).fit_predict(coordinates), dtype=np.int64)


def divide_molecules(
    spectra: ParticleSpectra,
    classes: tuple[np.ndarray, ClassMaps],
    halves: np.ndarray,
    mask: np.ndarray | None,
    lowest_shell: float,
) -> tuple[np.ndarray, ClassMaps]:
    """Divide molecules as long as a division explains the particles better by unrelated maps.

    Parameters
    ----------
    spectra
        Spectra of n particles.
    classes
        Labels of all N particles, shape (N,), and maps of the classes.
    halves
        Half set of all N particles, 0 or 1, shape (N,).
    mask
        Solvent mask, shape (D, D, D), or None for a ball.
    lowest_shell
        Shell beyond which maps are compared.

    Returns
    -------
    labels : numpy.ndarray
        Classes, -1 for particles that most likely show nothing, shape (N,).
    maps : ClassMaps
    """
    labels, maps = classes
    tried: set[tuple[int, ...]] = set()
    for _ in range(MOST_DIVISIONS):
        gains = class_gains(spectra, maps, halves)
        found = most_likely(gains, maps.fractions)
        families, _ = join_classes(gains, found, maps.correlations(lowest_shell))
        best = None
        for family in range(families.max() + 1):
            rows = np.flatnonzero((found >= 0) & (np.append(families, -1)[found] == family))
            if len(rows) < 2 * MEMBERS or tuple(rows) in tried:
                continue
            tried.add(tuple(rows))
            best = _divided(chosen_spectra(spectra, rows), (families == family, maps), halves, mask, lowest_shell)
            if best is not None:
                break
        if best is None:
            break
        # The parts take the place of the classes of the molecule; the others keep their particles.
        new = np.full(len(labels), -1)
        others = np.flatnonzero(families != family)
        for number, group in enumerate(others):
            new[spectra.index[found == group]] = number
        new[spectra.index[rows]] = np.where(best >= 0, best + len(others), -1)
        count = int(new.max()) + 1
        labels, maps = refined_classes(spectra, new, halves, mask, count)
    return labels, maps


def _divided(
    spectra: ParticleSpectra,
    classes: tuple[np.ndarray, ClassMaps],
    halves: np.ndarray,
    mask: np.ndarray | None,
    lowest_shell: float,
) -> np.ndarray | None:
    """Return the parts of the particles of a molecule, or None if no division explains them better.

    Parameters
    ----------
    spectra
        Spectra of the n particles of the molecule.
    classes
        Which classes are the molecule, shape (K,), and the maps of all classes.
    halves, mask, lowest_shell
        As in `divide_molecules`.
    """
    own, maps = classes
    gains = class_gains(spectra, maps, halves)[:, own]
    highest = mixture_likelihood(gains, maps.fractions[own] / maps.fractions[own].sum())
    best = None
    for count in PARTS:
        if len(spectra) < count * MEMBERS:
            break
        labels = np.full(len(halves), -1)
        labels[spectra.index] = residual_parts(spectra, halves[spectra.index], mask, count)
        labels, parts = refined_classes(spectra, labels, halves, mask, count)
        gains = class_gains(spectra, parts, halves)
        found = most_likely(gains, parts.fractions)
        families, _ = join_classes(gains, found, parts.correlations(lowest_shell))
        likelihood = mixture_likelihood(gains, parts.fractions / max(parts.fractions.sum(), 1e-9))
        if families.max() >= 1 and likelihood > highest:
            highest, best = likelihood, found
    return best


@dataclass(frozen=True)
class Division:
    """Division of particles into classes of objects, from their latents and their images.

    Attributes
    ----------
    spectra
        Spectra of n particles.
    latents
        Latents of all N particles, shape (N, zdim).
    halves
        Half set of all N particles, 0 or 1, shape (N,).
    mask
        Solvent mask, shape (D, D, D), or None for a ball.
    lowest_shell
        Shell beyond which maps are compared.
    """

    spectra: ParticleSpectra
    latents: np.ndarray
    halves: np.ndarray
    mask: np.ndarray | None
    lowest_shell: float

    def class_maps(self, seed: int) -> tuple[ClassMaps, bool]:
        """Return the maps of the classes, and whether a molecule was divided that the latents do not separate."""
        labels = latent_classes(self.latents, seed)
        refined = refined_classes(self.spectra, labels, self.halves, self.mask)
        maps = divide_molecules(self.spectra, refined, self.halves, self.mask, self.lowest_shell)[1]
        return maps, maps is not refined[1]

    def not_kept_again(self, kept: np.ndarray, seed: int) -> int:
        """Return how many of the kept particles (N,) are not kept if the latents are divided with another seed."""
        maps = self.class_maps(seed)[0]
        gains = class_gains(self.spectra, maps, self.halves)
        labels = most_likely(gains, maps.fractions)
        families, _ = join_classes(gains, labels, maps.correlations(self.lowest_shell))
        inside = kept[self.spectra.index]
        fewest = int(inside.sum())
        # The molecule that keeps most of these particles is the particle, whatever its number is.
        for family in range(families.max() + 1):
            score = log_odds(gains, families == family, maps.fractions, families < 0)
            fewest = min(fewest, int((inside & (score < 0)).sum()))
        return fewest
