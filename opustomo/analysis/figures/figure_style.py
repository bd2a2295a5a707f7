"""Style of figures: color maps of clusters and viewing directions, and labels without overlaps."""

from __future__ import annotations

import colorsys
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, PALE = "0.15", "0.4"
"""Gray levels of titles, and of labels and ticks."""
GROUP_NSIDE = 2  # HEALPix resolution of the 48 viewing groups


QUALITATIVE = (
    # Okabe and Ito, without black and the yellow that is invisible on white
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"),
    # Tol's "muted" palette, without the colors similar to the ones above
    *("#332288", "#999933", "#882255", "#ddcc77", "#117733", "#aa4499"),
)
"""Color-blind safe qualitative palette; the first six colors are the most distinct."""


UNASSIGNED_COLOR = (0.72, 0.72, 0.72)
"""Color of particles that belong to no cluster."""


def cluster_colors(num_clusters: int) -> np.ndarray:
    """Return distinct RGB colors (K, 3), color-blind safe for up to 12 clusters.

    More than 12 clusters get hues separated by the golden ratio. Neighboring cluster numbers denote similar clusters,
    so they must not get similar colors.
    """
    from matplotlib.colors import to_rgb

    if num_clusters <= len(QUALITATIVE):
        return np.array([to_rgb(color) for color in QUALITATIVE[:num_clusters]])
    golden = 0.618034
    return np.array(
        [colorsys.hls_to_rgb(i * golden % 1.0, (0.38, 0.52, 0.66)[i % 3], 0.75) for i in range(num_clusters)]
    )


def viewing_colors() -> np.ndarray:
    """Return RGB colors (48, 3) of the viewing groups; hue encodes phi and lightness encodes theta."""
    import healpy

    theta, phi = healpy.pix2ang(GROUP_NSIDE, np.arange(12 * GROUP_NSIDE**2), nest=True)
    return np.array(
        [
            colorsys.hls_to_rgb(p / (2 * np.pi) % 1.0, 0.5 + 0.28 * np.cos(t), 0.25 + 0.7 * np.sin(t))
            for t, p in zip(theta, phi, strict=True)
        ]
    )


def viewing_map(height: int = 91) -> np.ndarray:
    """Return an RGB image (height, 2·height, 3) of the colored sphere, theta (0 to 180°) by phi (0 to 360°)."""
    import healpy

    theta = np.linspace(0.0, np.pi, height)[:, None]
    phi = np.linspace(0.0, 2 * np.pi, 2 * height, endpoint=False)[None, :]
    return viewing_colors()[healpy.ang2pix(GROUP_NSIDE, *np.broadcast_arrays(theta, phi), nest=True)]


def spread_labels(anchors: np.ndarray, distance: float, iterations: int = 200) -> np.ndarray:
    """Move labels away from each other until their centers are at least `distance` apart.

    Parameters
    ----------
    anchors
        Initial positions of the labels, shape (K, 2), in the unit of `distance` (for example points on the page).
    distance
        Minimum distance between the centers of two labels.
    iterations
        Maximum number of iterations of pairwise repulsion; stops early when no pair is too close.

    Returns
    -------
    numpy.ndarray
        Centers of the labels, shape (K, 2). Labels without overlap stay exactly at their anchor.
    """
    positions = np.array(anchors, dtype=np.float64)
    count = len(positions)
    if count < 2:
        return positions
    # Coincident labels have no direction of repulsion, so each label gets a different default direction.
    angles = np.arange(count) * 2.399963
    unit_vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    default_direction = unit_vectors[:, None] - unit_vectors[None, :]
    default_direction /= np.linalg.norm(default_direction, axis=-1, keepdims=True) + np.eye(count)[..., None]
    for _ in range(iterations):
        offset = positions[:, None] - positions[None, :]
        separation = np.linalg.norm(offset, axis=-1)
        np.fill_diagonal(separation, np.inf)
        overlap = distance - separation
        if overlap.max() <= 1e-3 * distance:
            break
        direction = offset / np.maximum(separation, 1e-12)[..., None]
        direction = np.where(separation[..., None] > 1e-6 * distance, direction, default_direction)
        positions += 0.5 * (np.clip(overlap, 0.0, None)[..., None] * direction).sum(axis=1)
    return positions


def style_axes(axes: Axes) -> None:
    """Draw small, pale tick labels and only the left and lower lines of the frame."""
    axes.tick_params(labelsize=8, colors=PALE)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("0.7")
