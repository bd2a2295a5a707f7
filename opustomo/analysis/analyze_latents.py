"""Files and figures that describe one set of latents (``analyze.N``; see docs/files.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from opustomo.analysis.clusters.cluster_number import find_clusters, write_number_choice
from opustomo.analysis.clusters.clustering import Clustering, Clusters
from opustomo.analysis.figures import latent_figures
from opustomo.analysis.latents.dimension_reduction import PrincipalComponents, fit_pca
from opustomo.analysis.latents.latent_traversals import pc_traversal
from opustomo.io.latents import write_table
from opustomo.io.pickles import dump_pickle

Say = Callable[[str], None]


@dataclass(frozen=True)
class LatentSet:
    """Latents to analyze, with the particles that they belong to.

    Attributes
    ----------
    latents
        Latents, shape (n, d), finite.
    groups
        Viewing group of each particle, shape (n,).
    indices
        Index of each particle among all particles of the run, shape (n,), ascending.
    total
        Number of particles of the run.
    decoded
        Latents from which volumes are decoded, shape (n, zdim), if these are not `latents`.
    coordinates
        Coordinates of the compositions in units of their standard errors, shape (n, K), if the run has them.
    """

    latents: np.ndarray
    groups: np.ndarray
    indices: np.ndarray
    total: int
    decoded: np.ndarray | None = None
    coordinates: np.ndarray | None = None


def write_latent_report(
    subject: LatentSet,
    embedding: np.ndarray | None,
    num_pcs: int,
    clustering: Clustering,
    outdir: Path,
    say: Say = print,
) -> tuple[Clustering, Clusters]:
    """Write the principal components, traversals, clusters and figures of one set of latents.

    Parameters
    ----------
    subject
        Latents to analyze.
    embedding
        UMAP embedding, shape (n, 2), or None for no UMAP figures.
    num_pcs
        Number of traversals. If it exceeds the dimension of the latent, it is reduced and this is reported.
    clustering
        Clustering method and number of clusters.
    outdir
        Output folder.
    say
        Callback that receives progress messages.

    Returns
    -------
    Clustering
        Clustering method and the number of clusters, which may have been chosen from the data.
    Clusters
        Clusters, numbered as in the files; `center_indices` refer to the particles in `subject`.

    Raises
    ------
    UserError
        If there are more clusters than particles.
    """
    dimension = subject.latents.shape[1]
    if num_pcs > dimension:
        say(
            f"{outdir.name}: the latent has {dimension} dimension(s), so {dimension} traversals are written "
            f"instead of {num_pcs}."
        )
        num_pcs = dimension
    number = "" if clustering.number is None else f"{clustering.number} clusters of "
    values = "latents" if subject.coordinates is None else "likelihood coordinates"
    say(f"{outdir.name}: {clustering.title} of the {values}, {number}{len(subject.latents):,} particles.")
    found = find_clusters(subject.latents, clustering, subject.coordinates, outdir.name)
    clustering, clusters, choice = found.clustering, found.clusters, found.choice
    for message in found.messages:
        say(f"{outdir.name}: {message}")
    num_filled = int((clusters.sizes > 0).sum())
    if num_filled < len(clusters):
        say(
            f"{outdir.name}: only {num_filled} of {len(clusters)} clusters contain particles because there are "
            "too few distinct latents."
        )
    pca = fit_pca(subject.latents)
    scores = pca.scores(subject.latents)

    outdir.mkdir(parents=True, exist_ok=True)
    if choice is not None:
        write_number_choice(outdir / f"number_of_clusters_{clustering.method}", choice, clustering.title)
    _write_components(outdir, pca, scores)
    planes = {"z_pca": latent_figures.pca_plane(scores, pca.variance_ratio)}
    if embedding is not None:
        dump_pickle(outdir / "umap.pkl", embedding.astype(np.float32))
        planes["umap"] = latent_figures.umap_plane(embedding)
        latent_figures.draw_viewing_groups(outdir / "umap.png", planes["umap"], subject.groups)
    latent_figures.draw_scatter(outdir / "z_pca.png", planes["z_pca"])
    for name, plane in planes.items():
        latent_figures.draw_density(outdir / f"{name}_hexbin.png", plane)
    for component in range(num_pcs):
        path, _ = pc_traversal(pca, scores, component)
        marked = nearest_particles(subject.latents, path)
        folder = outdir / f"pc{component + 1}"
        write_table(folder / "z_pc.txt", path if subject.decoded is None else subject.decoded[marked])
        if "umap" in planes:
            latent_figures.draw_component(
                folder / "umap.png", planes["umap"], scores[:, component], component + 1, marked
            )
    _write_clusters(outdir / clustering.folder, clusters, subject, planes, clustering.title)
    return clustering, clusters


def nearest_particles(latents: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the index (P,) of the latent (n, d) nearest to each point (P, d)."""
    return np.array([((latents - point) ** 2).sum(axis=1).argmin() for point in points], dtype=np.int64)


def _write_components(outdir: Path, pca: PrincipalComponents, scores: np.ndarray) -> None:
    dump_pickle(outdir / "pc.pkl", scores.astype(np.float32))
    # Store plain arrays: a pickled scikit-learn object can be read only with the same version of scikit-learn.
    axes = {
        "mean": pca.mean,
        "components": pca.components,
        "explained_variance": pca.variance,
        "explained_variance_ratio": pca.variance_ratio,
    }
    dump_pickle(outdir / "pca.pkl", axes)
    write_table(outdir / "explained_variance_ratio.txt", pca.variance_ratio)


def _write_clusters(
    folder: Path, clusters: Clusters, subject: LatentSet, planes: dict[str, latent_figures.Plane], title: str
) -> None:
    labels = np.full(subject.total, len(clusters), dtype=np.int64)
    labels[subject.indices] = clusters.labels
    folder.mkdir(parents=True, exist_ok=True)
    dump_pickle(folder / "labels.pkl", labels)
    centers = clusters.centers if subject.decoded is None else subject.decoded[clusters.center_indices]
    dump_pickle(folder / "centers.pkl", centers)
    write_table(folder / "centers.txt", centers)
    write_table(folder / "centers_ind.txt", subject.indices[clusters.center_indices])
    for name, plane in planes.items():
        latent_figures.draw_clusters(folder / f"{name}.png", plane, clusters, title=title)
        latent_figures.draw_clusters(folder / f"{name}_hex.png", plane, clusters, hexagons=True, title=title)
