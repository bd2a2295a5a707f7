"""Facts of the tutorial on simulated ribosomes."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from facts import check_facts, expect, loss_facts, output_of, verdict_facts
from sklearn.metrics import adjusted_rand_score

from opustomo.io.pickles import load_pickle

NAMES = ("large subunits", "small subunits", "complete ribosomes")
PICTURES = {
    "check.png": "check.png",
    "training.png": "run/training.png",
    "umap.png": "run/analyze.7/kmeans3/umap.png",
    "views.png": "run/analyze.7/umap.png",
    "clusters.png": "run/analyze.7/kmeans3/reference.png",
    "pc1.png": "run/analyze.7/pc1/reference.png",
    "validation.png": "run/analyze.7/kmeans3/validation.png",
    "convergence.png": "run/convergence.png",
}


def composition(labels: np.ndarray, truth: np.ndarray) -> str:
    """Return in words which states each cluster contains."""
    sentences = []
    for cluster in range(int(labels.max()) + 1):
        counts = np.bincount(truth[labels == cluster], minlength=len(NAMES))
        parts = [f"{counts[state]} {NAMES[state]}" for state in np.argsort(-counts) if counts[state]]
        sentences.append(f"Cluster {cluster} holds {' and '.join(parts)}")
    return ". ".join(sentences)


def facts(work: Path, outputs: dict[str, str]) -> dict[str, object]:
    """Return the facts of a finished run in `work`; raise an error if the text would be wrong."""
    folder = work / "run" / "analyze.7" / "kmeans3"
    labels, truth = load_pickle(folder / "labels.pkl"), np.load(work / "data" / "truth.npz")["labels"]
    majority = [int(np.bincount(truth[labels == cluster], minlength=3).argmax()) for cluster in range(3)]
    validated = verdict_facts(folder, output_of(outputs, "dsdsh validate"), (0,))
    with (work / "run" / "convergence.csv").open(newline="") as file:
        agreement = [float(row["ari_previous"]) for row in csv.DictReader(file) if row["ari_previous"]]
    ari = float(adjusted_rand_score(truth, labels))
    found: dict[str, object] = {
        **check_facts(output_of(outputs, "dsd check")),
        **loss_facts(work / "run"),
        **validated,
        "ari": ari,
        "composition": composition(labels, truth),
        "states": ", ".join(f"cluster {cluster} as {NAMES[state]}" for cluster, state in enumerate(majority)),
        "agreement": agreement[-1],
    }
    options = "--templateres 32 --encoderres 8 --zdim 6 -b 8 --lr 4.0e-04"
    expect(options in output_of(outputs, "dsd check"), f"dsd check proposes {options}")
    expect(found["check_word"] == "usable", "the set is usable without reservations")
    expect(ari > 0.9 and sorted(majority) == [0, 1, 2], "each cluster is one state but for single particles")
    expect(validated["verdict"] == "supported", "all classes are supported")
    expect(found["state"] == "improving", "the run still improves")
    return found
