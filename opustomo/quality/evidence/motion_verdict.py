"""Verdict on the change of the map along a coordinate of the latents, such as a motion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from opustomo.quality.evidence.class_pair_test import SIGNIFICANT, SMALL, SYSTEMATIC
from opustomo.quality.evidence.covariates import STRATA, Covariate, standardized
from opustomo.quality.evidence.permutation_tests import (
    SPLITS,
    SplitTest,
    compare_split,
    matched_permutations,
    slope_coefficients,
    tail_probability,
)
from opustomo.quality.evidence.residual_features import ParticleFeatures
from opustomo.quality.evidence.verdicts import CANNOT_TELL, NOT_SUPPORTED, SUPPORTED

FIRST_COMPONENT = "the first principal component of the conformation latents"
NOT_JUDGED = "not judged"
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
        ``supported``, ``not supported``, ``cannot tell`` or ``not judged``.
    sentence
        Reason in words.
    split
        Test of the change between the 5th and the 95th percentile of the coordinate; None for too few particles.
    p_continuous
        Probability that the map changes in the same way within the lower and the upper half of the coordinate if
        there are only two states; NaN if this was not tested.
    """

    name: str
    verdict: str
    sentence: str
    split: SplitTest | None
    p_continuous: float

    def lines(self) -> list[str]:
        """Return the verdict as lines of text."""
        return [f"Change along {self.name}: {self.verdict.upper()}.", f"    {self.sentence}"]


def not_judged(reason: str) -> MotionVerdict:
    """Return that the conformation latents were not judged, and why."""
    return MotionVerdict(FIRST_COMPONENT, NOT_JUDGED, reason, None, float("nan"))


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
