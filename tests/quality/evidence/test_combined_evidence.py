"""Verdicts that follow from comparisons of classes, stability and gain in likelihood."""

from dataclasses import replace

import numpy as np

from opustomo.quality.evidence.class_pair_test import Gain, PairTest
from opustomo.quality.evidence.cluster_stability import Stability
from opustomo.quality.evidence.permutation_tests import SplitTest
from opustomo.quality.evidence.verdicts import NO_EVIDENCE, combine_evidence, merged_groups


def stability_of(*agreement: float) -> Stability:
    """Stability of clusters with these agreements between disjoint halves."""
    number = len(agreement)
    return Stability(number, {number: 0.8}, 0.7, 0.9, np.full(number, 0.8), np.array(agreement), np.full(40, 0.3))


def test_a_number_that_agrees_less_is_not_called_more_stable() -> None:
    found = Stability(3, {2: 0.3, 3: 0.61, 4: 0.6}, 0.3, 0.8, np.ones(3), np.ones(3), np.zeros(3))
    assert found.sentence().endswith("for 3 clusters; 4 clusters agree as well (ARI 0.60).")


def pair_of(first: int, second: int, outcome: str) -> PairTest:
    change, p_value = {"different": (0.2, 1e-9), "same": (0.0, 0.5), "unclear": (0.0, 0.5)}[outcome]
    error = 0.2 if outcome == "unclear" else 0.001
    split = SplitTest(change, error, p_value, 1.0, 0.9, 1.1, 1.0)
    return PairTest(first, second, split, Gain(1.0, 0.1), 1.0, 0.5, True)


def test_a_difference_far_below_systematic_errors_is_none() -> None:
    """Classes of one proteasome differ in 0.1 to 0.3 % of the power with p < 1e-10, those of a single tRNA in 2 %."""
    divided = SplitTest(0.003, 0.0003, 1e-12, 1.0, 0.9, 1.1, 1.0)
    pair = PairTest(0, 1, divided, Gain(1.3, 0.3), 1.0, 0.5, True)
    assert pair.outcome == "same" and "in only 0.3% of the signal's power (p < 1e-10)" in pair.sentence(0)
    alone = combine_evidence([50, 50], [pair], [], stability_of(0.9, 0.9), Gain(1.3, 0.3))
    assert alone.verdict == "not supported" and alone.summary == NO_EVIDENCE and alone.groups == [[0, 1]]
    assert replace(pair, split=replace(divided, change=0.019)).outcome == "unclear"
    # one of three classes was divided: the others remain supported, and the groups are named
    pairs = [pair, pair_of(0, 2, "different"), pair_of(1, 2, "different")]
    three = combine_evidence([50, 50, 20], pairs, [], stability_of(0.9, 0.9, 0.9), Gain(1.3, 0.3))
    doubtful = combine_evidence([50, 50, 20], [pair, pairs[1], pair_of(1, 2, "unclear")], [], None, None)
    assert "at most 2 groups (0 + 1, 2), of which not all are shown to differ" in doubtful.summary
    assert three.groups_differ and not doubtful.groups_differ
    assert "2 groups that differ (0 + 1, 2)" in three.summary and three.groups == [[0, 1], [2]]
    assert [one.verdict for one in three.classes] == ["not supported", "not supported", "supported"]


def test_verdicts_follow_the_pairs() -> None:
    different, same, unclear = "different", "same", "unclear"
    good = combine_evidence([50, 50], [pair_of(0, 1, different)], [], stability_of(0.9, 0.9), Gain(1.0, 0.1))
    assert good.verdict == "supported" and [one.verdict for one in good.classes] == ["supported"] * 2
    none = combine_evidence([50, 50], [pair_of(0, 1, same)], [], None, None)
    assert none.verdict == "not supported" and "no evidence for classes" in none.summary
    pairs = [pair_of(0, 1, same), pair_of(0, 2, different), pair_of(1, 2, different)]
    split = combine_evidence([50, 50, 50], pairs, [], stability_of(0.9, 0.9, 0.9), None)
    assert split.verdict == "not supported" and "2 groups" in split.summary and "0 + 1, 2" in split.summary
    assert [one.verdict for one in split.classes] == ["not supported", "not supported", "supported"]
    for stability in (stability_of(0.2, 0.2), stability_of(0.45, 0.45), None):
        doubtful = combine_evidence([50, 50], [pair_of(0, 1, different)], [], stability, Gain(1.0, 0.1))
        assert doubtful.verdict == "cannot tell" and "half of the particles" in doubtful.classes[0].reasons[-1]
    open_question = combine_evidence([50, 9], [pair_of(0, 1, unclear)], [], None, None)
    assert open_question.verdict == "cannot tell" and "would have been missed" in open_question.classes[0].reasons[0]
    assert combine_evidence([50, 0], [], [], None, None).classes[1].reasons == ("It has no particles.",)
    assert merged_groups([0, 1, 2, 3], [pair_of(0, 2, same), pair_of(2, 3, same)]) == [[0, 2, 3], [1]]
    assert any(line.startswith("Verdict: SUPPORTED.") for line in good.lines())


def test_a_negative_verdict_names_the_failing_test_first() -> None:
    """A gain in likelihood under a verdict that is not positive says why it does not decide."""
    small = replace(pair_of(0, 1, "same"), split=SplitTest(0.002, 0.0003, 1e-4, 1.0, 0.9, 1.1, 1.0))
    none = combine_evidence([50, 50], [small], [], stability_of(0.9, 0.9), Gain(46.0, 5.0))
    assert none.reasons[0].startswith("Class 0 differs from class 1 in only 0.2% of the signal's power")
    assert "+46 ± 5 nats per particle. This gain alone is no evidence" in none.reasons[1]
    pairs = [small, pair_of(0, 2, "different"), pair_of(1, 2, "different")]
    groups = combine_evidence([50, 50, 50], pairs, [], stability_of(0.9, 0.9, 0.9), Gain(46.0, 5.0))
    assert "from class 1 in only 0.2%" in groups.reasons[0]
    assert "This gain comes from the classes that differ" in groups.reasons[1]
    several = [small, *(replace(small, first=one, second=2) for one in (0, 1))]
    alike = combine_evidence([50, 50, 50], several, [], None, Gain(1.0, 2.0))
    assert alike.reasons[0].endswith("Nor are these classes told apart: 0 from 2 and 1 from 2.")
    assert "no better than one map does" in alike.reasons[1] and "which is not significant" in alike.reasons[1]
    pairs = [pair_of(0, 1, "different")]
    lost = combine_evidence([50, 50], pairs, [], stability_of(0.9, 0.2), Gain(46.0, 5.0))
    assert lost.reasons[0].startswith("Class 1 is not reproduced when half of the particles are clustered")
    unclear = combine_evidence([50, 50], [pair_of(0, 1, "unclear")], [], stability_of(0.9, 0.2), None)
    assert unclear.reasons[0].startswith("Class 0 is not found to differ from class 1 (p = 0.5), but")
    good = combine_evidence([50, 50], pairs, [], stability_of(0.9, 0.9), Gain(46.0, 5.0))
    assert good.reasons[0].endswith("+46 ± 5 nats per particle.")
