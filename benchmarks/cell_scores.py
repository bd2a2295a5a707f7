"""Scores of `benchmarks/cell.py` against the truth of the simulated tomograms.

A pick belongs to the nearest molecule of its tomogram within 80 Å, or to none. It is true if this molecule is a target.
Precision is the fraction of true picks in a set, recall the fraction of all true picks that the set contains.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from opustomo.io.mrc import read_volume
from opustomo.io.pickles import load_pickle
from opustomo.io.star_tables import ParticleStar, read_particles
from opustomo.physics.fsc import half_map_correlation, resolution_A, shell_correlation

NEAR_A = 80.0
BACKGROUND = -1


@dataclass(frozen=True)
class Truth:
    """True classes of picks.

    Attributes
    ----------
    classes
        (N,) class of the molecule of each pick, -1 for none.
    tomograms
        (N,) name of the tomogram of each pick.
    present
        Number of targets in each tomogram, by its name.
    distance_A, angle_deg
        (N,) distance from the molecule and angle between the orientations, NaN for background.
    targets
        Classes of the target.
    """

    classes: np.ndarray
    tomograms: np.ndarray
    present: dict[str, int]
    distance_A: np.ndarray
    angle_deg: np.ndarray
    targets: tuple[int, ...] = (0,)

    @property
    def hits(self) -> np.ndarray:
        """Return which picks are targets."""
        return np.isin(self.classes, self.targets)


def angles_deg(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the angles between orientations given by Euler angles (N, 3) of RELION."""
    from opustomo.geometry.rotations import euler_to_matrix

    one, two = (euler_to_matrix(torch.from_numpy(np.asarray(eulers, dtype=np.float64))) for eulers in (first, second))
    trace = (one * two).sum((-1, -2))
    return np.rad2deg(torch.arccos(((trace - 1) / 2).clamp(-1, 1)).numpy())


def true_classes(picks: ParticleStar, simulated: Path, apix: float, targets: tuple[int, ...] = (0,)) -> Truth:
    """Assign picks with coordinates in pixels to the molecules of `simulated/NAME/truth.csv`."""
    tomograms = np.array([Path(name).stem for name in picks.strings("rlnMicrographName")])
    places = np.stack([picks.numbers(f"rlnCoordinate{axis}") for axis in "XYZ"], axis=1)
    classes = np.full(len(picks), BACKGROUND)
    distance, angle = np.full(len(picks), np.nan), np.full(len(picks), np.nan)
    present = {}
    for name in np.unique(tomograms):
        table = np.genfromtxt(simulated / str(name) / "truth.csv", delimiter=",", names=True)
        molecules = np.stack([table[axis] for axis in "xyz"], axis=1)
        eulers = np.stack([table[column] for column in ("rot", "tilt", "psi")], axis=1)
        rows = np.flatnonzero(tomograms == name)
        apart = np.linalg.norm(places[rows, None] - molecules[None], axis=2) * apix
        nearest = apart.argmin(axis=1)
        close = apart[np.arange(len(rows)), nearest] < NEAR_A
        found, which = rows[close], nearest[close]
        classes[found] = table["class"][which]
        distance[found] = apart[close, which]
        angle[found] = angles_deg(picks.eulers_deg()[found], eulers[which])
        present[str(name)] = int(np.isin(table["class"], targets).sum())
    return Truth(classes, tomograms, present, distance, angle, targets)


def selection_scores(kept: np.ndarray, truth: Truth, rows: np.ndarray | None = None) -> dict[str, float]:
    """Return precision, recall of true picks, recall of molecules, and F1 of a selection (N,) of picks."""
    rows = np.ones(len(kept), dtype=bool) if rows is None else rows
    hits = truth.hits & rows
    chosen = kept & rows
    right = int((chosen & hits).sum())
    present = sum(truth.present[name] for name in np.unique(truth.tomograms[rows]))
    precision, recall = right / max(int(chosen.sum()), 1), right / max(int(hits.sum()), 1)
    return {
        "kept": int(chosen.sum()),
        "true": right,
        "precision": round(precision, 4),
        "recall": round(recall, 4),
        "recall_of_molecules": round(right / max(present, 1), 4),
        "f1": round(2 * precision * recall / max(precision + recall, 1e-9), 4),
    }


def by_tomogram(kept: np.ndarray, truth: Truth) -> dict[str, dict[str, float]]:
    """Return the scores of a selection in each tomogram and in all of them."""
    rows = {str(name): truth.tomograms == name for name in np.unique(truth.tomograms)}
    return {"all": selection_scores(kept, truth)} | {name: selection_scores(kept, truth, r) for name, r in rows.items()}


def best_threshold(scores: np.ndarray, truth: Truth) -> np.ndarray:
    """Return the selection above the score threshold with the best F1, which nobody can know without the truth."""
    order = np.argsort(-scores)
    right = np.cumsum(truth.hits[order])
    f1 = 2 * right / (np.arange(1, len(order) + 1) + truth.hits.sum())
    kept = np.zeros(len(scores), dtype=bool)
    kept[order[: int(f1.argmax()) + 1]] = True
    return kept


def map_scores(path: Path, truth: Path, mask: Path) -> dict[str, object]:
    """Return the FSC of the half maps of `path` and that of the map with the true density, both inside the mask."""
    volume, apix = read_volume(path)
    soft = torch.from_numpy(read_volume(mask)[0])
    halves = [torch.from_numpy(read_volume(path.with_name(f"{path.stem}_half{i}.mrc"))[0]) for i in (1, 2)]
    between = half_map_correlation(halves[0], halves[1], apix, soft)
    true = torch.from_numpy(read_volume(truth)[0])
    with_truth = shell_correlation(torch.from_numpy(volume) * soft, true * soft)
    return {
        "half_maps": [round(float(value), 4) for value in between.corrected],
        "truth": [round(float(value), 4) for value in with_truth],
        "mean_half_maps": round(float(between.corrected[1:].mean()), 4),
        "mean_truth": round(float(with_truth[1:].mean()), 4),
        "resolution_half_maps": round(between.resolution_A(0.143), 2),
        "resolution_truth": round(float(resolution_A(with_truth, between.frequencies, 0.5)), 2),
    }


def kept_rows(clean: Path, particles: ParticleStar) -> np.ndarray:
    """Return which rows of a particle table another table contains, by their image names."""
    names = set(read_particles(clean).strings("rlnImageName"))
    return np.array([name in names for name in particles.strings("rlnImageName")])


def matches(clusters: Path) -> list[dict[str, str]]:
    """Return the resemblance of each cluster to the search template, and whether it is kept."""
    with (clusters / "validation_reference.csv").open() as handle:
        return list(csv.DictReader(handle))


def contents(clusters: Path, classes: np.ndarray, molecules: int) -> list[dict[str, object]]:
    """Return what the program shows of each cluster, and the numbers of picks of no molecule and of each molecule."""
    labels = np.asarray(load_pickle(clusters / "labels.pkl"))
    return [
        {
            "cluster": number,
            "particles": int((labels == number).sum()),
            "resemblance": float(row["reference_fsc"] or -1),
            "chosen": row["kept"] == "1",
            "contents": np.bincount(classes[labels == number] + 1, minlength=molecules + 1).tolist(),
        }
        for number, row in enumerate(matches(clusters))
    ]


def correlation(first: Path, second: Path, mask: Path) -> float:
    """Return the Pearson correlation of two maps, weighted by a mask."""
    one, two, weight = (read_volume(path)[0].astype(np.float64) for path in (first, second, mask))
    one, two = (volume - np.average(volume, weights=weight) for volume in (one, two))
    return float((weight * one * two).sum() / np.sqrt((weight * one**2).sum() * (weight * two**2).sum()))


def above_largest_gap(values: list[float]) -> list[int]:
    """Return the indices of the values above the largest gap between successive values."""
    order = np.argsort(values)[::-1]
    gaps = -np.diff(np.asarray(values)[order])
    return sorted(int(index) for index in order[: int(gaps.argmax()) + 1])


def report(results: dict[str, Any]) -> str:
    """Return the results as Markdown tables."""
    lines = ["| set | tomogram | kept | true | precision | recall | F1 |", "|---" * 7 + "|"]
    for name, rows in results["sets"].items():
        for tomogram, row in rows.items():
            values = " | ".join(f"{row[key]:.3f}" for key in ("precision", "recall", "f1"))
            lines.append(f"| {name} | {tomogram} | {row['kept']} | {row['true']} | {values} |")
    labels = ["none", *(label for label in results["classes"] if label != "no molecule")]
    for title, clusters in (("cluster", results["clusters"]), ("second round: cluster", results["second_round"])):
        if clusters:
            lines += ["", f"| {title} | particles | mean FSC with the template | chosen | contents |", "|---" * 5 + "|"]
        for row in clusters:
            contents = ", ".join(f"{n} {label}" for n, label in zip(row["contents"], labels, strict=True) if n)
            chosen = "yes" if row["chosen"] else ""
            resemblance = f"{row['resemblance']:.3f}"
            lines.append(f"| {row['cluster']} | {row['particles']} | {resemblance} | {chosen} | {contents} |")
    titles = ("map", "half maps, FSC 0.143 (Å)", "mean FSC", "truth, FSC 0.5 (Å)", "mean FSC")
    lines += ["", f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name, row in results["maps"].items():
        values = (row[f"{kind}_{of}"] for of in ("half_maps", "truth") for kind in ("resolution", "mean"))
        lines.append(f"| {name} | {' | '.join(map(str, values))} |")
    seconds = results["seconds"]
    lines += ["", "| step | seconds | seconds of processors |", "|---" * 3 + "|"]
    lines += [f"| {name} | {took['wall']} | {took['processor']} |" for name, took in seconds.items()]
    wall, processor = (sum(took[kind] for took in seconds.values()) / 60 for kind in ("wall", "processor"))
    lines += ["", f"{wall:.1f} minutes in all, {processor:.1f} minutes of processors.", ""]
    return "\n".join(lines)
