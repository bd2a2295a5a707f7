"""Junk scores: detection of picks that show none of the states of the particle.

The score of a particle is the log posterior odds that it shows a class of the particle, rather than another molecule or
nothing (:mod:`opustomo.quality.evidence.junk_classes`). Subtomograms with random phases show how often noise reaches a
score. See docs/junk.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import torch
from scipy.stats import beta

from opustomo.data.particles import ParticleSet
from opustomo.errors import UserError
from opustomo.physics.fourier import crop_in_fourier_space
from opustomo.quality.evidence.half_maps import ReadOptions
from opustomo.quality.evidence.junk_classes import (
    ALIKE,
    RELATED,
    SAME,
    ClassMaps,
    class_contrasts,
    class_gains,
    join_classes,
    log_odds,
    lowest_compared_shell,
    most_likely,
)
from opustomo.quality.evidence.mixed_classes import ContrastGroups, Division, contrast_groups
from opustomo.quality.evidence.particle_spectra import (
    MAX_PARTICLES,
    ParticleSpectra,
    read_spectra,
    sampled_particles,
)

POSE_GAIN = 3.0
"""Gain in log-likelihood that fitting the six numbers of a pose to noise brings on average, in nats (Wilks)."""
REPEATS = (1, 2)
"""Seeds with which the latents are divided again."""
MOST_UNSTABLE = 0.1
"""Largest fraction of kept particles that may depend on how the latents are divided."""
CONFIDENCE = 0.95
"""Confidence of the upper bound of the false-discovery rate."""


@dataclass(frozen=True)
class JunkClasses:
    """Classes of the latents, and which of them are the particle.

    Attributes
    ----------
    labels
        Class of each particle, -1 for nothing, shape (N,).
    families
        Number of the molecule of each class, counted from the most populous, -1 for empty classes, shape (K,).
    particle
        Numbers of the molecules that are the particle.
    correlations
        Correlations of the half maps of classes, shape (K, K).
    gains
        Mean gain of each class over nothing in nats per member, shape (K,).
    reference_class
        Class that resembles the reference most; None without a reference.
    """

    labels: np.ndarray
    families: np.ndarray
    particle: tuple[int, ...]
    correlations: np.ndarray
    gains: np.ndarray
    reference_class: int | None = None

    @cached_property
    def compared(self) -> np.ndarray:
        """Class with whose map the contrast of each particle is compared, -1 for nothing, shape (N,).

        It is the own class. With a reference, it is the class of the reference for all particles of its molecule:
        other objects show it with a fraction of the contrast, also if their own map contains the reference.
        """
        if self.reference_class is None:
            return self.labels
        return np.where(np.append(self.wanted, False)[self.labels], self.reference_class, self.labels)

    @property
    def wanted(self) -> np.ndarray:
        """Whether each class is the particle, bool, shape (K,)."""
        return np.isin(self.families, self.particle)

    @cached_property
    def sizes(self) -> np.ndarray:
        """Number of particles of each class, shape (K,)."""
        return np.bincount(self.labels[self.labels >= 0], minlength=len(self.families))


@dataclass(frozen=True)
class ClassDoubts:
    """Signs that the classes are not separated.

    Attributes
    ----------
    divided
        Whether a molecule mixed objects that the latents do not separate, and was divided.
    unstable
        Fraction of the kept particles that are not kept if the latents are divided into other classes; the largest of
        several divisions.
    """

    divided: bool
    unstable: float


@dataclass(frozen=True)
class JunkResult:
    """Scores of all particles and the cut.

    Attributes
    ----------
    score
        Log posterior odds that each particle is not junk, shape (N,); NaN for subtomograms that cannot be used.
    null
        Scores of subtomograms with random phases, shape (n,).
    contrast
        Contrast at which each particle shows the map of its class (`JunkClasses.compared`) beyond the coarse shells,
        shape (N,); NaN if it shows nothing.
    distance
        Distance of each particle in the latent space to its nearest neighbors among the particles that are kept, in
        units of the median of these, shape (N,).
    cut, false_discovery_rate, upper_rate
        Particles with at least this score are kept; fraction of them that is expected to be junk, and its upper bound
        with a confidence of 95 %, which follows from the number of null scores and from the number of kept particles
        that are not kept with other classes of the latents.
    classes, maps
        Classes and their half maps.
    volumes, apix
        Mean map of each molecule, shape (F, n, n, n), and its pixel size in Å.
    doubts
        Signs that the classes are not separated.
    """

    score: np.ndarray
    null: np.ndarray
    contrast: np.ndarray
    distance: np.ndarray
    cut: float
    false_discovery_rate: float
    upper_rate: float
    classes: JunkClasses
    maps: ClassMaps
    volumes: np.ndarray
    apix: float
    doubts: ClassDoubts

    @property
    def above_cut(self) -> np.ndarray:
        """Whether the score of each particle reaches the cut, bool, shape (N,)."""
        return np.nan_to_num(self.score, nan=-np.inf) >= self.cut

    @cached_property
    def mixed_classes(self) -> dict[int, ContrastGroups]:
        """The two groups of contrasts of the particles above the cut, for each class that has them."""
        labels = np.where(self.above_cut, self.classes.compared, -1)
        found = {group: contrast_groups(self.contrast[labels == group]) for group in range(len(self.classes.families))}
        return {group: groups for group, groups in found.items() if groups is not None}

    @cached_property
    def faint(self) -> np.ndarray:
        """Whether each particle belongs to the lower group of contrasts of its class, bool, shape (N,)."""
        found = np.zeros(len(self.score), dtype=bool)
        for group, groups in self.mixed_classes.items():
            found |= (self.classes.compared == group) & (self.contrast < groups.boundary)
        return found

    @property
    def kept(self) -> np.ndarray:
        """Whether each particle is kept: its score reaches the cut, and its contrast is not that of another object."""
        return self.above_cut & ~self.faint

    @cached_property
    def least_related(self) -> tuple[int, int, float] | None:
        """The two least related classes of the particle and the correlation of their maps; None for a single class."""
        classes = self.classes
        pairs = []
        for family in classes.particle:
            members = np.flatnonzero((classes.families == family) & (classes.sizes > 0))
            pairs += [(float(classes.correlations[i, j]), int(i), int(j)) for i, j in combinations(members, 2)]
        if not pairs:
            return None
        value, first, second = min(pairs)
        return first, second, value

    @property
    def found_no_junk(self) -> bool:
        """Whether every usable pick is kept."""
        return bool(self.kept.sum() == np.isfinite(self.score).sum())

    @property
    def rate_is_known(self) -> bool:
        """Whether the false-discovery rate can be relied on: classes are separated, and there is junk to compare."""
        pair = self.least_related
        alike = pair is None or pair[2] >= ALIKE
        separated = not self.doubts.divided and self.doubts.unstable <= MOST_UNSTABLE
        return alike and separated and not self.mixed_classes and not self.found_no_junk


def expected_false_discoveries(
    score: np.ndarray, null: np.ndarray, cuts: np.ndarray, confidence: float | None = None
) -> np.ndarray:
    """Return the expected fraction of junk among the particles above each cut.

    It is the sum of two parts. The number of particles that show nothing is at most twice the number of scores below
    the median of the null scores; a fraction of them is kept that equals the fraction of null scores above the cut.
    The number of kept particles that show another molecule follows from the posterior probabilities.

    Parameters
    ----------
    score, null
        Scores of the particles, shape (N,), and of subtomograms with random phases, shape (n,).
    cuts
        Cuts, shape (C,).
    confidence
        Take the upper bound of the fraction of null scores with this confidence (Clopper & Pearson 1934); None for
        the fraction itself.
    """
    empty = min(1.0, 2.0 * float((score < np.median(null)).mean()))
    junk = 1.0 / (1.0 + np.exp(np.clip(score, -500, 500)))
    found = np.empty(len(cuts))
    for i, cut in enumerate(cuts):
        kept, above = score >= cut, int((null >= cut).sum())
        chance = above / len(null)
        if confidence is not None and above < len(null):
            chance = float(beta.ppf(confidence, above + 1, len(null) - above))
        found[i] = min(1.0, (empty * len(score) * chance + junk[kept].sum()) / max(int(kept.sum()), 1))
    return found


def choose_cut(score: np.ndarray, null: np.ndarray, largest_rate: float) -> tuple[float, float]:
    """Return the lowest cut of at least 0 that is expected to keep at most the fraction `largest_rate` of junk.

    If no cut reaches that rate, that with the lowest rate is returned.
    """
    usable = score[np.isfinite(score)]
    cuts = np.unique(np.append(usable[usable > 0], 0.0))
    cuts = cuts[np.unique(np.linspace(0, len(cuts) - 1, 500).round().astype(int))]
    rates = expected_false_discoveries(usable, null, cuts)
    good = np.flatnonzero(rates <= largest_rate)
    best = int(good[0]) if len(good) else int(rates.argmin())
    return float(cuts[best]), float(rates[best])


def latent_distances(latents: np.ndarray, kept: np.ndarray, neighbors: int = 5) -> np.ndarray:
    """Return the distances of latents (N, zdim) to the kept ones, in units of the median among these, (N,)."""
    from scipy.spatial import KDTree

    inside = latents[kept]
    if len(inside) <= neighbors:
        return np.full(len(latents), np.nan)
    own = kept.astype(int)  # the nearest neighbor of a kept particle is itself
    found = KDTree(inside).query(latents, k=neighbors + 1)[0]
    distance = found[np.arange(len(latents)), neighbors - 1 + own]
    return np.asarray(distance / max(float(np.median(distance[kept])), 1e-12))


@dataclass(frozen=True)
class JunkRequest:
    """Particles to score.

    Attributes
    ----------
    particles
        Particle set with the poses to use.
    latents
        Composition latents, shape (N, zdim).
    halves
        Half set of each particle, 0 or 1, shape (N,).
    mask
        Solvent mask, shape (D, D, D), or None for a ball.
    reference
        Density of the particle in the box of the subtomograms; None takes the most populous molecule as the particle.
    particle
        Numbers of the molecules that are the particle, which take precedence over the reference; None for one.
    largest_rate
        Largest expected false-discovery rate.
    null_count
        Number of subtomograms with random phases.
    ctf_normalized, device
        Whether the subtomograms were divided by their sampling weights, and the device of the computation.
    """

    particles: ParticleSet
    latents: np.ndarray
    halves: np.ndarray
    mask: np.ndarray | None
    reference: np.ndarray | None = None
    particle: tuple[int, ...] | None = None
    largest_rate: float = 0.01
    null_count: int = 1000
    ctf_normalized: bool = False
    device: str = "cpu"

    def spectra(self, wanted: np.ndarray, randomize: bool = False) -> Iterator[ParticleSpectra]:
        """Yield the spectra of the particles `wanted` in chunks that fit the memory, with random phases on request."""
        for start in range(0, len(wanted), MAX_PARTICLES):
            yield read_spectra(
                self.particles,
                wanted[start : start + MAX_PARTICLES],
                ReadOptions(self.ctf_normalized, self.device),
                phases_from=0 if randomize else None,
            )


def find_junk(request: JunkRequest) -> JunkResult:
    """Score all particles and choose the cut.

    Raises
    ------
    UserError
        If no class shows a particle.
    """
    count = len(request.latents)
    sample = next(request.spectra(sampled_particles(np.arange(count))))
    lowest = lowest_compared_shell(request.mask, sample.box)
    division = Division(sample, request.latents, request.halves, request.mask, lowest)
    maps, divided = division.class_maps(seed=0)
    gains, contrasts = np.full((2, count, len(maps.fractions)), np.nan)
    for spectra in [sample] if count <= MAX_PARTICLES else request.spectra(np.arange(count)):
        gains[spectra.index] = class_gains(spectra, maps, request.halves)
        contrasts[spectra.index] = class_contrasts(spectra, maps, request.halves, lowest)
    labels = most_likely(gains, maps.fractions)
    classes = _classes(request, labels, gains, maps, sample)
    empty = classes.families < 0
    score = log_odds(gains, classes.wanted, maps.fractions, empty)
    sampled = np.sort(np.random.default_rng(0).permutation(count)[: request.null_count])
    chunks = [
        log_odds(class_gains(spectra, maps, request.halves), classes.wanted, maps.fractions, empty) + POSE_GAIN
        for spectra in request.spectra(sampled, randomize=True)
    ]
    null = np.concatenate(chunks)
    cut, rate = choose_cut(score, null, request.largest_rate)
    inside = np.nan_to_num(score, nan=-np.inf) >= cut
    usable = score[np.isfinite(score)]
    upper = float(expected_false_discoveries(usable, null, np.array([cut]), CONFIDENCE)[0])
    contrast = np.where(labels >= 0, contrasts[np.arange(count), classes.compared], np.nan)
    volumes = np.stack(
        [
            sample.volumes(maps.halves[:, classes.families == family].mean((0, 1))[None])[0].numpy()
            for family in range(classes.families.max() + 1)
        ]
    )
    distance = latent_distances(request.latents, inside)
    unstable = max(division.not_kept_again(inside, seed) for seed in REPEATS)
    kept = int(inside[sample.index].sum())
    if unstable < kept:
        upper = max(upper, float(beta.ppf(CONFIDENCE, unstable + 1, kept - unstable)))
    doubts = ClassDoubts(divided, unstable / max(kept, 1))
    return JunkResult(score, null, contrast, distance, cut, rate, upper, classes, maps, volumes, sample.apix, doubts)


def _classes(
    request: JunkRequest, labels: np.ndarray, gains: np.ndarray, maps: ClassMaps, spectra: ParticleSpectra
) -> JunkClasses:
    """Join the classes to molecules and determine which of these is the particle."""
    lowest = lowest_compared_shell(request.mask, spectra.box)
    correlations = maps.correlations(lowest)
    # A reference is one state of the particle, and classes of other states are not joined to it.
    least = RELATED if request.reference is None else SAME
    families, mean = join_classes(gains, labels, correlations, least)
    if families.max() < 0:
        raise UserError(
            "No class of particles shows a structure: their half maps do not explain the particles of the other half "
            "set. Train longer, or check the poses."
        )
    particle, best = (0,) if request.particle is None else request.particle, None
    if not set(particle) <= set(range(families.max() + 1)):
        raise UserError(
            f"The molecules are 0 to {families.max()}, but --molecules is {','.join(map(str, particle))}. Give numbers "
            "of molecules."
        )
    if request.reference is not None and request.particle is None:
        reference = torch.from_numpy(np.asarray(request.reference, dtype=np.float32))
        wanted = spectra.spectra(crop_in_fourier_space(reference, spectra.box)[None])[0]
        inner = maps.importance * (maps.shells > lowest)
        both = maps.halves.mean(0)
        overlap = ((both * inner) @ wanted.conj()).real / ((both.abs().square() * inner).sum(1).sqrt() + 1e-20)
        overlap[torch.from_numpy(families < 0)] = -torch.inf
        best = int(overlap.argmax())
        particle = (int(families[best]),)
    return JunkClasses(labels, families, particle, correlations, mean, best)
