"""Output files of the verdicts: ``validation_verdict.json``, ``validation_pairs.csv``, ``validation_imaging.csv``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from opustomo.io.atomic import atomic_path
from opustomo.quality.evidence.class_verdicts import RunVerdict
from opustomo.quality.evidence.evidence_files import number_text, write_rows
from opustomo.quality.evidence.motion_verdict import MotionVerdict


def write_verdict(folder: Path, verdict: RunVerdict, motion: MotionVerdict | None) -> list[Path]:
    """Write the verdicts and the tables that they are based on, and return their paths."""
    written = [folder / "validation_verdict.json", folder / "validation_pairs.csv", folder / "validation_imaging.csv"]
    content: dict[str, Any] = {
        "verdict": verdict.verdict,
        "summary": verdict.summary,
        "reasons": list(verdict.reasons),
        "classes": [
            {
                "class": one.number,
                "particles": one.particles,
                "verdict": one.verdict,
                "reasons": list(one.reasons),
                "fsc": None if one.fsc is None else asdict(one.fsc),
            }
            for one in verdict.classes
        ],
        "stability": None
        if verdict.stability is None
        else {
            "ari": {str(number): round(value, 4) for number, value in verdict.stability.ari.items()},
            "most_stable": verdict.stability.most_stable,
        },
        "motion": None
        if motion is None
        else {"coordinate": motion.name, "verdict": motion.verdict, "reason": motion.sentence},
    }
    with atomic_path(written[0]) as partial:
        partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_rows(written[1], _pair_rows(verdict))
    write_rows(written[2], _imaging_rows(verdict))
    return written


def _pair_rows(verdict: RunVerdict) -> Iterable[Sequence[object]]:
    yield (
        *("class1", "class2", "outcome", "difference", "difference_error", "p_value"),
        *("gain_nats", "gain_error", "confirmed", "confirmed_low", "confirmed_high", "contrast_ratio", "p_contrast"),
        "matched",
    )
    for pair in verdict.pairs:
        split = pair.split
        numbers = (
            *(split.change, split.change_error, split.p_value, pair.gain.mean, pair.gain.error),
            *(split.confirmed, split.confirmed_low, split.confirmed_high, pair.contrast_ratio, pair.p_contrast),
            split.movable,
        )
        yield (pair.first, pair.second, pair.outcome, *map(number_text, numbers))


def _imaging_rows(verdict: RunVerdict) -> Iterable[Sequence[object]]:
    yield ("covariate", "effect_size", "p_value_corrected")
    for effect in verdict.effects:
        yield (effect.name, number_text(effect.size), number_text(effect.p_value))
