"""Verdicts on each class, on the classification as a whole, and on continuous changes such as motions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from opustomo.quality.evidence.class_pair_test import (
    DIFFERENT,
    NOISE,
    SAME,
    SIGNIFICANT,
    SMALL,
    SYSTEMATIC,
    UNCLEAR,
    Gain,
    PairTest,
)
from opustomo.quality.evidence.cluster_stability import Stability
from opustomo.quality.evidence.covariates import STRATA, Covariate, Effect, MatchedFsc, standardized
from opustomo.quality.evidence.permutation_tests import (
    SPLITS,
    SplitTest,
    compare_split,
    matched_permutations,
    slope_coefficients,
    tail_probability,
)
from opustomo.quality.evidence.residual_features import ParticleFeatures

SUPPORTED, NOT_SUPPORTED, CANNOT_TELL = "supported", "not supported", "cannot tell"
NO_EVIDENCE = "There is no evidence for classes of these particles."


@dataclass(frozen=True)
class ClassVerdict:
    """Verdict on one class.

    Attributes
    ----------
    number, particles
        Number of the class and of its particles.
    verdict
        ``supported``, ``not supported`` or ``cannot tell``.
    reasons
        Reasons in words.
    fsc
        FSC of the class and of matched controls; None if there are too few particles.
    """

    number: int
    particles: int
    verdict: str
    reasons: tuple[str, ...]
    fsc: MatchedFsc | None = None


@dataclass(frozen=True)
class RunVerdict:
    """Verdict on a classification.

    Attributes
    ----------
    verdict, summary
        ``supported``, ``not supported`` or ``cannot tell``, and one sentence about it.
    reasons
        Reasons in words.
    classes
        Verdict on each class.
    pairs, effects, stability, gain
        What the verdict is based on.
    """

    verdict: str
    summary: str
    reasons: tuple[str, ...]
    classes: tuple[ClassVerdict, ...]
    pairs: tuple[PairTest, ...] = field(default=(), repr=False)
    effects: tuple[Effect, ...] = field(default=(), repr=False)
    stability: Stability | None = field(default=None, repr=False)
    gain: Gain | None = None

    @property
    def groups(self) -> list[list[int]]:
        """Groups of classes that cannot be distinguished; a class that differs from all others is a group."""
        return merged_groups([one.number for one in self.classes if one.particles], self.pairs)

    def lines(self) -> list[str]:
        """Return the verdicts as lines of text."""
        found = []
        for one in self.classes:
            found.append(f"Class {one.number} ({one.particles:,} particles): {one.verdict.upper()}.")
            found += [f"    {reason}" for reason in one.reasons]
        found.append(f"Verdict: {self.verdict.upper()}. {self.summary}")
        return [*found, *(f"    {reason}" for reason in self.reasons)]


def combine_evidence(
    counts: Sequence[int],
    pairs: Sequence[PairTest],
    effects: Sequence[Effect],
    stability: Stability | None,
    gain: Gain | None,
    fsc: Sequence[MatchedFsc | None] = (),
) -> RunVerdict:
    """Combine the evidence into verdicts.

    A class is supported if it differs from every other class and is reproduced between disjoint halves of the
    particles. It is not supported if it cannot be distinguished from another class although a difference would have
    been detected.

    Parameters
    ----------
    counts
        Number of particles of each class, (K,).
    pairs
        Comparison of each pair of classes that are not empty.
    effects
        Associations of the classes with how particles were imaged.
    stability
        Stability of the clustering; None if it could not be determined.
    gain
        Gain in log-likelihood of all classes over one class, less that of random classes.
    fsc
        FSC of each class and of matched controls, (K,). It is reported and does not decide: half of a real class also
        exceeds its controls.
    """
    present = sum(count > 0 for count in counts)
    classes = tuple(
        _judge_class(number, int(count), present - 1, pairs, stability) for number, count in enumerate(counts)
    )
    classes = tuple(
        one if found is None else replace(one, reasons=(*one.reasons, found.sentence()), fsc=found)
        for one, found in zip(classes, fsc or [None] * len(classes), strict=True)
    )
    reasons = []
    if gain is not None and np.isfinite(gain.mean):
        reasons.append(
            f"Maps of {present} classes explain the particles of the other half set "
            f"{'better than' if gain.positive else 'worse than' if gain.negative else 'no better than'} one map does, "
            f"compared with matched random classes: {gain}."
        )
    if stability is not None:
        reasons.append(stability.sentence())
    notable = [effect for effect in effects if effect.notable]
    if notable:
        names = ", ".join(effect.sentence() for effect in notable)
        reasons.append(f"The classes are associated with {names}. Matched random splits take this into account.")
    elif effects:
        names = ", ".join(effect.name for effect in effects)
        reasons.append(f"The classes are not associated with {names} beyond a small effect.")
    verdict, summary = _judge_run(classes, pairs)
    return RunVerdict(verdict, summary, tuple(reasons), classes, tuple(pairs), tuple(effects), stability, gain)


def _judge_class(
    number: int, count: int, others: int, pairs: Sequence[PairTest], stability: Stability | None
) -> ClassVerdict:
    own = [pair for pair in pairs if number in (pair.first, pair.second)]
    if count == 0:
        return ClassVerdict(number, count, CANNOT_TELL, ("It has no particles.",))
    if not own:
        alone = "There is no other class to compare it with." if others == 0 else "There are too few particles."
        return ClassVerdict(number, count, CANNOT_TELL, (alone,))
    by_outcome = {
        outcome: sorted((pair for pair in own if pair.outcome == outcome), key=lambda pair: pair.split.change)
        for outcome in (SAME, NOISE, UNCLEAR, DIFFERENT)
    }
    merged = [*by_outcome[SAME], *by_outcome[NOISE]]
    if merged:
        return ClassVerdict(number, count, NOT_SUPPORTED, tuple(pair.sentence(number) for pair in merged[:3]))
    if by_outcome[UNCLEAR]:
        shown = by_outcome[UNCLEAR][:3]
        return ClassVerdict(number, count, CANNOT_TELL, tuple(pair.sentence(number) for pair in shown))
    reasons = [by_outcome[DIFFERENT][0].sentence(number)]
    if len(own) > 1:
        reasons.append("The differences from the other classes are larger.")
    if stability is None:
        reasons.append("It is not known whether it is reproduced when half of the particles are clustered.")
        return ClassVerdict(number, count, CANNOT_TELL, tuple(reasons))
    reasons.append(stability.class_sentence(number))
    if not stability.comes_back(number):
        return ClassVerdict(number, count, CANNOT_TELL, tuple(reasons))
    return ClassVerdict(number, count, SUPPORTED, tuple(reasons))


def _judge_run(classes: Sequence[ClassVerdict], pairs: Sequence[PairTest]) -> tuple[str, str]:
    present = [one for one in classes if one.particles]
    if len(present) < 2:
        return CANNOT_TELL, "There is only one class, so there is nothing to compare it with."
    verdicts = [one.verdict for one in present]
    if all(verdict == SUPPORTED for verdict in verdicts):
        return SUPPORTED, f"All {len(present)} classes differ from each other beyond contrast, pose errors and noise."
    if not any(pair.outcome == DIFFERENT for pair in pairs):
        if NOT_SUPPORTED in verdicts:
            return NOT_SUPPORTED, NO_EVIDENCE
        return CANNOT_TELL, "No two classes are shown to differ, but differences may have been missed."
    groups = merged_groups([one.number for one in present], pairs)
    names = ", ".join(" + ".join(map(str, group)) for group in groups)
    if NOT_SUPPORTED in verdicts:
        place = {number: at for at, group in enumerate(groups) for number in group}
        apart = [pair.outcome == DIFFERENT for pair in pairs if place[pair.first] != place[pair.second]]
        formed = f"{len(groups)} groups that differ ({names})"
        if not all(apart):
            formed = f"at most {len(groups)} groups ({names}), of which not all are shown to differ"
        return NOT_SUPPORTED, f"{len(present)} classes are more than the data support: they form {formed}."
    doubtful = ", ".join(str(one.number) for one in present if one.verdict != SUPPORTED)
    return CANNOT_TELL, f"Some classes differ, but it is not clear whether these are real: {doubtful}."


def merged_groups(numbers: Sequence[int], pairs: Sequence[PairTest]) -> list[list[int]]:
    """Return the groups of classes that cannot be distinguished, each ascending."""
    group = {number: {number} for number in numbers}
    for pair in pairs:
        if pair.outcome in (SAME, NOISE) and group[pair.first] is not group[pair.second]:
            union = group[pair.first] | group[pair.second]
            for member in union:
                group[member] = union
    return [list(members) for members in sorted({tuple(sorted(members)) for members in group.values()})]


FEWEST = 40
Z95 = 1.96


@dataclass(frozen=True)
class MotionVerdict:
    """Verdict on the change of the map along a coordinate.

    Attributes
    ----------
    name
        Name of the coordinate.
    verdict
        ``supported``, ``not supported`` or ``cannot tell``.
    sentence
        Reason in words.
    split
        Test of the change between the 5th and the 95th percentile of the coordinate; None for too few particles.
    p_continuous
        Probability that the map changes in the same way within the lower and the upper half of the coordinate if
        there are only two states.
    """

    name: str
    verdict: str
    sentence: str
    split: SplitTest | None
    p_continuous: float

    def lines(self) -> list[str]:
        """Return the verdict as lines of text."""
        return [f"Change along {self.name}: {self.verdict.upper()}.", f"    {self.sentence}"]


def predicted_strata(covariates: list[Covariate], coordinate: np.ndarray) -> np.ndarray:
    """Divide particles into strata (n,) in which their covariates predict similar coordinates (n,)."""
    columns = [covariate.values for covariate in covariates if covariate.matched and covariate.values.shape[1]]
    if not columns:
        return np.zeros(len(coordinate), dtype=np.int64)
    predicted = _predicted(np.concatenate(columns, 1), coordinate)
    edges = np.quantile(predicted, np.linspace(0, 1, STRATA + 1)[1:-1])
    return np.searchsorted(edges, predicted, side="right").astype(np.int64)


@dataclass(frozen=True)
class LatentCoordinate:
    """Coordinate of n particles in the space of the latents.

    Attributes
    ----------
    name
        Name of the coordinate.
    values
        Coordinate of each particle, (n,). What its class and composition predict is subtracted.
    composition
        Composition latents of each particle, (n, zdim); None if they are unknown.
    """

    name: str
    values: np.ndarray
    composition: np.ndarray | None = None


def judge_motion(
    features: ParticleFeatures,
    given: LatentCoordinate,
    classes: np.ndarray,
    covariates: list[Covariate],
    seed: int = 0,
) -> MotionVerdict:
    """Judge whether the map changes along a coordinate beyond composition, and whether it does so continuously.

    Parameters
    ----------
    features
        Features of n particles.
    given
        The coordinate.
    classes
        Class of each particle, (n,); controls are drawn within classes.
    covariates
        Covariates for which the controls are matched.
    seed
        Random seed.
    """
    name, coordinate, composition = given.name, given.values, given.composition
    classes = np.unique(classes, return_inverse=True)[1]
    means = np.bincount(classes, coordinate) / np.bincount(classes)
    coordinate = coordinate - means[classes]
    if composition is not None and len(coordinate) >= FEWEST:
        coordinate = coordinate - _predicted(standardized(composition), coordinate)
    low, high = np.percentile(coordinate, [5, 95])
    if len(coordinate) < FEWEST or high <= low:
        return MotionVerdict(name, CANNOT_TELL, "There are too few particles or no spread.", None, float("nan"))
    scaled = np.clip((coordinate - low) / (high - low), -0.25, 1.25)
    strata = predicted_strata(covariates, scaled) + STRATA * classes
    split = compare_split(features, np.arange(len(scaled)), scaled, strata, seed)
    p_continuous = _continuation(features, scaled, strata, seed)
    extent = np.sqrt(np.clip(split.change + Z95 * split.change_error * np.array([-1, 0, 1]), 0, None))
    size = f"{extent[1]:.1%} of its amplitude ({extent[0]:.1%} to {extent[2]:.1%})"
    chance = f"p = {split.p_value:.2g}" if split.p_value >= 1e-10 else "p < 1e-10"
    upper = scaled > np.median(scaled)
    between_halves = split.change * float(scaled[upper].mean() - scaled[~upper].mean()) ** 2
    confirmed = split.p_value <= SIGNIFICANT and split.confirmed >= 0.5 and split.confirmed_low > 0
    if confirmed and between_halves < SYSTEMATIC and split.confirmed_high < 1:
        sentence = (
            f"Beyond composition, the map changes by {size} from the 5th to the 95th percentile, {chance}. But maps of "
            f"both halves of the coordinate differ in only {max(between_halves, 0):.1%} of the signal's power, of "
            f"which independent noise confirms at most {split.confirmed_high:.0%}. Errors of CTF, poses and "
            f"imaging model can cause differences of up to {SYSTEMATIC:.1%}."
        )
        return MotionVerdict(name, CANNOT_TELL, sentence, split, p_continuous)
    if confirmed:
        kind = (
            "The change is continuous: it continues within the lower and within the upper half of the coordinate "
            f"(p = {p_continuous:.2g})."
            if p_continuous <= SIGNIFICANT
            else "It is not shown to be continuous; two states would explain it as well."
        )
        sentence = (
            f"Beyond composition, the map changes by {size} from the 5th to the 95th percentile, {chance}. {kind}"
        )
        return MotionVerdict(name, SUPPORTED, sentence, split, p_continuous)
    if split.upper < SMALL and (split.p_value > SIGNIFICANT or not split.confirmed_low > 0):
        sentence = (
            f"Beyond composition, the map changes no more than with matched random coordinates ({chance}), or this is "
            f"not confirmed by independent noise; it is at most {np.sqrt(split.upper):.0%} of its amplitude."
        )
        return MotionVerdict(name, NOT_SUPPORTED, sentence, split, p_continuous)
    sentence = (
        f"Beyond composition, the map may change by {size}, {chance}, but this is not confirmed by independent noise."
    )
    return MotionVerdict(name, CANNOT_TELL, sentence, split, p_continuous)


def _predicted(columns: np.ndarray, coordinate: np.ndarray) -> np.ndarray:
    """Predict coordinates (n,) from columns (n, q) by ridge regression on other particles."""
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import cross_val_predict

    return np.asarray(cross_val_predict(RidgeCV(np.logspace(0, 4, 9)), columns, coordinate, cv=5))


def _continuation(features: ParticleFeatures, coordinate: np.ndarray, strata: np.ndarray, seed: int) -> float:
    """Return the p-value of the product of the slopes within both halves of the coordinate."""
    upper = coordinate > np.median(coordinate)
    rows = [np.flatnonzero(~upper), np.flatnonzero(upper)]
    rng = np.random.default_rng(seed)
    slopes = []
    for chosen in rows:
        own = coordinate[chosen]
        slopes.append(slope_coefficients(np.stack([own, *matched_permutations(own, strata[chosen], SPLITS, rng)])))
    product = ((slopes[0] @ features.gram[np.ix_(rows[0], rows[1])]) * slopes[1]).sum(1)
    return tail_probability(float(product[0]), product[1:])
