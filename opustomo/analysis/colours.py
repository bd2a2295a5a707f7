"""Colours of clusters and of viewing directions."""

from __future__ import annotations

import colorsys

import numpy as np

GROUP_NSIDE = 2  # HEALPix resolution of the 48 viewing groups


def cluster_colours(num_clusters: int) -> np.ndarray:
    """Distinct colours (K, 3): a qualitative map up to 20, beyond it hues a golden section apart.

    Neighbouring numbers are similar classes, so neighbours must not get similar colours.
    """
    import matplotlib

    pairs = np.asarray(matplotlib.colormaps["tab20"].colors)  # type: ignore[attr-defined]
    qualitative = np.concatenate([pairs[0::2], pairs[1::2]])
    if num_clusters <= len(qualitative):
        return qualitative[:num_clusters]
    golden = 0.618034
    return np.array(
        [colorsys.hls_to_rgb(i * golden % 1.0, (0.38, 0.52, 0.66)[i % 3], 0.75) for i in range(num_clusters)]
    )


def viewing_colours() -> np.ndarray:
    """Colours (48, 3) of the viewing groups: hue follows phi, lightness theta; similar views look similar."""
    import healpy

    theta, phi = healpy.pix2ang(GROUP_NSIDE, np.arange(12 * GROUP_NSIDE**2), nest=True)
    return np.array(
        [
            colorsys.hls_to_rgb(p / (2 * np.pi) % 1.0, 0.5 + 0.28 * np.cos(t), 0.25 + 0.7 * np.sin(t))
            for t, p in zip(theta, phi, strict=True)
        ]
    )


def viewing_map(height: int = 91) -> np.ndarray:
    """Picture (height, 2·height, 3) of the coloured sphere: theta 0 … 180° down, phi 0 … 360° across."""
    import healpy

    theta = np.linspace(0.0, np.pi, height)[:, None]
    phi = np.linspace(0.0, 2 * np.pi, 2 * height, endpoint=False)[None, :]
    return viewing_colours()[healpy.ang2pix(GROUP_NSIDE, *np.broadcast_arrays(theta, phi), nest=True)]
