"""The report of an analysed epoch: the work of ``dsdsh report``."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from opustomo import __version__
from opustomo.analysis.results import ResultDir, Round
from opustomo.analysis.selection import load_labels
from opustomo.errors import UserError
from opustomo.evaluate.inputs import held_out_particles, remembered_data
from opustomo.io.atomic import atomic_path
from opustomo.io.indices import read_indices
from opustomo.io.pickles import load_pickle
from opustomo.io.star import ParticleStar, read_particles
from opustomo.io.tables import read_latent_rows
from opustomo.report.about import describe_losses, describe_settings
from opustomo.report.evidence import describe_clusters, read_convergence
from opustomo.report.page import render
from opustomo.report.points import Analysed, describe_points
from opustomo.report.volumes import pictures, stored_or_decoded


@dataclass(frozen=True)
class ReportRequest:
    """What to report.

    Attributes
    ----------
    results, which
        The run and the round of analysis.
    clustering
        Folder of the clustering to show (``kmeans20``); None takes the only one there is, or the latest.
    star
        Particle table; None takes the one that the run remembers.
    output
        The page; None is ``report.html`` in the folder of the analysis.
    volumes
        Show volumes, decoded where they are not there yet.
    """

    results: ResultDir
    which: Round
    clustering: str | None = None
    star: Path | None = None
    output: Path | None = None
    volumes: bool = True


def write_report(request: ReportRequest, say: Callable[[str], None] = print) -> Path:
    """Write the page and return its path.

    Raises
    ------
    UserError
        The epoch was not analysed, or a file does not belong to it.
    """
    results, which = request.results, request.which
    folder = _clustering(request)
    notes: list[str] = []
    star = _particle_table(request, notes)
    analysed = _read_analysis(request, folder)
    if star is not None and len(star) != analysed.total:
        raise UserError(
            f"{star.path} has {len(star)} particles but the run {analysed.total}; give the STAR file of the training"
        )
    points = describe_points(analysed, None if star is None else star.subset(analysed.indices))
    counts = np.bincount(analysed.labels, minlength=analysed.num_clusters).tolist()
    clusters = describe_clusters(folder, counts, points["categories"][0]["colours"])
    if not any(cluster["evidence"] for cluster in clusters):
        notes.append(f"No evidence for the clusters yet: dsdsh validate {results.root} {which.label} … adds it.")
    volumes, movies = _volumes(request, folder, analysed, notes) if request.volumes else (None, [])
    settings, command = describe_settings(results)
    tomograms = next((c for c in points["categories"] if c["name"] == "tomogram"), None)
    content: dict[str, Any] = {
        "run": str(results.root),
        "round": which.label,
        "star": None if star is None else str(star.path),
        "subtitle": f"epoch {which.label} of {results.root.resolve()}, {folder.name}",
        "facts": _facts(analysed, tomograms, results),
        "notes": notes,
        "settings": settings,
        "command": command,
        "losses": describe_losses(results),
        "convergence": read_convergence(results.root / "convergence.csv"),
        "points": points,
        "clusters": clusters,
        "volumes": volumes,
        "movies": movies,
    }
    output = request.output or results.analysis(which) / "report.html"
    table = "STAR" if star is None else str(star.path)
    words = {
        "TITLE": f"{results.root.name}, epoch {which.label} – opustomo",
        "HEADING": results.root.resolve().name,
        "SELECT": shlex.join(
            ["dsdsh", "select", table, str(results.root), which.label, "--ind", "selection.json", "-o", "selected.star"]
        ),
        "CLUSTERS": (
            "Central slices and projections of the volume decoded at each cluster's centre, all on one grey scale. "
            "FSC compares the half maps of the cluster's own particles (line) with as many drawn from all clusters "
            "(dashed); the dotted line is 0.143."
        ),
        "FOOTER": f"Made by opustomo {__version__} on {datetime.now():%Y-%m-%d %H:%M}. This file needs no network.",
    }
    with atomic_path(output) as partial:
        partial.write_text(render(content, words), encoding="utf-8")
    for note in notes:
        say(f"note: {note}")
    return output


def _clustering(request: ReportRequest) -> Path:
    if request.clustering is not None:
        return request.results.analysed_file(request.which, request.clustering, "labels.pkl").parent
    folder = request.results.analysis(request.which)
    found = [path for path in folder.glob("*/labels.pkl") if re.fullmatch(r"(kmeans|gmm)\d+", path.parent.name)]
    if not found:
        # says what to run
        return request.results.analysed_file(request.which, "kmeansK", "labels.pkl").parent
    return max(found, key=lambda path: path.stat().st_mtime).parent


def _particle_table(request: ReportRequest, notes: list[str]) -> ParticleStar | None:
    """The particles of the run; None, with a note, if their table cannot be found."""
    if request.star is not None:
        return read_particles(request.star)
    try:
        data = remembered_data(request.results.config())
    except UserError as missing:
        notes.append(f"No tomograms and scores: {missing}.")
        return None
    star = read_particles(data.star)
    return star if data.ind is None else star.subset(read_indices(data.ind, len(star)))


def _read_analysis(request: ReportRequest, folder: Path) -> Analysed:
    results, which = request.results, request.which
    labels = load_labels(folder / "labels.pkl")
    total = len(labels)
    indices = np.arange(total)
    if which.filtered:
        stored = results.analysed_file(which, f"ind.{which.label}.pkl")
        indices = read_indices(stored, total)
    scores = np.asarray(load_pickle(results.analysed_file(which, "pc.pkl")))
    ratio = np.loadtxt(results.analysed_file(which, "explained_variance_ratio.txt"), ndmin=1)
    chosen = read_latent_rows(results.analysed_file(which, folder.name, "centers_ind.txt")).ravel().astype(np.int64)
    embedding_path = results.analysis(which) / "umap.pkl"
    embedding = np.asarray(load_pickle(embedding_path)) if embedding_path.is_file() else None
    if scores.ndim != 2 or any(part is not None and len(part) != len(indices) for part in (scores, embedding)):
        raise UserError(f"the files in {results.analysis(which)} are of different sets; run dsdsh analyze again")
    place = np.full(total, -1)
    place[indices] = np.arange(len(indices))
    if (chosen >= total).any() or (place[chosen] < 0).any() or labels[indices].max() >= len(chosen):
        raise UserError(f"{folder} belongs to another analysis; run dsdsh analyze again")
    poses = results.load_poses(which.epoch, total)
    config = results.root / "config.pkl"
    outside = held_out_particles(config, total) if config.is_file() else np.empty(0, dtype=np.int64)
    return Analysed(
        indices=indices,
        total=total,
        scores=scores.astype(np.float32),
        variance_ratio=ratio,
        embedding=None if embedding is None else embedding.astype(np.float32),
        labels=labels[indices],
        centres=place[chosen],
        eulers_deg=poses.eulers_deg[indices],
        held_out=np.isin(indices, outside) if len(outside) else None,
    )


def _facts(analysed: Analysed, tomograms: dict[str, Any] | None, results: ResultDir) -> list[tuple[str, str]]:
    shown = f"{len(analysed.indices):,}"
    facts = [("particles", shown if len(analysed.indices) == analysed.total else f"{shown} of {analysed.total:,}")]
    if tomograms is not None:
        facts.append(("tomograms", f"{len(tomograms['labels']):,}"))
    facts += [
        ("clusters", str(analysed.num_clusters)),
        ("latent dimensions", str(analysed.scores.shape[1])),
        ("epochs there", str(len(results.epochs()))),
    ]
    if analysed.held_out is not None:
        facts.append(("held out", f"{int(analysed.held_out.sum()):,}"))
    return facts


def _volumes(
    request: ReportRequest, folder: Path, analysed: Analysed, notes: list[str]
) -> tuple[np.ndarray | None, list[dict[str, Any]]]:
    """Pictures of the clusters' centres, and of the traversals."""
    results, which = request.results, request.which
    movies = []
    try:
        table = results.analysed_file(which, folder.name, "centers.txt")
        clusters = pictures(stored_or_decoded(results, which.epoch, table))
        for path in sorted(results.analysis(which).glob("pc*/z_pc.txt"), key=lambda path: int(path.parent.name[2:])):
            component = int(path.parent.name[2:])
            frames = pictures(stored_or_decoded(results, which.epoch, path))
            low, high = np.percentile(analysed.scores[:, component - 1], (1, 99))
            about = f"{100 * analysed.variance_ratio[component - 1]:.1f} % of variance, {len(frames)} steps"
            positions = np.linspace(low, high, len(frames)).tolist()
            movies.append({"number": component, "about": about, "frames": frames, "scores": positions})
    except UserError as missing:
        notes.append(f"No volumes: {missing}")
        return None, []
    return clusters, movies
