"""Evidence of a classification from the subtomograms: read spectra, test pairs of classes, give verdicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from opustomo.data.particles import ParticleSet
from opustomo.quality.evidence.class_pair_test import CONTROLS, Gain, compare_pair, mixture_gain
from opustomo.quality.evidence.cluster_stability import ClusteredValues, cluster_stability
from opustomo.quality.evidence.covariates import effect_sizes, imaging_covariates, matched_fsc
from opustomo.quality.evidence.difference_maps import DifferenceMap, difference_map
from opustomo.quality.evidence.half_maps import DEFAULT_READING, ReadOptions, half_sets
from opustomo.quality.evidence.motion_verdict import FIRST_COMPONENT, LatentCoordinate, MotionVerdict, judge_motion
from opustomo.quality.evidence.particle_spectra import mask_on_box, read_spectra, sampled_particles
from opustomo.quality.evidence.residual_features import ParticleFeatures, Residuals, fit_residuals, particle_features
from opustomo.quality.evidence.verdicts import RunVerdict, combine_evidence

FEWEST = 20
"""Minimum number of particles for any verdict but "cannot tell"."""


@dataclass(frozen=True)
class Classification:
    """Classes to judge.

    Attributes
    ----------
    labels
        Class of each particle of the set, (N,). Labels of `num_clusters` or more mark excluded particles.
    num_clusters
        Number of classes, K.
    latents
        Composition latents, (N, zdim); None if they are unknown.
    clustered
        Values that were clustered, and the method; None if they are unknown.
    """

    labels: np.ndarray
    num_clusters: int
    latents: np.ndarray | None = None
    clustered: ClusteredValues | None = None


@dataclass(frozen=True)
class Material:
    """Particles of a set, read once, from which any classification of them can be judged.

    Attributes
    ----------
    particles
        Particle set.
    residuals, features
        Residuals of n of the particles relative to the map of all, and their inner products.
    held_out
        Indices of the particles that were held out from training.
    """

    particles: ParticleSet
    residuals: Residuals
    features: ParticleFeatures
    held_out: np.ndarray

    @property
    def index(self) -> np.ndarray:
        """Indices of the particles that are used, (n,)."""
        return self.residuals.spectra.index


def read_material(
    particles: ParticleSet,
    wanted: np.ndarray,
    mask: np.ndarray | None,
    held_out: np.ndarray,
    reading: ReadOptions = DEFAULT_READING,
) -> Material | None:
    """Read particles from which classifications can be judged, at most 4,000.

    Parameters
    ----------
    particles
        Particle set with the poses to use.
    wanted
        Indices of the particles to read, (m,).
    mask
        Solvent mask, (D, D, D); None for a ball.
    held_out
        Indices of the particles that were held out from training.
    reading
        How subtomograms are read.

    Returns
    -------
    Material or None
        None if fewer than 20 particles can be used.
    """
    chosen = sampled_particles(wanted)
    if len(chosen) < FEWEST:
        return None
    spectra = read_spectra(particles, chosen, reading)
    halves = half_sets(particles.star)[0][spectra.index]
    if len(spectra) < FEWEST or min(np.bincount(halves, minlength=2)) < 2:
        return None
    residuals = fit_residuals(spectra, halves, mask_on_box(mask, spectra.box))
    return Material(particles, residuals, particle_features(residuals), held_out)


def judge_classes(material: Material, classification: Classification, seed: int = 0) -> RunVerdict:
    """Compute the verdict on each class and on the classification.

    Parameters
    ----------
    material
        Particles that were read.
    classification
        Classes to judge.
    seed
        Random seed of all splits and permutations.
    """
    number = classification.num_clusters
    all_counts = np.bincount(classification.labels, minlength=number)[:number]
    labels = classification.labels[material.index]
    inside = np.flatnonzero(labels < number)
    counts = np.bincount(labels[inside], minlength=number)
    covariates = imaging_covariates(material.particles, material.index, material.held_out)
    present = [cluster for cluster in range(number) if counts[cluster]]
    pairs = [
        compare_pair(material.residuals, material.features, labels, pair, covariates, seed)
        for pair in combinations(present, 2)
    ]
    gain = None
    if len(present) > 1:
        rng = np.random.default_rng(seed)
        groups = np.unique(labels[inside], return_inverse=True)[1]
        gains = [
            mixture_gain(material.residuals, inside, order, len(present))
            for order in (groups, *(rng.permutation(groups) for _ in range(CONTROLS)))
        ]
        gain = Gain.over_controls(gains[0], gains[1:])
    stability = None
    if classification.clustered is not None:
        stability = cluster_stability(classification.clustered, classification.labels, number, seed)
    within = imaging_covariates(material.particles, material.index[inside], material.held_out)
    fsc = [matched_fsc(material.residuals, labels, cluster, covariates, seed) for cluster in range(number)]
    return combine_evidence(
        all_counts.tolist(), pairs, effect_sizes(within, labels[inside], seed), stability, gain, fsc
    )


def class_differences(material: Material, classification: Classification, seed: int = 0) -> list[DifferenceMap]:
    """Compute the difference map of each class from the others; classes with too few particles have none.

    Parameters
    ----------
    material
        Particles that were read.
    classification
        Classes to compare.
    seed
        Random seed of the splits.
    """
    labels, number = classification.labels[material.index], classification.num_clusters
    covariates = imaging_covariates(material.particles, material.index, material.held_out)
    maps = [difference_map(material.residuals, labels, one, covariates, number, seed) for one in range(number)]
    return [found for found in maps if found is not None]


def judge_conformation(
    material: Material, classification: Classification, conformation: np.ndarray, seed: int = 0
) -> MotionVerdict:
    """Compute the verdict on the change along the first principal component of the conformation.

    Parameters
    ----------
    material
        Particles that were read.
    classification
        Classes within which random coordinates are matched.
    conformation
        Conformation latents of all particles of the set, (N, d).
    seed
        Random seed of all permutations.
    """
    values = conformation[material.index].astype(np.float64)
    values -= values.mean(0)
    coordinate = values @ np.linalg.svd(values, full_matrices=False)[2][0]
    latents = classification.latents
    return judge_motion(
        material.features,
        LatentCoordinate(
            FIRST_COMPONENT,
            coordinate,
            composition=None if latents is None else latents[material.index],
        ),
        classification.labels[material.index],
        imaging_covariates(material.particles, material.index, material.held_out),
        seed,
    )


def cannot_tell(counts: list[int]) -> RunVerdict:
    """Return the verdict on classes of too few particles."""
    return combine_evidence(counts, [], [], None, None)


def print_verdicts(verdict: RunVerdict, motion: MotionVerdict | None, say: Callable[[str], None]) -> None:
    """Print the verdicts line by line."""
    for line in [*verdict.lines(), *([] if motion is None else motion.lines())]:
        say(line)
