"""Facts of the tutorial on the ribosomes of EMPIAR-10499."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
from facts import check_facts, expect, loss_facts, output_of, verdict_facts

SHELLS_A = (60.0, 40.0, 30.0, 26.7, 24.0)
PICTURES = {
    "ribosomes-umap.png": "run/analyze.7/kmeans4/umap.png",
    "ribosomes-clusters.png": "run/analyze.7/kmeans4/reference.png",
}


def fsc_row(path: Path) -> str:
    """Return the FSC at some resolutions from a table of ``dsd reconstruct``, as cells of a Markdown table."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    frequency = np.array([float(row["frequency_per_A"]) for row in rows])
    values = np.array([float(row["fsc_true"]) for row in rows])
    return " | ".join(f"{value:.3f}" for value in np.interp(1 / np.array(SHELLS_A), frequency, values))


def resolution(output: str) -> str:
    """Return the resolution at 0.143 that ``dsd reconstruct`` printed."""
    match = re.search(r": (\S+ Å) at 0\.143", output)
    assert match is not None
    return match[1]


def facts(work: Path, outputs: dict[str, str]) -> dict[str, object]:
    """Return the facts of a finished run in `work`; raise an error if the text would be wrong."""
    four = work / "run" / "analyze.7" / "kmeans4"
    validated = verdict_facts(four, output_of(outputs, "dsdsh results run -k 4"), (1,))
    three = json.loads((four.with_name("kmeans3") / "validation_verdict.json").read_text(encoding="utf-8"))
    found: dict[str, object] = {
        **check_facts(output_of(outputs, "dsd check")),
        **loss_facts(work / "run"),
        **validated,
        "three_verdict": three["verdict"],
        "three_summary": three["summary"],
        "three_ari": three["stability"]["ari"]["3"],
        "given_fsc": fsc_row(work / "given_fsc.csv"),
        "refined_fsc": fsc_row(work / "run" / "analyze.7" / "all_fsc.csv"),
        "given_resolution": resolution(output_of(outputs, "dsd reconstruct particles.star --halves --mask")),
        "refined_resolution": resolution(output_of(outputs, "dsd reconstruct particles.star --halves --poses")),
    }
    expect(found["check_word"] == "usable with reservations", "the set is usable with reservations")
    expect(validated["verdict"] != "supported", "four classes are not supported")
    expect(three["verdict"] != "supported", "three classes are not supported")
    return found
