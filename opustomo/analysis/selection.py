"""Particle selection by clusters, ranges and polygons in latent space, distance, and index lists.

The clusters of one round of analysis select the particles of the next round (``--kpc``)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from opustomo.analysis.clusters.cluster_stars import load_labels
from opustomo.analysis.clusters.clustering import Clustering
from opustomo.analysis.results import ResultDir, Round
from opustomo.errors import UserError
from opustomo.io.indices import read_indices
from opustomo.io.latents import read_latent_rows
from opustomo.io.pickles import load_pickle


@dataclass(frozen=True)
class ClusterChoice:
    """Selected clusters of a clustering into `num_clusters` clusters."""

    num_clusters: int
    chosen: tuple[int, ...]
    method: str = "kmeans"

    @property
    def clustering(self) -> Clustering:
        """Clustering that the selected clusters belong to."""
        return Clustering(self.num_clusters, self.method)


def parse_cluster_choice(text: str, option: str = "--kpc") -> ClusterChoice:
    """Parse a selection of clusters.

    ``20:2-5,8`` selects clusters 2, 3, 4, 5 and 8 of k-means with 20 clusters. ``gmm20:…`` selects clusters of a
    Gaussian mixture, and ``hdbscan6:…`` clusters of HDBSCAN.

    Raises
    ------
    UserError
        If the text has another form or names a cluster that does not exist.
    """
    item = r"\d+(?:\s*-\s*\d+)?"
    match = re.fullmatch(rf"\s*(kmeans|gmm|hdbscan)?(\d+)\s*:\s*({item}(?:\s*,\s*{item})*)\s*", text)
    if match is None:
        raise UserError(f"{option} {text!r} is not of the form K:clusters, for example 20:2-5,8.")
    num_clusters, chosen = int(match[2]), set[int]()
    for item in match[3].split(","):
        first, _, last = item.partition("-")
        low, high = int(first), int(last or first)
        if low > high or high >= num_clusters:
            raise UserError(
                f"{option} {text!r}: {item.strip()} is not among the clusters 0-{num_clusters - 1} of "
                f"{match[1] or 'kmeans'}{num_clusters}."
            )
        chosen.update(range(low, high + 1))
    return ClusterChoice(num_clusters, tuple(sorted(chosen)), match[1] or "kmeans")


def round_particles(results: ResultDir, which: Round, total: int) -> np.ndarray:
    """Return the ascending indices (n,) of the particles of a round among all `total` particles.

    Raises
    ------
    UserError
        If the round does not exist or belongs to a different number of particles.
    """
    if not which.filtered:
        return np.arange(total)
    return np.sort(read_indices(results.analyzed_file(which, f"ind.{which.label}.pkl"), total))


def chosen_particles(results: ResultDir, which: Round, choice: ClusterChoice, total: int) -> np.ndarray:
    """Return the ascending indices (n,) of the particles in the selected clusters of a round.

    Raises
    ------
    UserError
        If the clustering does not exist or belongs to a different number of particles, or if the clusters are empty.
    """
    path = results.analyzed_file(which, choice.clustering.folder, "labels.pkl")
    labels = load_labels(path)
    if len(labels) != total:
        raise UserError(
            f"{path} has {len(labels)} labels, but z.{which.epoch}.pkl has {total} particles. Run the analysis again."
        )
    indices = np.flatnonzero(np.isin(labels, choice.chosen))
    if len(indices) == 0:
        raise UserError(
            f"{path} has no particles in clusters {', '.join(map(str, choice.chosen))}. Select other clusters."
        )
    return indices


_AXIS = re.compile(r"(pc|umap|z|conf)(\d+)")
_RANGE = re.compile(r"\s*([a-z]+\d+)\s*=\s*([^:\s]*)\s*:\s*([^:\s]*)\s*")


@dataclass(frozen=True)
class Neighborhood:
    """Neighborhood of a point in the composition latent space.

    Attributes
    ----------
    place
        Center of the neighborhood, shape (zdim,).
    within
        Maximum Euclidean distance; None for no limit.
    nearest
        Number of nearest particles; None for all.
    """

    place: np.ndarray
    within: float | None = None
    nearest: int | None = None


@dataclass(frozen=True)
class AnalyzedParticles:
    """Particles of a run with the latents, components and clusters of one round of analysis.

    Attributes
    ----------
    results
        Result directory of the run.
    which
        Round of analysis.
    """

    results: ResultDir
    which: Round

    @cached_property
    def latents(self) -> np.ndarray:
        """Composition latents of all particles, shape (N, zdim)."""
        return self.results.load_latents(self.which.epoch)[0]

    @property
    def total(self) -> int:
        """Number of particles of the run, N."""
        return len(self.latents)

    @cached_property
    def members(self) -> np.ndarray:
        """Indices of the particles of the round, ascending, shape (n,)."""
        return round_particles(self.results, self.which, self.total)

    def axis(self, name: str) -> np.ndarray:
        """Return the coordinate of each particle along one axis, shape (N,); NaN for particles outside the round.

        Parameters
        ----------
        name
            ``z1`` … for the composition latent, ``conf1`` … for the conformation latent, ``pc1`` … for the principal
            components of the round, ``umap1`` or ``umap2`` for its UMAP.

        Raises
        ------
        UserError
            If the axis does not exist.
        """
        match = _AXIS.fullmatch(name.strip().lower())
        if match is None:
            raise UserError(f"{name!r} is not an axis. Use pc1, pc2 …, umap1, umap2, z1 … or conf1 ….")
        space, number = match[1], int(match[2])
        if space in ("z", "conf"):
            table = self.latents if space == "z" else self.results.load_latents(self.which.epoch)[1]
            if table is None:
                raise UserError(
                    f"The axis {name} does not exist: z.{self.which.epoch}.pkl has no conformation latents."
                )
            table = table[self.members]
        else:
            path = self.results.analyzed_file(self.which, f"{space}.pkl")
            table = np.asarray(load_pickle(path))
            if table.ndim != 2 or len(table) != len(self.members):
                raise UserError(
                    f"{path} does not match the {len(self.members)} particles of this round. Run the analysis again."
                )
        if not 1 <= number <= table.shape[1]:
            raise UserError(f"The axis {name} does not exist. The axes are {space}1 to {space}{table.shape[1]}.")
        values = np.full(self.total, np.nan)
        values[self.members] = table[:, number - 1]
        return values

    def in_clusters(self, choice: ClusterChoice) -> np.ndarray:
        """Return the boolean mask (N,) of the particles in the chosen clusters; raise as `chosen_particles` does."""
        mask = np.zeros(self.total, dtype=bool)
        mask[chosen_particles(self.results, self.which, choice, self.total)] = True
        return mask

    def in_range(self, text: str) -> np.ndarray:
        """Return the boolean mask (N,) of the particles in a range such as ``pc1=-2:0.5``, ``umap2=3:`` or ``z4=:1``.

        Raises
        ------
        UserError
            If the range cannot be parsed, is empty, or names an axis that does not exist.
        """
        match = _RANGE.fullmatch(text)
        try:
            if match is None:
                raise ValueError
            low, high = float(match[2] or "-inf"), float(match[3] or "inf")
        except ValueError as error:
            raise UserError(f"--range {text!r} is not of the form AXIS=low:high, for example pc1=-2:0.5.") from error
        if not low <= high:
            raise UserError(f"--range {text!r} is empty. Give the lower bound first.")
        values = self.axis(match[1])
        return (values >= low) & (values <= high)

    def in_polygon(self, plane: str, path: Path) -> np.ndarray:
        """Return the boolean mask (N,) of the particles inside a polygon.

        Parameters
        ----------
        plane
            ``umap`` or ``pc`` for the first two axes of that space, or two axes such as ``pc1,pc3``.
        path
            Text file with the vertices of the polygon, one x y pair per row.

        Raises
        ------
        UserError
            If an axis does not exist or there are fewer than three vertices.
        """
        from matplotlib.path import Path as Outline

        names = [f"{plane}1", f"{plane}2"] if plane in ("umap", "pc", "z", "conf") else plane.split(",")
        if len(names) != 2:
            raise UserError(f"--polygon {plane} is not a plane. Use umap, pc, or two axes such as pc1,pc3.")
        corners = read_latent_rows(path)
        if len(corners) < 3 or corners.shape[1] != 2:
            raise UserError(
                f"{path} has {len(corners)} rows of {corners.shape[1]} columns. "
                "A polygon needs at least three vertices with columns x and y."
            )
        points = np.stack([self.axis(name) for name in names], axis=1)
        known = np.isfinite(points).all(axis=1)
        mask = np.zeros(self.total, dtype=bool)
        mask[known] = Outline(corners).contains_points(points[known])
        return mask

    def near(self, neighborhood: Neighborhood) -> np.ndarray:
        """Return the boolean mask (N,) of the particles of the round inside a neighborhood."""
        distance = np.full(self.total, np.inf)
        distance[self.members] = np.linalg.norm(
            self.latents[self.members].astype(np.float64) - neighborhood.place, axis=1
        )
        mask = np.isfinite(distance)
        if neighborhood.within is not None:
            mask &= distance <= neighborhood.within
        if neighborhood.nearest is not None:
            closest = np.zeros(self.total, dtype=bool)
            closest[np.argsort(distance, kind="stable")[: neighborhood.nearest]] = True
            mask &= closest
        return mask

    def center(self, choice: ClusterChoice) -> np.ndarray:
        """Return the latent (zdim,) of the representative particle of a cluster.

        Raises
        ------
        UserError
            If `choice` is not exactly one cluster.
        """
        if len(choice.chosen) != 1:
            raise UserError("--near requires exactly one cluster, for example 20:3.")
        path = self.results.analyzed_file(self.which, choice.clustering.folder, "centers.txt")
        return read_latent_rows(path)[choice.chosen[0]]

    def listed(self, path: Path) -> np.ndarray:
        """Return the boolean mask (N,) of the particles in an index file; raise as `read_indices` does."""
        mask = np.zeros(self.total, dtype=bool)
        mask[read_indices(path, self.total)] = True
        return mask
