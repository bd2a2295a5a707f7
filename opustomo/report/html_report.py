"""HTML report of an analyzed epoch (``dsdsh report``)."""

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
from opustomo.analysis.clusters import load_labels
from opustomo.analysis.results import ResultDir, Round
from opustomo.errors import UserError
from opustomo.io.atomic import atomic_path
from opustomo.io.indices import read_indices
from opustomo.io.latents import read_latent_rows
from opustomo.io.pickles import load_pickle
from opustomo.io.star_tables import ParticleStar, read_particles
from opustomo.quality.evidence.restored_run import held_out_particles, remembered_data
from opustomo.report.page import render
from opustomo.report.particle_points import Analysed, describe_points
from opustomo.report.run_facts import (
    describe_clusters,
    describe_losses,
    describe_settings,
    read_convergence,
    read_verdict,
)
from opustomo.report.volume_images import pictures, stored_or_decoded


@dataclass(frozen=True)
class ReportRequest:
    """Input and output of a report.

    Attributes
    ----------
    results, which
        Result directory of the run and the round of analysis.
    clustering
        Folder of the clustering, for example ``kmeans20``; None for the latest clustering.
    star
        Particle table; None for the table in the configuration of the run.
    output
        Output file; None for ``report.html`` in the folder of the analysis.
    volumes
        Show volumes; missing volumes are decoded.
    """

    results: ResultDir
    which: Round
    clustering: str | None = None
    star: Path | None = None
    output: Path | None = None
    volumes: bool = True


def write_report(request: ReportRequest, say: Callable[[str], None] = print) -> Path:
    """Write the report and return its path.

    Raises
    ------
    UserError
        If the epoch has not been analyzed, or if a file does not belong to it.
    """
    results, which = request.results, request.which
    folder = _clustering(request)
    notes: list[str] = []
    star = _particle_table(request, notes)
    analysed = _read_analysis(request, folder)
    if star is not None and len(star) != analysed.total:
        raise UserError(
            f"{star.path} has {len(star)} particles, but the run has {analysed.total}. "
            "Give the STAR file used for training."
        )
    points = describe_points(analysed, None if star is None else star.subset(analysed.indices))
    counts = np.bincount(analysed.labels, minlength=analysed.num_clusters)[: analysed.num_clusters].tolist()
    clusters = describe_clusters(folder, counts, points["categories"][0]["colours"][: len(counts)])
    if not any(cluster["evidence"] for cluster in clusters):
        notes.append(
            "Half-map FSCs have not been computed for these clusters. "
            f"Run dsdsh validate {results.root} {which.label} … to add them."
        )
    verdict = read_verdict(folder, counts)
    if verdict is None and any(cluster["evidence"] for cluster in clusters):
        notes.append(f"There is no verdict on these clusters. Run dsdsh validate {results.root} {which.label} … again.")
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
        "verdict": verdict,
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
            "Central slices and projections of the volume decoded at the center of each cluster, with a common gray "
            "scale. The solid line is the FSC between the half maps of the particles in the cluster. The dashed line "
            "is a control: the FSC for the same number of particles drawn from all clusters. The dotted line marks an "
            "FSC of 0.143."
        ),
        "FOOTER": f"Written by opustomo {__version__} on {datetime.now():%Y-%m-%d %H:%M}. "
        "This file works without a network connection.",
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
    label_files = [
        path for path in folder.glob("*/labels.pkl") if re.fullmatch(r"(kmeans|gmm|hdbscan)\d+", path.parent.name)
    ]
    if not label_files:
        # This raises the UserError that names the command to run.
        return request.results.analysed_file(request.which, "kmeansK", "labels.pkl").parent
    return max(label_files, key=lambda path: path.stat().st_mtime).parent


def _particle_table(request: ReportRequest, notes: list[str]) -> ParticleStar | None:
    """Read the particle table of the run; if it cannot be found, add a note and return None."""
    if request.star is not None:
        return read_particles(request.star)
    try:
        data = remembered_data(request.results.config())
    except UserError as error:
        notes.append(f"Tomograms and scores are not shown. {error}")
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
    centers = read_latent_rows(results.analysed_file(which, folder.name, "centers_ind.txt")).ravel().astype(np.int64)
    embedding_path = results.analysis(which) / "umap.pkl"
    embedding = np.asarray(load_pickle(embedding_path)) if embedding_path.is_file() else None
    if scores.ndim != 2 or any(part is not None and len(part) != len(indices) for part in (scores, embedding)):
        raise UserError(
            f"The files in {results.analysis(which)} have different numbers of particles. Run dsdsh analyze again."
        )
    position = np.full(total, -1)
    position[indices] = np.arange(len(indices))
    # Only HDBSCAN leaves particles of the round without a cluster.
    largest = len(centers) if folder.name.startswith("hdbscan") else len(centers) - 1
    if (centers >= total).any() or (position[centers] < 0).any() or labels[indices].max() > largest:
        raise UserError(f"{folder} belongs to a different analysis. Run dsdsh analyze again.")
    poses = results.load_poses(which.epoch, total)
    config = results.root / "config.pkl"
    held_out = held_out_particles(config, total) if config.is_file() else np.empty(0, dtype=np.int64)
    return Analysed(
        indices=indices,
        total=total,
        scores=scores.astype(np.float32),
        variance_ratio=ratio,
        embedding=None if embedding is None else embedding.astype(np.float32),
        labels=labels[indices],
        centres=position[centers],
        eulers_deg=poses.eulers_deg[indices],
        held_out=np.isin(indices, held_out) if len(held_out) else None,
    )


def _facts(analysed: Analysed, tomograms: dict[str, Any] | None, results: ResultDir) -> list[tuple[str, str]]:
    count = f"{len(analysed.indices):,}"
    facts = [("particles", count if len(analysed.indices) == analysed.total else f"{count} of {analysed.total:,}")]
    if tomograms is not None:
        facts.append(("tomograms", f"{len(tomograms['labels']):,}"))
    facts += [
        ("clusters", str(analysed.num_clusters)),
        ("latent dimensions", str(analysed.scores.shape[1])),
        ("saved epochs", str(len(results.epochs()))),
    ]
    if analysed.held_out is not None:
        facts.append(("held out", f"{int(analysed.held_out.sum()):,}"))
    return facts


def _volumes(
    request: ReportRequest, folder: Path, analysed: Analysed, notes: list[str]
) -> tuple[np.ndarray | None, list[dict[str, Any]]]:
    """Return the images of the cluster centers and of the traversals; if they are missing, add a note."""
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
    except UserError as error:
        notes.append(f"Volumes are not shown. {error}")
        return None, []
    return clusters, movies
