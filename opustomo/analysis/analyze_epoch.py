"""Analysis of one epoch: composition, conformation, losses, and further rounds on selected clusters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import opustomo
from opustomo.analysis.analyze_latents import LatentSet, Say, write_latent_report
from opustomo.analysis.clusters.clustering import Clustering
from opustomo.analysis.figures.latent_figures import draw_losses
from opustomo.analysis.latents.dimension_reduction import SEED, embed_all
from opustomo.analysis.results import ResultDir, Round
from opustomo.analysis.selection import ClusterChoice, chosen_particles, round_particles
from opustomo.analysis.volumes.focused_volumes import coordinates_inside, write_focus
from opustomo.errors import UserError
from opustomo.geometry.rotations import viewing_groups
from opustomo.io.atomic import atomic_path
from opustomo.io.latents import write_table
from opustomo.io.log_files import read_training_log
from opustomo.io.pickles import dump_pickle, load_pickle
from opustomo.io.poses import write_poses


@dataclass(frozen=True)
class AnalysisRequest:
    """Input and settings of an analysis.

    Attributes
    ----------
    results
        Result directory of the run.
    source
        Round of analysis to compute, or the round whose clusters are selected with `choice`.
    num_pcs
        Number of principal component traversals.
    clustering
        Clustering method and number of clusters.
    skip_umap
        Reuse ``umap.pkl`` of an earlier analysis instead of computing it.
    joint
        Also write ``centers_joint.txt``.
    choice
        Clusters of `source` whose particles form the next round; None to compute `source` itself.
    composition_only
        Skip the conformation latents. The latent file may then be a plain array.
    outdir
        Output folder of the composition instead of ``analyze.N``. The conformation is written to the folder of the
        same name with prefix ``def``.
    poses
        Pose file instead of ``pose.N.pkl``.
    focus
        Mask inside which the decoded volumes of all particles are analyzed instead of their latents.
    """

    results: ResultDir
    source: Round
    num_pcs: int
    clustering: Clustering
    skip_umap: bool = False
    joint: bool = False
    choice: ClusterChoice | None = None
    composition_only: bool = False
    outdir: Path | None = None
    poses: Path | None = None
    focus: Path | None = None

    @property
    def epoch(self) -> int:
        """Epoch of the source round."""
        return self.source.epoch

    @property
    def round(self) -> Round:
        """Round of analysis that is computed."""
        if self.focus is not None:
            return Round(self.epoch, focused=True)
        return self.source if self.choice is None else self.source.next

    def folder(self, dynamics: bool = False) -> Path:
        """Return the output folder of the composition, or of the conformation if `dynamics` is True."""
        if self.outdir is None:
            return self.results.analysis(self.round, dynamics)
        return self.outdir.with_name(f"def{self.outdir.name}") if dynamics else self.outdir


def analyze_epoch(request: AnalysisRequest, say: Say = print) -> list[Path]:
    """Write all files and figures of the analysis of one epoch.

    Returns
    -------
    list of Path
        Folder of the clusters of the composition and, if the run has a conformation latent, of the conformation. The
        analysis is written to the parent of each.

    Raises
    ------
    UserError
        If the epoch is missing, files disagree in the number of particles, there are more clusters than particles, or
        --joint is given for a run without conformation latents.
    """
    results, epoch = request.results, request.epoch
    _check_focus(request)
    if request.composition_only:
        mu, multi_mu = results.load_plain_latents(epoch), None
    else:
        mu, multi_mu = results.load_latents(epoch)
    if request.joint and multi_mu is None:
        raise UserError(f"z.{epoch}.pkl has no conformation latents (multi_mu), which --joint requires. Omit --joint.")
    poses = results.load_poses(epoch, len(mu), request.poses)
    if request.choice is None:
        indices = round_particles(results, request.source, len(mu))
    else:
        indices = chosen_particles(results, request.source, request.choice, len(mu))
        say(f"Round {request.round.filtered + 1}: {len(indices)} of {len(mu)} particles.")
    if request.clustering.number is not None and not 1 <= request.clustering.number <= len(indices):
        raise UserError(
            f"{len(indices)} particles cannot be divided into {request.clustering.number} clusters. "
            f"Request 1 to {len(indices)} clusters."
        )
    if request.num_pcs < 0:
        raise UserError(f"The number of principal components is {request.num_pcs}, but it must be 0 or more.")

    groups = viewing_groups(poses.eulers_deg)
    dump_pickle(results.root / "groups.pkl", groups)
    _write_losses(results, say)
    coordinates = results.load_coordinates(epoch, len(mu))
    if request.focus is None:
        coordinates = None if coordinates is None else coordinates[indices]
        subjects = [LatentSet(mu[indices], groups[indices], indices, len(mu), coordinates=coordinates)]
        if multi_mu is not None:
            subjects.append(LatentSet(multi_mu[indices], groups[indices], indices, len(mu)))
    else:
        scores = write_focus(results, epoch, request.focus, mu, request.folder(), say)
        inside = None if coordinates is None else coordinates_inside(coordinates, scores)
        subjects = [LatentSet(scores, groups, indices, len(mu), decoded=mu, coordinates=inside)]
    embeddings = _embeddings(request, subjects, say)
    written = []
    for dynamics, subject, embedding in zip((False, True), subjects, embeddings, strict=False):
        outdir = request.folder(dynamics)
        stale = _stale_clusterings(outdir, request, indices) if request.round.filtered else []
        clustering, clusters = write_latent_report(subject, embedding, request.num_pcs, request.clustering, outdir, say)
        _report_stale_clusterings(outdir, [name for name in stale if name != clustering.folder], say)
        if request.round.filtered:
            dump_pickle(outdir / f"ind.{request.round.label}.pkl", indices)
            write_poses(outdir / f"pose.{request.round.label}.pkl", poses.subset(indices))
        if request.joint and not dynamics and multi_mu is not None:
            conformations = multi_mu[indices[clusters.center_indices]]
            table = np.concatenate([clusters.centers, conformations], axis=1)
            write_table(outdir / clustering.folder / "centers_joint.txt", table)
        _write_config(request, subject, clustering, outdir)
        written.append(outdir / clustering.folder)
    return written


def _check_focus(request: AnalysisRequest) -> None:
    """Raise ``UserError`` if the focus contradicts other settings."""
    if request.source.focused and request.focus is None:
        raise UserError(f"{request.source.label} analyzes volumes inside a mask. Give the mask with --focus.")
    if request.focus is None:
        return
    if request.choice is not None or request.source.filtered:
        raise UserError("--focus analyzes all particles and cannot be combined with clusters of an earlier round.")
    if request.joint:
        raise UserError("--focus and --joint cannot be combined, because a focus does not use conformations.")


def _embeddings(request: AnalysisRequest, subjects: list[LatentSet], say: Say) -> Sequence[np.ndarray | None]:
    """Compute or load the UMAP embeddings of the composition and, if present, the conformation."""
    if request.skip_umap:
        return [_earlier_embedding(request, subject, bool(i), say) for i, subject in enumerate(subjects)]
    say(f"Computing the UMAP of {len(subjects[0].latents):,} particles …")
    return embed_all([subject.latents for subject in subjects], progress=True)


def _earlier_embedding(request: AnalysisRequest, subject: LatentSet, dynamics: bool, say: Say) -> np.ndarray | None:
    """Return an existing embedding of the same particles, or None if there is none."""
    outdir = request.folder(dynamics)
    stored = outdir / "umap.pkl"
    if not request.round.filtered:
        if stored.is_file():
            return _load_embedding(stored, subject.total)
    else:
        # The stored embedding of a later round is valid only for the same selection of particles.
        earlier = outdir / f"ind.{request.round.label}.pkl"
        if stored.is_file() and earlier.is_file() and np.array_equal(load_pickle(earlier), subject.indices):
            return _load_embedding(stored, len(subject.indices))
        stored = request.results.analysis(Round(request.epoch), dynamics) / "umap.pkl"
        if stored.is_file():
            say(f"{outdir.name}: using the UMAP of the first round.")
            return _load_embedding(stored, subject.total)[subject.indices]
    say(f"{stored} does not exist, so no UMAP figures are drawn. Run once without --skip-umap to compute it.")
    return None


def _stale_clusterings(outdir: Path, request: AnalysisRequest, indices: np.ndarray) -> list[str]:
    """Return the clusterings in the output folder that belong to a different selection of particles."""
    earlier = outdir / f"ind.{request.round.label}.pkl"
    if not earlier.is_file() or np.array_equal(load_pickle(earlier), indices):
        return []
    return sorted(path.parent.name for path in outdir.glob("*/labels.pkl"))


def _report_stale_clusterings(outdir: Path, stale: list[str], say: Say) -> None:
    if stale:
        say(f"{outdir.name}: {', '.join(stale)} belong to a different selection of clusters. Remove or recompute them.")


def _load_embedding(path: Path, count: int) -> np.ndarray:
    content = load_pickle(path)
    embedding = np.asarray(content)
    if embedding.shape != (count, 2) or embedding.dtype.kind != "f" or not np.isfinite(embedding).all():
        raise UserError(
            f"{path} is not a UMAP embedding of {count} particles. Run without --skip-umap to compute it again."
        )
    return embedding.astype(np.float32)


def _write_losses(results: ResultDir, say: Say) -> None:
    log = results.root / "run.log"
    curves = read_training_log(log) if log.is_file() else {}
    if curves:
        draw_losses(results.root / "train_losses.png", curves)
    else:
        say(f"{log} records no completed epoch, so train_losses.png is not drawn.")


def _write_config(request: AnalysisRequest, subject: LatentSet, clustering: Clustering, outdir: Path) -> None:
    choice = request.choice
    settings = {
        "results": str(request.results.root),
        "round": request.round.label,
        "epoch": request.epoch,
        "particles": len(subject.indices),
        "particles_of_run": subject.total,
        "latent_dimension": subject.latents.shape[1],
        "num_pcs": min(request.num_pcs, subject.latents.shape[1]),
        "num_clusters": clustering.number,
        "num_clusters_chosen_from_data": request.clustering.number is None,
        "clustering": clustering.method,
        "kmeans_seed": 0,
        "umap_seed": SEED,
        "skip_umap": request.skip_umap,
        "joint": request.joint,
        "focus": None if request.focus is None else str(request.focus),
        "kpc": None
        if choice is None
        else {
            "round": request.source.label,
            "clustering": choice.method,
            "num_clusters": choice.num_clusters,
            "chosen": list(choice.chosen),
        },
        "version": opustomo.__version__,
    }
    with atomic_path(outdir / "analyze_config.json") as partial:
        partial.write_text(json.dumps(settings, indent=2) + "\n")
