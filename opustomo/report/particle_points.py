"""Per-particle data of the report: coordinates, categories and scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.colors import to_hex

from opustomo.analysis.figures.figure_style import QUALITATIVE, UNASSIGNED_COLOR, cluster_colors, viewing_colors
from opustomo.errors import UserError
from opustomo.geometry.viewing import viewing_groups
from opustomo.io.star_tables import ParticleStar
from opustomo.io.tomograms import coordinates_of, scores_of, tomograms_of

MOST_COMPONENTS = 6
PART_COLORS = ("#8794a5", "#2f3b49")
"""Colors of training and held-out particles: shades of slate, because hues denote clusters."""


@dataclass(frozen=True)
class Analyzed:
    """Results of an analysis, read from its files.

    Attributes
    ----------
    indices, total
        Rows of the analyzed particles, (n,), and number of particles of the run.
    scores, variance_ratio
        Principal component scores, (n, d), and fraction of variance of each component, (d,).
    embedding
        UMAP embedding, (n, 2), or None.
    labels, centres
        Cluster of each particle, (n,), and representative particle of each cluster, (K,), as index into `indices`.
    eulers_deg
        Euler angles rot, tilt, psi in degrees, (n, 3).
    held_out
        Whether each particle was held out from training, (n,); None if unknown.
    conformation, conformation_embedding
        Principal component scores and UMAP embedding of the conformation latents, (n, c) and (n, 2); None if the run
        has none or they have not been analyzed.
    """

    indices: np.ndarray
    total: int
    scores: np.ndarray
    variance_ratio: np.ndarray
    embedding: np.ndarray | None
    labels: np.ndarray
    centers: np.ndarray
    eulers_deg: np.ndarray
    held_out: np.ndarray | None
    conformation: np.ndarray | None = None
    conformation_embedding: np.ndarray | None = None

    @property
    def num_clusters(self) -> int:
        """Number of clusters, K."""
        return len(self.centers)


def describe_points(analyzed: Analyzed, star: ParticleStar | None) -> dict[str, Any]:
    """Return the columns, planes, categories and scores of the particles.

    Parameters
    ----------
    analysed
        Results of the analysis.
    star
        Particle table with only the rows ``analyzed.indices``; None if it is not available.
    """
    columns: dict[str, np.ndarray] = {}
    planes = []
    if analyzed.embedding is not None:
        columns |= {f"umap{axis}": analyzed.embedding[:, axis] for axis in (0, 1)}
        planes.append(_plane("UMAP", "umap0", "umap1", "UMAP 1", "UMAP 2", equal=True, ticks=False))
    shown = min(MOST_COMPONENTS, analyzed.scores.shape[1])
    names = [f"PC{i + 1} ({100 * analyzed.variance_ratio[i]:.1f} % of variance)" for i in range(shown)]
    columns |= {f"pc{i}": analyzed.scores[:, i] for i in range(shown)}
    if shown == 1:
        columns["height"] = np.random.default_rng(0).uniform(-1, 1, len(analyzed.scores))
        planes.append(_plane("PC1", "pc0", "height", names[0], "random jitter", equal=False, ticks=True))
    for first in range(shown):
        for second in range(first + 1, shown):
            if second == first + 1 or first == 0:
                title = f"PC{first + 1}, PC{second + 1}"
                pair = (f"pc{first}", f"pc{second}", names[first], names[second])
                planes.append(_plane(title, *pair, equal=False, ticks=True))
    planes += _conformation_planes(analyzed, columns)
    categories, coordinates = _categories(analyzed, star), None
    scores: list[dict[str, str]] = []
    if star is not None:
        measured = scores_of(star)
        columns |= measured
        scores = [{"name": name.removeprefix("rln"), "column": name} for name in measured]
        try:
            positions = coordinates_of(star)
        except UserError:  # some particles have no coordinates, so the tomograms are omitted
            positions = None
        if positions is not None and any(category["name"] == "tomogram" for category in categories):
            unit = "Å" if "rlnCenteredCoordinateXAngst" in star and "rlnCoordinateX" not in star else "px"
            coordinates = {axis: positions[:, i] for i, axis in enumerate("xyz")} | {"unit": unit}
    scores += [{"name": f"PC{i + 1} score", "column": f"pc{i}"} for i in range(shown)]
    all_particles = np.array_equal(analyzed.indices, np.arange(analyzed.total))
    return {
        "count": len(analyzed.indices),
        "total": analyzed.total,
        "index": None if all_particles else analyzed.indices,
        "columns": columns,
        "planes": planes,
        "categories": categories,
        "scores": scores,
        "centres": analyzed.centers,
        "coordinates": coordinates,
    }


def _conformation_planes(analyzed: Analyzed, columns: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Add the conformation latents to `columns` and return their planes."""
    planes = []
    if analyzed.conformation_embedding is not None:
        columns |= {f"conf_umap{axis}": analyzed.conformation_embedding[:, axis] for axis in (0, 1)}
        names = ("conformation UMAP 1", "conformation UMAP 2")
        planes.append(_plane("conformation UMAP", "conf_umap0", "conf_umap1", *names, equal=True, ticks=False))
    if analyzed.conformation is not None and analyzed.conformation.shape[1] > 1:
        columns |= {f"conf{axis}": analyzed.conformation[:, axis] for axis in (0, 1)}
        names = ("conformation PC1", "conformation PC2")
        planes.append(_plane("conformation PC1, PC2", "conf0", "conf1", *names, equal=False, ticks=True))
    return planes


def _plane(name: str, x: str, y: str, x_label: str, y_label: str, *, equal: bool, ticks: bool) -> dict[str, Any]:
    return {"name": name, "x": x, "y": y, "x_label": x_label, "y_label": y_label, "equal": equal, "ticks": ticks}


def _categories(analyzed: Analyzed, star: ParticleStar | None) -> list[dict[str, Any]]:
    """Return the categories of the particles: clusters, tomograms, viewing directions and the training split."""
    import healpy

    clusters = [to_hex(color) for color in cluster_colors(analyzed.num_clusters)]
    names = [f"cluster {i}" for i in range(len(clusters))]
    if (analyzed.labels == len(clusters)).any():
        names, clusters = [*names, "no cluster"], [*clusters, to_hex(UNASSIGNED_COLOR)]
    categories = [_category("cluster", analyzed.labels, names, clusters)]
    tomograms = None if star is None else tomograms_of(star)
    if tomograms is not None:
        categories.append(_category("tomogram", tomograms.index, tomograms.names, many_colors(len(tomograms))))
    theta, phi = (np.degrees(angle) for angle in healpy.pix2ang(2, np.arange(48), nest=True))
    directions = [f"direction {i}: θ {t:.0f}°, φ {p:.0f}°" for i, (t, p) in enumerate(zip(theta, phi, strict=True))]
    groups = viewing_groups(analyzed.eulers_deg)
    categories.append(_category("viewing direction", groups, directions, [to_hex(color) for color in viewing_colors()]))
    if analyzed.held_out is not None:
        parts, colors = ["training", "held out"], list(PART_COLORS)
        categories.append(_category("training or held out", analyzed.held_out.astype(np.int64), parts, colors))
    return categories


def many_colors(count: int) -> list[str]:
    """Return any number of colors such that consecutive colors differ."""
    if count <= len(QUALITATIVE):
        return list(QUALITATIVE[:count])
    return [to_hex(color) for color in cluster_colors(count)]


def _category(name: str, codes: np.ndarray, labels: list[str], colors: list[str]) -> dict[str, Any]:
    # A uniform integer type ensures that `pack` stores all codes as uint16.
    return {"name": name, "codes": codes.astype(np.int64), "labels": labels, "colours": colors}
