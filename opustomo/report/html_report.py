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
from opustomo.analysis.clusters.cluster_stars import load_labels
from opustomo.analysis.results import ResultDir, Round
from opustomo.checkpoint.config import read_config
from opustomo.data.config import DataConfig
from opustomo.errors import UserError
from opustomo.io.atomic import atomic_path
from opustomo.io.indices import read_indices
from opustomo.io.latents import read_latent_rows
from opustomo.io.log_files import read_commands
from opustomo.io.pickles import load_pickle
from opustomo.io.star_tables import ParticleStar, read_particles
from opustomo.quality.evidence.trained_model import data_of_run, held_out_particles
from opustomo.quality.evidence.training_state import training_state
from opustomo.report.page_assembly import packed_size, render
from opustomo.report.particle_points import Analyzed, describe_points, mean_defocus, read_junk
from opustomo.report.report_volumes import BUDGET_BYTES, ShownVolumes, collect_volumes
from opustomo.report.run_summary import (
    describe_clusters,
    describe_kl,
    describe_losses,
    describe_pairs,
    describe_pose_corrections,
    describe_settings,
    describe_variance,
    map_correlations,
    read_convergence,
    read_verdict,
)

LARGEST_BYTES = 25_000_000
"""Size of the file that is kept by showing the volumes with fewer voxels if there are many particles."""


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
    num_sampled
        Number of particles whose own volumes are decoded, to be shown when a particle is clicked; 0 for none.
    command
        Command line that writes the report, which the page lists after all others.
    """

    results: ResultDir
    which: Round
    clustering: str | None = None
    star: Path | None = None
    output: Path | None = None
    volumes: bool = True
    num_sampled: int = 60
    command: tuple[str, ...] = ()


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
    star, data = _particle_table(request, notes)
    analyzed = _read_analysis(request, folder)
    if star is not None and len(star) != analyzed.total:
        raise UserError(
            f"{star.path} has {len(star)} particles, but the run has {analyzed.total}. "
            "Give the STAR file used for training."
        )
    table = None if star is None else star.subset(analyzed.indices)
    junk = read_junk(results.analysis(Round(which.epoch)) / "junk" / "scores.csv", analyzed)
    points = describe_points(analyzed, table, None if table is None else mean_defocus(table, data), junk)
    counts = np.bincount(analyzed.labels, minlength=analyzed.num_clusters)[: analyzed.num_clusters].tolist()
    clusters = describe_clusters(folder, counts, points["categories"][0]["colors"][: len(counts)])
    verdict = read_verdict(folder, counts)
    commands = _commands(results, which, folder, analyzed.num_clusters, star)
    if verdict is None:
        missing = (
            "There is no verdict on these clusters."
            if any(cluster["evidence"] for cluster in clusters)
            else ("Half-map FSCs have not been computed for these clusters.")
        )
        say(f"note: {missing} Run {commands['validate']} and write the report again.")
    shown = ShownVolumes()
    if request.volumes:
        budget = min(BUDGET_BYTES, max(2_000_000, LARGEST_BYTES - 2_500_000 - packed_size(points)))
        shown = collect_volumes(results, which, folder, analyzed, request.num_sampled, budget)
        notes += shown.notes
        points["columns"] |= shown.nearest or {}
    if request.volumes and any(cluster["curve"] for cluster in clusters):
        _add_map_curves(request, folder, clusters, data, notes)
    settings, command = describe_settings(results)
    tomograms = next((c for c in points["categories"] if c["name"] == "tomogram"), None)
    content: dict[str, Any] = {
        "run": str(results.root),
        "round": which.label,
        "star": None if star is None else str(star.path),
        "subtitle": f"epoch {which.label} of {results.root.resolve()}, {folder.name}",
        "facts": _facts(analyzed, tomograms, results),
        "notes": notes,
        "settings": settings,
        "history": _history(request, command),
        "losses": describe_losses(results),
        "kl": describe_kl(results),
        "convergence": read_convergence(results.root / "convergence.csv"),
        "state": training_state(results.root, which.epoch),
        "poses": _pose_corrections(results, which, analyzed.total, star, data, notes),
        "variance": describe_variance(results.analysis(which) / "explained_variance_ratio.txt"),
        "points": points,
        "clusters": clusters,
        "verdict": verdict,
        "pairs": [] if verdict is None else describe_pairs(folder, analyzed.num_clusters),
        "nyquist": _nyquist(results),
        "commands": commands,
        "volumes": shown.images,
        "pictures": {"clusters": shown.pixel},
        "surfaces": shown.surfaces,
    }
    output = request.output or results.analysis(which) / "report.html"
    words = {
        "TITLE": f"{results.root.name}, epoch {which.label} – opustomo",
        "HEADING": results.root.resolve().name,
        "VOLUMES": (
            "Isosurfaces of decoded volumes. Drag to turn them, click and use the wheel to zoom, drag with the right "
            "button to move them, and double-click to reset the view. One contour level, in % of the highest density, "
            f"applies to all volumes of the page. {_about_volumes(shown.surfaces)}"
        ),
        "CLUSTERS": (
            "Central slices and projections of the volume decoded at the center of each cluster, with a common gray "
            "scale. The curves below them are Fourier shell correlations (FSC). The control takes equally many "
            "particles from all clusters. The horizontal dotted line marks 0.143, and the vertical "
            "one the Nyquist limit of the decoded maps."
        ),
        "FOOTER": f"Written by opustomo {__version__} on {datetime.now():%Y-%m-%d %H:%M}. "
        "This file works without a network connection.",
    }
    page = render(content, words).encode("utf-8")
    if len(page) > LARGEST_BYTES:
        notes.append(
            f"The report has {len(page) / 1e6:.0f} MB because of its {points['count']:,} particles, and opens slowly."
        )
    with atomic_path(output) as partial:
        partial.write_bytes(page)
    for note in notes:
        say(f"note: {note}")
    return output


def _clustering(request: ReportRequest) -> Path:
    if request.clustering is not None:
        return request.results.analyzed_file(request.which, request.clustering, "labels.pkl").parent
    found = request.results.clusterings(request.which)
    # Without any, this raises the UserError that names the command to run.
    return found[-1] if found else request.results.analyzed_file(request.which, "kmeansK", "labels.pkl").parent


def _commands(results: ResultDir, which: Round, folder: Path, number: int, star: ParticleStar | None) -> dict[str, str]:
    """Return the commands that add what is missing and that select particles; empty where none can help."""
    given = "STAR" if star is None else str(star.path)
    method = re.sub(r"\d+$", "", folder.name)
    words = ["dsdsh", "validate", str(results.root), which.label, str(number)]
    words += [] if method == "kmeans" else ["--cluster", method]
    compare = ["dsdsh", "convergence", str(results.root), "-k", str(number)]
    return {
        "validate": shlex.join(words),
        "convergence": shlex.join(compare) if len(results.epochs()) > 1 else "",
        "select": shlex.join(
            ["dsdsh", "select", given, str(results.root), which.label, "--ind", "selection.json", "-o", "selected.star"]
        ),
    }


def _about_volumes(surfaces: dict[str, Any] | None) -> str:
    """Return a sentence on the resolution at which the page shows the volumes."""
    if surfaces is None:
        return ""
    group = next(iter(surfaces["groups"].values()))
    side, apix, original = group["grids"]["shape"][1], group["apix"], group["original"]
    size = f"{side}³ voxels" + (f" of {apix:.3g} Å" if apix else "")
    if side != original:
        size += f" ({'downsampled' if side < original else 'interpolated'} from {original}³)"
    return f"The page contains them with {size} and 8 bits per voxel; dsdsh eval_vol writes them in full."


def _history(request: ReportRequest, training: str | None) -> list[dict[str, str]]:
    """Return the commands that made the results, oldest first: training, the log of the folder, and this report."""
    history = [] if training is None else [{"time": "training", "command": training}]
    history += [{"time": time, "command": command} for time, command in read_commands(request.results.root)]
    if request.command:
        history.append({"time": "this report", "command": shlex.join(request.command)})
    return history


def _nyquist(results: ResultDir) -> float | None:
    """Return the Nyquist limit of decoded maps in Å, which the render box sets; None without ``config.pkl``."""
    path = results.root / "config.pkl"
    return 2.0 * read_config(path)[1].render_apix if path.is_file() else None


def _add_map_curves(
    request: ReportRequest, folder: Path, clusters: list[dict[str, Any]], data: DataConfig | None, notes: list[str]
) -> None:
    """Add the FSC between decoded map and back-projection to the curves of the clusters."""
    try:
        curves = map_correlations(request.results, request.which.epoch, folder, data)
    except UserError as error:
        notes.append(f"The FSC of decoded maps with back-projections is not shown. {error}")
        return
    for cluster in clusters:
        values = curves.get(cluster["number"])
        if cluster["curve"] is not None and values is not None and len(values) == len(cluster["curve"]["own"]):
            cluster["curve"]["map"] = values


def _pose_corrections(
    results: ResultDir, which: Round, total: int, star: ParticleStar | None, data: DataConfig | None, notes: list[str]
) -> dict[str, Any] | None:
    try:
        refined = results.load_poses(which.epoch, total)
        return describe_pose_corrections(refined, star, data, results.root / "config.pkl")
    except UserError as error:
        notes.append(f"Pose corrections are not shown. {error}")
        return None


def _particle_table(request: ReportRequest, notes: list[str]) -> tuple[ParticleStar | None, DataConfig | None]:
    """Read the particle table of the run and its inputs; add a note for what cannot be found."""
    data = None
    try:
        data = data_of_run(request.results.config(), request.star)
    except UserError as error:
        if request.star is None:
            notes.append(f"Tomograms and scores are not shown. {error}")
            return None, None
    return read_particles(request.results.particle_table(request.star)), data


def _read_analysis(request: ReportRequest, folder: Path) -> Analyzed:
    results, which = request.results, request.which
    labels = load_labels(folder / "labels.pkl")
    total = len(labels)
    indices = np.arange(total)
    if which.filtered:
        stored = results.analyzed_file(which, f"ind.{which.label}.pkl")
        indices = read_indices(stored, total)
    scores = np.asarray(load_pickle(results.analyzed_file(which, "pc.pkl")))
    ratio = np.loadtxt(results.analyzed_file(which, "explained_variance_ratio.txt"), ndmin=1)
    centers = read_latent_rows(results.analyzed_file(which, folder.name, "centers_ind.txt")).ravel().astype(np.int64)
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
    return Analyzed(
        indices=indices,
        total=total,
        scores=scores.astype(np.float32),
        variance_ratio=ratio,
        embedding=None if embedding is None else embedding.astype(np.float32),
        labels=labels[indices],
        centers=position[centers],
        eulers_deg=poses.eulers_deg[indices],
        held_out=np.isin(indices, held_out) if len(held_out) else None,
        conformation=_conformation(results, which, "pc.pkl", len(indices)),
        conformation_embedding=_conformation(results, which, "umap.pkl", len(indices)),
    )


def _conformation(results: ResultDir, which: Round, name: str, count: int) -> np.ndarray | None:
    """Read a table of the analysis of the conformation latents; None if it is absent or of other particles."""
    path = results.analysis(which, dynamics=True) / name
    if not path.is_file():
        return None
    table = np.asarray(load_pickle(path))
    return table.astype(np.float32) if table.ndim == 2 and len(table) == count else None


def _facts(analyzed: Analyzed, tomograms: dict[str, Any] | None, results: ResultDir) -> list[tuple[str, str]]:
    count = f"{len(analyzed.indices):,}"
    facts = [("particles", count if len(analyzed.indices) == analyzed.total else f"{count} of {analyzed.total:,}")]
    if tomograms is not None:
        facts.append(("tomograms", f"{len(tomograms['labels']):,}"))
    facts += [
        ("clusters", str(analyzed.num_clusters)),
        ("latent dimensions", str(analyzed.scores.shape[1])),
        ("saved epochs", str(len(results.epochs()))),
    ]
    if analyzed.held_out is not None:
        facts.append(("held out", f"{int(analyzed.held_out.sum()):,}"))
    return facts
