"""Volume landscape of a run: decoded volumes, their components and classes, basins of the population and paths.

A few hundred particles and all cluster centers are decoded once. The principal components of these volumes inside a
mask are the coordinates of the landscape. A regression from the latents gives the coordinates of all particles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from opustomo.analysis.latents.population_landscape import (
    BasinPath,
    Basins,
    Landscape,
    find_basins,
    latents_at,
    paths_between,
    population_landscape,
)
from opustomo.analysis.volumes.focused_volumes import MaskedVolumes, VolumeComponents, fit_volume_components
from opustomo.errors import UserError


@dataclass(frozen=True)
class LandscapeSettings:
    """Settings of a volume landscape.

    Attributes
    ----------
    samples
        Number of particles whose volumes are decoded.
    num_components
        Number of principal components of the volumes.
    num_classes
        Number of agglomerative classes of the volumes.
    min_depth
        Smallest depth of a basin in kT.
    num_points
        Number of volumes along each path.
    seed
        Random seed of the sampled particles.
    """

    samples: int = 300
    num_components: int = 6
    num_classes: int = 6
    min_depth: float = 0.5
    num_points: int = 10
    seed: int = 0


@dataclass(frozen=True)
class VolumeLandscape:
    """Result of `compute_landscape`.

    Attributes
    ----------
    sampled
        Indices of the particles whose volumes were decoded, ascending, shape (S,); the cluster centers are among them.
    voxels
        Decoded densities of these particles inside the mask, shape (S, V).
    components
        Principal components of the decoded volumes.
    scores
        Coordinates of all particles along the components, shape (N, C).
    explained
        Fraction of the variance along each component that the regression from latents explains in cross-validation,
        shape (C,); ones if all particles were decoded.
    tree
        Ward linkage of the decoded volumes, shape (S - 1, 4), in the format of ``scipy.cluster.hierarchy.linkage``.
    classes
        Agglomerative class of each of all particles, shape (N,), int64.
    landscape, basins, paths
        Population landscape over the first two components, its basins, and the paths between them.
    basin_labels
        Basin of each particle, shape (N,), int64.
    centers
        Index of the particle nearest to the minimum of each basin, shape (K,).
    path_latents
        Latents along each path, each of shape (P, zdim).
    """

    sampled: np.ndarray
    voxels: np.ndarray
    components: VolumeComponents
    scores: np.ndarray
    explained: np.ndarray
    tree: np.ndarray
    classes: np.ndarray
    landscape: Landscape
    basins: Basins
    basin_labels: np.ndarray
    centers: np.ndarray
    paths: list[BasinPath]
    path_latents: list[np.ndarray]


def compute_landscape(
    volumes: MaskedVolumes,
    latents: np.ndarray,
    centers: np.ndarray,
    settings: LandscapeSettings,
    say: Callable[[str], None] = print,
) -> VolumeLandscape:
    """Compute the volume landscape of all particles.

    Parameters
    ----------
    volumes
        Decoder and mask.
    latents
        Composition latents of all particles, shape (N, zdim).
    centers
        Indices of the particles that represent clusters; they are decoded in any case.
    settings
        Settings of the landscape.
    say
        Callback that receives progress messages.

    Raises
    ------
    UserError
        If there are fewer than 10 particles, or the decoded volumes are all equal.
    """
    from scipy.cluster.hierarchy import linkage

    count = len(latents)
    if count < 10:
        raise UserError(f"A landscape needs at least 10 particles, but the run has {count}.")
    rng = np.random.default_rng(settings.seed)
    drawn = rng.choice(count, min(settings.samples, count), replace=False)
    sampled = np.unique(np.concatenate([drawn, centers]))
    voxels = volumes.voxels(latents[sampled])
    components = fit_volume_components(voxels, settings.num_components)
    if not components.variance[0] > 0:
        raise UserError("The decoded volumes are all equal inside the mask, so there is no landscape. Train longer.")
    own = components.scores(voxels)
    scores, explained = _all_scores(latents, sampled, own)
    if len(sampled) < count:
        shown = ", ".join(f"{100 * value:.0f} %" for value in explained[:2])
        say(
            f"{len(sampled):,} of {count:,} particles were decoded. In cross-validation, the regression from latents "
            f"explains {shown} of the variance along the first {len(explained[:2])} components."
        )
    # The squared distance between volumes is that between their scores on all components of the sample.
    tree = linkage(voxels, method="ward")
    classes = _classes(tree, settings.num_classes, own, scores)
    plane = scores[:, :2] if scores.shape[1] > 1 else np.column_stack([scores, np.zeros(count)])
    landscape = population_landscape(plane)
    basins = find_basins(landscape, settings.min_depth)
    basin_labels = basins.labels[landscape.cells(plane)]
    minima = landscape.positions(basins.minima)
    nearest = [int((((plane - point) / landscape.bandwidth) ** 2).sum(axis=1).argmin()) for point in minima]
    paths = paths_between(landscape, basins, settings.num_points)
    path_latents = [latents_at(path.points, plane, latents, landscape.bandwidth) for path in paths]
    return VolumeLandscape(
        sampled,
        voxels,
        components,
        scores,
        explained,
        tree,
        classes,
        landscape,
        basins,
        basin_labels,
        np.array(nearest),
        paths,
        path_latents,
    )


def _all_scores(latents: np.ndarray, sampled: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of all particles (N, C), and the cross-validated fraction of variance explained (C,)."""
    count = len(latents)
    scores = np.empty((count, own.shape[1]))
    if len(sampled) == count:
        scores[sampled] = own
        return scores, np.ones(own.shape[1])
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.metrics import r2_score
    from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = KFold(min(5, len(sampled)), shuffle=True, random_state=0)
    zdim = latents.shape[1]
    grid = {
        "kernelridge__alpha": [1e-3, 1e-2, 1e-1],
        "kernelridge__gamma": [0.03 / zdim, 0.1 / zdim, 0.3 / zdim, 1.0 / zdim],
    }
    center, scale = own.mean(axis=0), max(float(own.std()), 1e-12)
    targets = (own - center) / scale
    model = make_pipeline(StandardScaler(), KernelRidge(kernel="rbf"))
    search = GridSearchCV(model, grid, cv=folds, scoring="neg_mean_squared_error").fit(latents[sampled], targets)
    predicted = cross_val_predict(search.best_estimator_, latents[sampled], targets, cv=folds)
    explained = np.asarray(r2_score(targets, predicted, multioutput="raw_values"))
    chunk = 10_000
    for first in range(0, count, chunk):
        rows = latents[first : first + chunk]
        scores[first : first + chunk] = search.best_estimator_.predict(rows) * scale + center
    scores[sampled] = own
    return scores, explained


def _classes(tree: np.ndarray, number: int, own: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Cut the tree of the decoded volumes and give every other particle the class of the nearest decoded volume."""
    from scipy.cluster.hierarchy import fcluster
    from sklearn.neighbors import KNeighborsClassifier

    labels = fcluster(tree, t=number, criterion="maxclust") - 1
    return np.asarray(KNeighborsClassifier(1).fit(own, labels).predict(scores), dtype=np.int64)
