"""Comparison of the difference between decoded maps of classes with that between their subtomograms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from opustomo.io.mrc import read_volume
from opustomo.quality.evidence.class_pair_test import DIFFERENT, PairTest

SHOWN = 0.5
"""Fraction of the difference of subtomograms below which decoded maps are said not to show it."""


def power_of_difference(first: np.ndarray, second: np.ndarray, mask: np.ndarray | None) -> float:
    """Return the fraction of the power of one map that another one does not explain by contrast, 1 - r².

    Parameters
    ----------
    first, second
        Maps (n, n, n).
    mask
        Mask (D, D, D) with D ≥ n, or None; r is the correlation inside its central cube.
    """
    size = len(first)
    weight = np.ones_like(first)
    if mask is not None:
        start = len(mask) // 2 - size // 2
        weight = mask[(slice(start, start + size),) * 3]
    a, b = (volume - np.average(volume, weights=weight) for volume in (first, second))
    power = float((weight * a * a).sum() * (weight * b * b).sum())
    return 1.0 - float((weight * a * b).sum()) ** 2 / power if power > 0 else 0.0


def decoded_reasons(folder: Path, pairs: Sequence[PairTest], mask: np.ndarray | None) -> list[str]:
    """Return a sentence on the decoded maps ``reference{i}.mrc`` of each pair of classes that differ.

    Pairs without decoded maps, or with maps larger than the mask, are omitted.
    """
    sentences = []
    for pair in (pair for pair in pairs if pair.outcome == DIFFERENT):
        paths = [folder / f"reference{number}.mrc" for number in (pair.first, pair.second)]
        if not all(path.is_file() for path in paths):
            continue
        first, second = (np.asarray(read_volume(path)[0], dtype=np.float64) for path in paths)
        if mask is not None and len(mask) < len(first):
            continue
        shown = power_of_difference(first, second, mask)
        sentence = (
            f"Beyond contrast, the decoded maps of classes {pair.first} and {pair.second} differ in {shown:.1%} of "
            f"their power, their subtomograms in {pair.split.change:.1%}."
        )
        if shown < SHOWN * pair.split.change:
            sentence += (
                " The decoder does not show most of the difference: look at "
                f"backprojection{pair.first}.mrc and backprojection{pair.second}.mrc instead of decoded maps."
            )
        sentences.append(sentence)
    return sentences
