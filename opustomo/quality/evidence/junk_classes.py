"""Classes of picks: half maps of classes of the latents, refined by likelihood, and molecules that they belong to.

The latents are divided into more classes than there are states. Each class is reconstructed in two half sets, and each
particle is compared with the classes of the half set that it does not belong to, so that its own noise favors none.
Particles move to the most likely class until few change. Classes whose maps agree beyond the coarsest shells show the
same molecule. See docs/junk.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from opustomo.physics.fsc import FSC_THRESHOLD
from opustomo.quality.evidence.particle_spectra import ParticleSpectra, mask_on_box
from opustomo.quality.evidence.residual_features import CHUNK, shell_mean

MEMBERS, MOST_CLASSES = 25, 16
"""Mean number of particles per class from which the number of classes follows, and its upper limit.

States are separated only if the classes are smaller than the states. Half maps of fewer particles are dominated by
noise.
"""
CONTRAST_SD = 0.4
"""Standard deviation of the contrast of single particles around 1 (ice thickness, dose, alignment)."""
COARSE = 2.5
"""Shells up to this multiple of the inverse diameter of the particle show its size only and are not compared."""
RELATED = 0.4
"""Lowest correlation of classes of one molecule.

Beyond the coarse shells, maps of molecules that share a subunit correlate by 0.55 and more (ribosomal subunits and
ribosomes), and those of unrelated or mirrored ones by at most 0.23 (four other complexes).
"""
ALIKE = 0.7
"""Correlation of classes from which they are the same object.

Those between this and `RELATED` are states of different composition (a ribosome and its subunits correlate by 0.56 to
0.78), or different objects of similar shape (a proteasome and its mirror image by 0.57).
"""
SAME = 0.9
"""Lowest correlation of classes of one molecule if a reference defines its state."""
SMALL = 20
"""Classes of fewer particles are joined to one other class only."""
FAINT = 0.1
"""Least gain of a class relative to that of a related one for both to be one molecule."""
MOST_ROUNDS, FEW_CHANGES = 10, 0.01
"""Classes are refined until fewer than this fraction of the particles changes its class, at most so many times."""
SIGNIFICANT = 3.0
"""Least mean gain of a class over nothing in units of its standard error, below which the class is empty."""
NOTHING = 0.01
"""Least prior probability that a particle shows nothing."""


@dataclass(frozen=True)
class ClassMaps:
    """Half maps of K classes at M frequencies.

    Attributes
    ----------
    halves
        Wiener estimates inside the mask, complex, shape (2, K, M).
    fractions
        Fraction of the particles in each class, shape (K,).
    importance
        Inverse noise variance of each frequency, shape (M,).
    shells
        Shell of each frequency, shape (M,).
    """

    halves: Tensor
    fractions: np.ndarray
    importance: Tensor
    shells: Tensor

    def correlations(self, lowest_shell: float) -> np.ndarray:
        """Return the mean Fourier shell correlation of all pairs of classes beyond a shell, shape (K, K).

        The correlation of a shell is that between half sets divided by those of both classes with themselves, so that
        noise does not bias it. Shells count by their number of frequencies and by how well both classes are resolved.
        """
        first, second = self.halves.to(torch.complex128)
        total = weights = np.zeros((first.shape[0],) * 2)
        for shell in range(int(lowest_shell) + 1, int(self.shells.max()) + 1):
            a, b = first[:, self.shells == shell], second[:, self.shells == shell]
            cross = (a @ b.conj().T).real.numpy()
            norms = np.sqrt(np.outer(a.abs().square().sum(1).numpy(), b.abs().square().sum(1).numpy()))
            own = np.divide(np.diag(cross), np.diag(norms), out=np.zeros(len(a)), where=np.diag(norms) > 0).clip(min=0)
            resolved = np.where(own > FSC_THRESHOLD, own, 0.0)
            power = np.sqrt(np.outer(np.diag(cross).clip(min=0), np.diag(cross).clip(min=0)))
            between = np.divide((cross + cross.T) / 2, power, out=np.zeros_like(cross), where=power > 0)
            weight = np.outer(resolved, resolved) * a.shape[1]
            total, weights = total + weight * between.clip(-1, 1), weights + weight
        return np.divide(total, weights, out=np.zeros_like(total), where=weights > 0)


def accumulate(
    first: ParticleSpectra, labels: np.ndarray, halves: np.ndarray, mask: np.ndarray | None, count: int | None = None
) -> ClassMaps:
    """Reconstruct the half maps of classes.

    Parameters
    ----------
    first
        Spectra of n particles.
    labels, halves
        Class from 0, or -1, and half set, 0 or 1, of all N particles, shape (N,).
    mask
        Solvent mask, shape (D, D, D), or None for a ball.
    count
        Number of classes; None for that of `labels`.
    """
    count = int(labels.max()) + 1 if count is None else count
    labels, halves = labels[first.index], halves[first.index]
    size = first.signal.shape[1]
    signal, weight = torch.zeros(2, count, size, dtype=torch.complex64), torch.zeros(2, count, size)
    for half in (0, 1):
        for group in range(count):
            rows = torch.from_numpy((halves == half) & (labels == group))
            signal[half, group], weight[half, group] = first.signal[rows].sum(0), first.weight[rows].sum(0)
    noise = _noise(first, labels, signal.sum(0), weight.sum(0))
    importance = torch.where(first.shells > 0, first.multiplicity / noise[first.shells], 0.0)
    floor = 1e-3 * shell_mean(weight.sum((0, 1)), first)[first.shells] + 1e-20
    inside = mask_on_box(mask, first.box)
    maps = torch.empty_like(signal)
    for group in range(count):
        plain = signal[:, group] / (weight[:, group] + floor)
        agreement = shell_mean((plain[0] * plain[1].conj()).real, first).clamp(min=0.0)
        # Wiener filter with the power of the signal that both half sets share
        prior = (noise / agreement.clamp(min=1e-9 * float(noise.max())))[first.shells]
        estimates = first.volumes(signal[:, group] / (weight[:, group] + prior)) * inside
        maps[:, group] = first.spectra(estimates)
    sizes = np.bincount(labels[labels >= 0], minlength=count)
    return ClassMaps(maps, sizes / len(labels), importance, first.shells)


def _noise(spectra: ParticleSpectra, labels: np.ndarray, signal: Tensor, weight: Tensor) -> Tensor:
    """Return the noise variance of each shell, (S,), from the residuals S - W V of the class maps V.

    Parameters
    ----------
    spectra, labels
        Spectra and classes of n particles, which may be -1.
    signal, weight
        Sums over the classes, shape (K, M).
    """
    power, total = torch.zeros(spectra.signal.shape[1]), torch.zeros(spectra.signal.shape[1])
    maps = signal / (weight + 0.1 * shell_mean(weight.mean(0), spectra)[spectra.shells] + 1e-20)
    maps = torch.cat([maps, torch.zeros_like(maps[:1])])  # the last is that of label -1
    for start in range(0, len(spectra), CHUNK):
        rows = slice(start, start + CHUNK)
        residual = spectra.signal[rows] - spectra.weight[rows] * maps[labels[rows]]
        power += residual.abs().square().sum(0)
        total += spectra.weight[rows].sum(0)
    noise = shell_mean(power, spectra) / (shell_mean(total, spectra) + 1e-20)
    return noise.clamp(min=1e-6 * float(noise.max()))


def class_gains(spectra: ParticleSpectra, maps: ClassMaps, halves: np.ndarray) -> np.ndarray:
    """Return the log-likelihood of each particle under each class, relative to no signal, in nats, shape (n, K).

    The contrast of each particle is integrated out, with a normal prior around 1.

    Parameters
    ----------
    spectra
        Spectra of n particles.
    maps
        Half maps of K classes.
    halves
        Half set of all N particles, 0 or 1, shape (N,); each particle is compared with the maps of the other one.
    """
    overlap, power = _overlaps(spectra, maps, halves, maps.importance)
    precision = 1.0 / CONTRAST_SD**2
    found = 0.5 * (overlap + precision) ** 2 / (power + precision) - 0.5 * precision
    return np.asarray(found - 0.5 * np.log1p(power / precision))


def class_contrasts(spectra: ParticleSpectra, maps: ClassMaps, halves: np.ndarray, lowest_shell: float) -> np.ndarray:
    """Return the contrast at which each particle shows each class beyond a shell, shape (n, K); NaN for empty maps."""
    overlap, power = _overlaps(spectra, maps, halves, torch.where(maps.shells > lowest_shell, maps.importance, 0.0))
    return np.divide(overlap, power, out=np.full_like(overlap, np.nan), where=power > 1e-6)


def _overlaps(
    spectra: ParticleSpectra, maps: ClassMaps, halves: np.ndarray, importance: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Compare each particle with the maps of the half set that it does not belong to.

    Returns
    -------
    overlap, power : numpy.ndarray
        Weighted products of the particle with the map and of the map with itself, shape (n, K). Their ratio is the
        contrast of the particle, and the second the inverse variance of the contrast.
    """
    overlap, power = np.empty((2, len(spectra), maps.halves.shape[1]))
    for half in (0, 1):
        rows = np.flatnonzero(halves[spectra.index] == half)
        other = maps.halves[1 - half]
        overlap[rows] = (spectra.signal[rows] @ (other.conj() * importance).T).real.numpy()
        power[rows] = (spectra.weight[rows] @ (other.abs().square() * importance).T).numpy()
    return overlap, power


def latent_classes(latents: np.ndarray, seed: int = 0) -> np.ndarray:
    """Divide latents (N, zdim) into many classes by k-means and return the class of each particle, (N,)."""
    from sklearn.cluster import KMeans

    number = int(np.clip(len(latents) // MEMBERS, 1, MOST_CLASSES))
    return np.asarray(KMeans(number, n_init=10, random_state=seed).fit_predict(latents), dtype=np.int64)


def refined_classes(
    spectra: ParticleSpectra,
    labels: np.ndarray,
    halves: np.ndarray,
    mask: np.ndarray | None,
    count: int | None = None,
) -> tuple[np.ndarray, ClassMaps]:
    """Assign particles to the most likely class and reconstruct the classes again until few particles change.

    Of all rounds, that is returned in which the maps explain the particles of the other half set best: classes of which
    both half maps drift apart lose their particles to the class with the sharpest map.

    Parameters
    ----------
    spectra
        Spectra of n particles.
    labels, halves
        First class and half set of all N particles, shape (N,).
    mask
        Solvent mask, shape (D, D, D), or None for a ball.
    count
        Number of classes; None for that of `labels`.

    Returns
    -------
    labels : numpy.ndarray
        Classes, -1 for particles that most likely show nothing, shape (N,); those of other particles are unchanged.
    maps : ClassMaps
    """
    count = int(labels.max()) + 1 if count is None else count
    highest = -np.inf
    for _ in range(MOST_ROUNDS + 1):
        maps = accumulate(spectra, labels, halves, mask, count)
        gains = class_gains(spectra, maps, halves)
        likelihood = mixture_likelihood(gains, maps.fractions)
        if likelihood > highest:
            highest, best = likelihood, (labels, maps)
        found = labels.copy()
        found[spectra.index] = most_likely(gains, maps.fractions)
        if float((found != labels)[spectra.index].mean()) < FEW_CHANGES:
            break
        labels = found
    return best


def mixture_likelihood(gains: np.ndarray, fractions: np.ndarray) -> float:
    """Return the mean log-likelihood of particles under all classes and nothing, relative to nothing, in nats."""
    nothing = np.full(len(gains), np.log(max(1.0 - float(fractions.sum()), NOTHING)))
    terms = np.column_stack([gains + np.log(np.maximum(fractions, 1e-9)), nothing])
    return float(np.logaddexp.reduce(terms, axis=1).mean())


def log_odds(gains: np.ndarray, wanted: np.ndarray, fractions: np.ndarray, empty: np.ndarray) -> np.ndarray:
    """Return the log posterior odds that particles show a wanted class, in nats, shape (n,).

    Parameters
    ----------
    gains
        Log-likelihoods relative to nothing, shape (n, K).
    wanted, empty
        Which classes are the particle, and which are empty, shape (K,).
    fractions
        Prior probability of each class, shape (K,).
    """
    nothing = max(1.0 - float(fractions[~empty].sum()), NOTHING)
    terms = gains + np.log(np.maximum(fractions, 1e-9))
    against = terms[:, ~wanted & ~empty]
    against = np.column_stack([against, np.full(len(gains), np.log(nothing))])
    return np.logaddexp.reduce(terms[:, wanted], axis=1) - np.logaddexp.reduce(against, axis=1)


def most_likely(gains: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """Return the most likely class of each particle, -1 if that is nothing (or its gains (n, K) are NaN), (n,)."""
    posterior = np.nan_to_num(gains, nan=-np.inf) + np.log(np.maximum(fractions, 1e-9))
    nothing = np.log(max(1.0 - float(fractions.sum()), NOTHING))
    return np.where(posterior.max(1) > nothing, posterior.argmax(1), -1)


def filled_classes(gains: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean gain of the members of each class over nothing, (K,), and whether it is significant, (K,).

    Parameters
    ----------
    gains
        Gains of n particles, NaN for those that cannot be used, shape (n, K).
    labels
        Class of each particle, or -1, shape (n,).
    """
    own = [gains[labels == group, group] for group in range(gains.shape[1])]
    own = [values[np.isfinite(values)] for values in own]
    mean = np.array([values.mean() if len(values) else 0.0 for values in own])
    error = np.array([values.std() / np.sqrt(len(values)) if len(values) > 1 else np.inf for values in own])
    return mean, mean > SIGNIFICANT * error


def molecules(
    correlations: np.ndarray,
    gains: np.ndarray,
    filled: np.ndarray,
    sizes: np.ndarray,
    least: float = RELATED,
) -> np.ndarray:
    """Join related classes to molecules and number these by decreasing population; -1 for empty classes, (K,).

    Parameters
    ----------
    correlations
        Correlations of the maps, shape (K, K).
    gains
        Mean gain of each class over nothing, shape (K,). It is proportional to the power of the map. Faint maps are
        mostly noise and resemble any other by chance, so that classes of very different gain are not joined.
    filled, sizes
        Whether the gain is significant, and number of particles, shape (K,).
    least
        Lowest correlation of classes that are joined.
    """
    from scipy.sparse.csgraph import connected_components

    comparable = np.minimum.outer(gains, gains) >= FAINT * np.maximum.outer(gains, gains)
    related = (correlations >= least) & comparable & filled[:, None] & filled[None]
    related &= ~np.eye(len(sizes), dtype=bool)
    # A small class is joined to its most related one only: its noisy map must not join two molecules.
    small = sizes < SMALL
    preferred = np.where(related & ~small, correlations + 2.0, np.where(related, correlations, -np.inf)).argmax(1)
    allowed = ~small[:, None] | (preferred[:, None] == np.arange(len(sizes)))
    related &= allowed & allowed.T
    groups = connected_components(related, directed=False)[1]
    population = np.array([sizes[(groups == g) & filled].sum() for g in range(groups.max() + 1)])
    rank = np.empty(len(population), dtype=np.int64)
    rank[np.argsort(-population, kind="stable")] = np.arange(len(population))
    return np.where(filled, rank[groups], -1)


def join_classes(
    gains: np.ndarray, labels: np.ndarray, correlations: np.ndarray, least: float = RELATED
) -> tuple[np.ndarray, np.ndarray]:
    """Return the molecule of each class (`molecules`) and the mean gain of its members over nothing, both (K,).

    Parameters
    ----------
    gains, labels
        As in `filled_classes`.
    correlations, least
        As in `molecules`.
    """
    mean, filled = filled_classes(gains, labels)
    sizes = np.bincount(labels[labels >= 0], minlength=len(filled))
    return molecules(correlations, mean, filled, sizes, least), mean


def lowest_compared_shell(mask: np.ndarray | None, box: int) -> float:
    """Return the shell of a box of `box` voxels up to which maps show the size of the particle only."""
    volume = float((mask_on_box(mask, box) > 0.5).sum())
    diameter = 2.0 * (0.75 * volume / np.pi) ** (1 / 3)
    return COARSE * box / max(diameter, 1.0)
