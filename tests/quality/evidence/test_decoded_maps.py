"""Difference between decoded maps beside that between subtomograms."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from opustomo.io.mrc import write_volume
from opustomo.quality.evidence.class_pair_test import DIFFERENT, SAME
from opustomo.quality.evidence.decoded_maps import decoded_reasons, power_of_difference


def maps(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two orthogonal maps without mean."""
    first, second = generator.normal(size=(2, 12, 12, 12)).astype(np.float32)
    first -= first.mean()
    second -= second.mean()
    return first, second - first * (first * second).sum() / (first * first).sum()


def test_power_of_a_difference_ignores_contrast_and_what_is_outside_the_mask() -> None:
    first, second = maps(np.random.default_rng(0))
    size = np.linalg.norm(first) / np.linalg.norm(second)
    assert power_of_difference(first, 1.7 * first, None) == pytest.approx(0, abs=1e-6)
    assert power_of_difference(first, first + 0.5 * size * second, None) == pytest.approx(0.2, abs=1e-3)
    mask = np.zeros((16, 16, 16))
    mask[2:14, 2:14, 2:8] = 1
    other = first.copy()
    other[:, :, 6:] = second[:, :, 6:]
    assert power_of_difference(first, other, mask) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("change", "shown"), [(0.05, True), (0.9, False)])
def test_a_decoder_that_hides_a_difference_is_named(change: float, shown: bool, tmp_path: Path) -> None:
    first, second = maps(np.random.default_rng(1))
    for number, volume in enumerate((first, first + 0.3 * second, first)):
        write_volume(tmp_path / f"reference{number}.mrc", volume.astype(np.float32), 4.0)

    def pair(one: int, other: int, outcome: str) -> Any:
        return SimpleNamespace(first=one, second=other, outcome=outcome, split=SimpleNamespace(change=change))

    pairs = [pair(0, 1, DIFFERENT), pair(0, 2, SAME), pair(1, 5, DIFFERENT)]
    (sentence,) = decoded_reasons(tmp_path, pairs, None)
    assert f"their subtomograms in {change:.1%}" in sentence
    assert ("backprojection0.mrc" in sentence) != shown
