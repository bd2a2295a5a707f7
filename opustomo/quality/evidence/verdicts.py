"""Verdicts on each class and on the classification as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from opustomo.quality.evidence.class_pair_test import DIFFERENT, NOISE, SAME, SYSTEMATIC, UNCLEAR, Gain, PairTest
from opustomo.quality.evidence.cluster_stability import Stability
from opustomo.quality.evidence.covariates import Effect, MatchedFsc

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

    @property
    def groups_differ(self) -> bool:
        """Whether all classes of different groups are shown to differ."""
        return _groups_differ(self.groups, self.pairs)

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
    verdict, summary = _judge_run(classes, pairs)
    reasons = [] if verdict == SUPPORTED else _failures(classes, pairs, stability)
    if gain is not None and np.isfinite(gain.mean):
        reasons.append(
            f"Maps of {present} classes explain the particles of the other half set "
            f"{'better than' if gain.positive else 'worse than' if gain.negative else 'no better than'} one map does, "
            f"compared with random classes: {gain}."
        )
        if gain.positive and verdict != SUPPORTED:
            reasons[-1] += _why_not_decisive(pairs)
    if stability is not None:
        reasons.append(stability.sentence())
    notable = [effect for effect in effects if effect.notable]
    if notable:
        names = ", ".join(effect.sentence() for effect in notable)
        reasons.append(f"The classes are associated with {names}. Matched random splits take this into account.")
    elif effects:
        names = ", ".join(effect.name for effect in effects)
        reasons.append(f"The classes are not associated with {names} beyond a small effect.")
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


def _failures(classes: Sequence[ClassVerdict], pairs: Sequence[PairTest], stability: Stability | None) -> list[str]:
    """Return which comparison of classes fails or, if all classes differ, which of them are not reproduced."""
    failed = [pair for pair in pairs if pair.outcome in (SAME, NOISE)]
    failed = sorted(failed or [pair for pair in pairs if pair.outcome == UNCLEAR], key=lambda pair: pair.split.change)
    if failed:
        others = " and ".join(f"{pair.first} from {pair.second}" for pair in failed[1:4])
        more = f", and {len(failed) - 4} more pairs" if len(failed) > 4 else ""
        likewise = f" Nor are these classes told apart: {others}{more}." if others else ""
        return [failed[0].sentence(failed[0].first, named=True) + likewise]
    if not pairs or stability is None:
        return []
    doubtful = [one.number for one in classes if one.particles and one.verdict != SUPPORTED]
    return [f"Class {number}{stability.class_sentence(number).removeprefix('It')}" for number in doubtful]


def _why_not_decisive(pairs: Sequence[PairTest]) -> str:
    """Return why a gain in likelihood does not support all classes."""
    if any(pair.outcome == DIFFERENT for pair in pairs):
        return " This gain comes from the classes that differ; it does not show that the others do."
    return (
        f" This gain alone is no evidence: maps must differ by at least {SYSTEMATIC:.1%} of the signal's power, with "
        "controls of equal views and scores and in independent noise, because errors of CTF, poses and imaging model "
        "gain likelihood as well."
    )


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
        formed = f"{len(groups)} groups that differ ({names})"
        if not _groups_differ(groups, pairs):
            formed = f"at most {len(groups)} groups ({names}), of which not all are shown to differ"
        return NOT_SUPPORTED, f"{len(present)} classes are more than the data support: they form {formed}."
    doubtful = ", ".join(str(one.number) for one in present if one.verdict != SUPPORTED)
    return CANNOT_TELL, f"Some classes differ, but it is not clear whether these are real: {doubtful}."


def _groups_differ(groups: list[list[int]], pairs: Sequence[PairTest]) -> bool:
    place = {number: at for at, group in enumerate(groups) for number in group}
    return all(pair.outcome == DIFFERENT for pair in pairs if place[pair.first] != place[pair.second])


def merged_groups(numbers: Sequence[int], pairs: Sequence[PairTest]) -> list[list[int]]:
    """Return the groups of classes that cannot be distinguished, each ascending."""
    group = {number: {number} for number in numbers}
    for pair in pairs:
        if pair.outcome in (SAME, NOISE) and group[pair.first] is not group[pair.second]:
            union = group[pair.first] | group[pair.second]
            for member in union:
                group[member] = union
    return [list(members) for members in sorted({tuple(sorted(members)) for members in group.values()})]
