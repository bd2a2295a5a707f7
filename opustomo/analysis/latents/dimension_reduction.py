"""Dimension reduction of latents: principal components with traversals, and a two-dimensional UMAP embedding."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np


@dataclass(frozen=True)
class PrincipalComponents:
    """Principal axes of a set of latents.

    Attributes
    ----------
    mean
        Mean latent, shape (zdim,).
    components
        Principal axes as rows of unit length, by decreasing variance, shape (zdim, zdim).
    variance
        Sample variance along each axis (N - 1 in the denominator), shape (zdim,).
    """

    mean: np.ndarray
    components: np.ndarray
    variance: np.ndarray

    @property
    def variance_ratio(self) -> np.ndarray:
        """Fraction of the total variance along each axis, shape (zdim,); zeros if all latents are equal."""
        total = self.variance.sum()
        return self.variance / total if total > 0 else np.zeros_like(self.variance)

    def scores(self, latents: np.ndarray) -> np.ndarray:
        """Project latents (N, zdim) onto the axes and return their scores (N, zdim)."""
        return (latents - self.mean) @ self.components.T

    def latents(self, scores: np.ndarray) -> np.ndarray:
        """Return the latents (N, zdim) of given scores (N, zdim); the inverse of :meth:`scores`."""
        return scores @ self.components + self.mean


def fit_pca(latents: np.ndarray) -> PrincipalComponents:
    """Compute the principal components of latents without scaling their dimensions.

    Unlike ``sklearn.decomposition.PCA``, this returns zdim axes even for fewer than zdim particles, so the shapes of
    the output files do not depend on the number of particles. The entry of largest magnitude of each axis is positive,
    so repeated runs agree in sign.

    Parameters
    ----------
    latents
        Latents, shape (N, zdim), finite.

    Raises
    ------
    ValueError
        If `latents` is not a matrix with at least one row and one column.
    """
    if latents.ndim != 2 or 0 in latents.shape:
        raise ValueError(f"latents must be (N, zdim) with N, zdim > 0, got {latents.shape}")
    values = latents.astype(np.float64)
    mean = values.mean(axis=0)
    centered = values - mean
    covariance = centered.T @ centered / max(len(values) - 1, 1)
    variance, axes = np.linalg.eigh(covariance)
    variance, components = np.clip(variance[::-1], 0.0, None), axes[:, ::-1].T
    # Variance at the level of rounding errors is set to 0 so that equal latents have no spurious leading axis.
    variance[variance <= (np.finfo(np.float32).eps * np.abs(values).max()) ** 2] = 0.0
    largest = np.abs(components).argmax(axis=1)
    components = components * np.sign(components[np.arange(len(components)), largest])[:, None]
    return PrincipalComponents(mean, components, variance)


NEIGHBORS = 15  # umap-learn's default
EXACT = 4096
"""Number of particles from which umap-learn itself approximates neighbors; its exact search is slow."""
SEED = 42
OWN_PROCESS = 20_000
"""Number of particles above which a separate process saves more time than its start takes."""


def embed_latents(latents: np.ndarray, seed: int = SEED, progress: bool = False) -> np.ndarray:
    """Compute a UMAP embedding with the default parameters of umap-learn and a fixed seed.

    With too few particles for spectral initialization, the embedding is initialized at random. With fewer than four
    distinct latents, the first two latent dimensions are returned.

    Parameters
    ----------
    latents
        Latents, shape (N, zdim), finite.
    seed
        Random seed. A fixed seed restricts UMAP to one thread and makes the embedding reproducible.
    progress
        Show a progress bar on a terminal.

    Returns
    -------
    numpy.ndarray
        Embedding, shape (N, 2), float32.
    """
    if len(np.unique(latents, axis=0)) < 4:
        return _first_two_dimensions(latents)
    import umap
    from sklearn.neighbors import NearestNeighbors

    _keep_compiled_code()
    few, neighbors = len(latents) <= NEIGHBORS, min(NEIGHBORS, len(latents) - 1)
    nearest: dict[str, object] = {}
    if len(latents) < EXACT:
        distances, indices = NearestNeighbors(n_neighbors=neighbors).fit(latents).kneighbors(latents)
        known = indices.astype(np.int32), distances.astype(np.float32)
        nearest = {"precomputed_knn": known, "force_approximation_algorithm": True}
    with warnings.catch_warnings():
        # umap-learn warns about its threads, given neighbors, and disconnected vertices among duplicates.
        warnings.simplefilter("ignore", UserWarning)
        reducer = umap.UMAP(
            n_neighbors=neighbors,
            init="random" if few else "spectral",
            random_state=seed,
            n_jobs=1,
            **nearest,
            tqdm_kwds={"desc": "UMAP", "disable": not (progress and sys.stderr.isatty())},
        )
        embedding = np.asarray(reducer.fit_transform(latents), dtype=np.float32)
    if not np.isfinite(embedding).all():
        return _first_two_dimensions(latents)
    return embedding


def _keep_compiled_code() -> None:
    """Keep the machine code of UMAP's functions on disk, so that only the first run compiles them."""
    from umap import layouts, umap_

    for module, name in (
        (umap_, "smooth_knn_dist"),
        (umap_, "compute_membership_strengths"),
        (layouts, "_nb_optimize_layout_euclidean_single_epoch"),
    ):
        function = getattr(module, name, None)  # other versions may lack it
        if function is not None:
            with contextlib.suppress(RuntimeError):  # numba finds no folder to write to
                function.enable_caching()


def embed_all(sets: Sequence[np.ndarray], progress: bool = False) -> list[np.ndarray]:
    """Compute the UMAP embeddings of several sets of latents, see `embed_latents`.

    Large sets are embedded in parallel processes because UMAP with a fixed seed uses one thread.

    Parameters
    ----------
    sets
        Latents, each of shape (N, dimension).
    progress
        Show a progress bar for the first set on a terminal.
    """
    if len(sets) < 2 or max(len(latents) for latents in sets) < OWN_PROCESS:
        return [embed_latents(latents, progress=progress) for latents in sets]
    with ProcessPoolExecutor(len(sets) - 1, mp_context=get_context("spawn")) as pool:
        others = [pool.submit(embed_latents, latents) for latents in sets[1:]]
        return [embed_latents(sets[0], progress=progress), *(other.result() for other in others)]


def _first_two_dimensions(latents: np.ndarray) -> np.ndarray:
    """Return the first two latent dimensions, centered, as a fallback where UMAP fails."""
    plane = np.zeros((len(latents), 2), dtype=np.float32)
    shown = latents[:, :2] - latents[:, :2].mean(axis=0)
    plane[:, : shown.shape[1]] = shown
    return plane
