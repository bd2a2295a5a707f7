"""Two-dimensional UMAP picture of latents."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

NEIGHBORS = 15  # umap-learn's default
SEED = 42
OWN_PROCESS = 20_000
"""Particles from which starting a process takes less time than it saves."""


def embed_latents(latents: np.ndarray, seed: int = SEED, progress: bool = False) -> np.ndarray:
    """UMAP embedding with umap-learn's default parameters and a fixed seed.

    A handful of particles is too few for the spectral start, and a single distinct latent has no
    neighbourhoods at all; both still give a picture.

    Parameters
    ----------
    latents
        Shape (N, zdim), finite.
    seed
        Random state; with it UMAP runs on one thread and repeats exactly.
    progress
        Show a bar on a terminal.

    Returns
    -------
    numpy.ndarray
        Shape (N, 2), float32.
    """
    if len(np.unique(latents, axis=0)) < 4:
        return _plain_plane(latents)
    import umap

    few = len(latents) <= NEIGHBORS
    with warnings.catch_warnings():
        # Noise about its own thread count, and about disconnected vertices in sets with duplicates.
        warnings.simplefilter("ignore", UserWarning)
        reducer = umap.UMAP(
            n_neighbors=min(NEIGHBORS, len(latents) - 1),
            init="random" if few else "spectral",
            random_state=seed,
            n_jobs=1,
            tqdm_kwds={"desc": "UMAP", "disable": not (progress and sys.stderr.isatty())},
        )
        embedding = np.asarray(reducer.fit_transform(latents), dtype=np.float32)
    if not np.isfinite(embedding).all():
        return _plain_plane(latents)
    return embedding


def embed_all(sets: Sequence[np.ndarray], progress: bool = False) -> list[np.ndarray]:
    """Embed several sets of latents, each as `embed_latents` does.

    Large sets beyond the first are embedded in processes of their own: with a fixed seed UMAP keeps to one thread.

    Parameters
    ----------
    sets
        Latents of shape (N, dimension) each.
    progress
        Show a bar for the first on a terminal.
    """
    if len(sets) < 2 or max(len(latents) for latents in sets) < OWN_PROCESS:
        return [embed_latents(latents, progress=progress) for latents in sets]
    with ProcessPoolExecutor(len(sets) - 1, mp_context=get_context("spawn")) as pool:
        others = [pool.submit(embed_latents, latents) for latents in sets[1:]]
        return [embed_latents(sets[0], progress=progress), *(other.result() for other in others)]


def _plain_plane(latents: np.ndarray) -> np.ndarray:
    """The first two latent dimensions, centred; what is left where UMAP has nothing to work with."""
    plane = np.zeros((len(latents), 2), dtype=np.float32)
    shown = latents[:, :2] - latents[:, :2].mean(axis=0)
    plane[:, : shown.shape[1]] = shown
    return plane
